// SPDX-License-Identifier: Apache-2.0
// backend/cuda/block: runs a kernel body (block.h) on a stream. Every launch is checked here.
#ifndef KLA_BACKEND_CUDA_BLOCK_LAUNCH_CUH_
#define KLA_BACKEND_CUDA_BLOCK_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <limits>
#include <string>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/runtime/status.cuh"
#include "kla/core/check.h"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// Blocks for each multiprocessor, among which its registers are divided. kBlocksPerSm is what the
// compiler for sm_90 fits without spilling; those for other processors need more registers for some
// shapes (tests/build/cuda_kernels.sh).
template <class Body>
constexpr int ResidentBlocks() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
  constexpr int kFewer = 0;
#elif __CUDA_ARCH__ < 900
  constexpr int kFewer = requires { requires Body::kStepsBesidePending; }
  ? 2 : 1;
#else
  constexpr int kFewer = 2;
#endif
  return Body::kBlocksPerSm > kFewer ? Body::kBlocksPerSm - kFewer : 1;
}

// One thread block of a body: Body is a trivially copyable function object with
//   static constexpr int kThreads;   struct Shared;
//   template <class Block> void operator()(const Block&, Shared&, std::uint32_t block_index) const;
template <class Body>
__global__ void __launch_bounds__(Body::kThreads, ResidentBlocks<Body>())
    RunBody(const __grid_constant__ Body body) {
  __shared__ typename Body::Shared shared;
  body(DeviceBlock<Body::kThreads>{}, shared, blockIdx.x);
}

// Queues `blocks` blocks. The stream's device must be the current one.
class DeviceLauncher {
 public:
  explicit DeviceLauncher(cudaStream_t stream) : stream_(stream) {}

  template <class Body>
  void Launch(const char* step, const Body& body, Index blocks) const {
    if (blocks == 0) return;
    KLA_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), step, "sizes",
              "at most 2^31 - 1 thread blocks; cut the batch", std::to_string(blocks));
    void* arguments[] = {const_cast<Body*>(&body)};
    cudaLaunchAttribute overlaps{};
    overlaps.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlaps.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(Body::kThreads);
    config.stream = stream_;
    config.attrs = &overlaps;
    config.numAttrs = overlaps_ && CanWait<Body>() ? 1 : 0;
    CheckCuda(
        cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(&RunBody<Body>), arguments),
        step);
  }

  // Multiprocessors of the current device.
  int Multiprocessors() const { return Attribute(cudaDevAttrMultiProcessorCount); }

 protected:
  DeviceLauncher(cudaStream_t stream, bool overlaps)
      : stream_(stream), overlaps_(overlaps && Attribute(cudaDevAttrComputeCapabilityMajor) >= 9) {}

 private:
  // Whether this kernel is code for compute capability 9 or above, which waits for the kernel ahead
  // where it must. That of a lower one, which such a card runs as well, does not.
  template <class Body>
  static bool CanWait() {
    static const bool can_wait = [] {
      cudaFuncAttributes attributes{};
      CheckCuda(cudaFuncGetAttributes(&attributes, RunBody<Body>), "cudaFuncGetAttributes");
      return attributes.ptxVersion >= 90;
    }();
    return can_wait;
  }
  static int Attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
    CheckCuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
    return value;
  }

  cudaStream_t stream_;
  bool overlaps_ = false;
};

// Queues kernels that may begin before the one queued ahead of them has ended (programmatic
// dependent launch): for a body that calls WaitForPrevious, and before that reads only what was
// written before the kernel ahead began.
class OverlappingLauncher : public DeviceLauncher {
 public:
  static constexpr bool kOverlaps = true;
  explicit OverlappingLauncher(cudaStream_t stream) : DeviceLauncher(stream, true) {}
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_BLOCK_LAUNCH_CUH_
