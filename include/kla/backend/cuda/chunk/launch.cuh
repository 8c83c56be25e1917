// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: runs the bodies of the chunk kernels on a stream. Every launch is checked
// here.
#ifndef KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_
#define KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <limits>
#include <string>
#include <type_traits>

#include "kla/backend/cuda/chunk/run.h"
#include "kla/backend/cuda/runtime/status.cuh"
#include "kla/backend/cuda/tile/tile.h"
#include "kla/core/check.h"

namespace kla::internal::device {

// Blocks for each multiprocessor, among which its registers are divided: one less where products
// take their right factor from registers.
template <class Body>
constexpr int ResidentTileBlocks() {
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  return Body::kBlocksPerSm > 1 ? Body::kBlocksPerSm - 1 : 1;
#else
  return Body::kBlocksPerSm;
#endif
}

template <class Body>
__global__ void __launch_bounds__(Body::kThreads, ResidentTileBlocks<Body>())
    RunTileBody(const __grid_constant__ Body body) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const tile::Block<Body::kGroups> block;
  body(block, *reinterpret_cast<typename Body::Shared*>(memory));
}

// Tells the host which code the device runs: wgmma is in code for sm_90a alone.
constexpr int MarkThreads() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  return 64;
#else
  return 32;
#endif
}
template <int = 0>
__global__ void __launch_bounds__(MarkThreads()) Mark() {}

// The current device.
inline Card CurrentCard() {
  int device = 0;
  Card card{};
  CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  CheckCuda(cudaDeviceGetAttribute(&card.processors, cudaDevAttrMultiProcessorCount, device),
            "cudaDeviceGetAttribute");
  CheckCuda(
      cudaDeviceGetAttribute(&card.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      "cudaDeviceGetAttribute");
  cudaFuncAttributes mark;
  CheckCuda(cudaFuncGetAttributes(&mark, reinterpret_cast<const void*>(&Mark<>)),
            "cudaFuncGetAttributes");
  card.fuse = mark.maxThreadsPerBlock == 64 ? Card::Fuse::kWhereFaster : Card::Fuse::kNever;
  return card;
}

// The limits of shared memory of the architectures that are compiled for, the largest first:
// kernels are compiled for these.
template <int... kLimits>
struct LimitList {
  template <bool kKeep, int kLimit>
  using With = std::conditional_t<kKeep, LimitList<kLimits..., kLimit>, LimitList>;
  using Type = SharedLimits<kLimits...>;
};
constexpr int SharedLimitOf(int architecture) {  // 900 for compute capability 9.0
  if (architecture >= 900 && architecture < 1200) return kSharedOf90;
  return architecture == 800 || architecture == 870 ? kSharedOf80 : kSharedOf86;
}
#if defined(__CUDA_ARCH_LIST__)
template <int... kArchitectures>
constexpr bool AnyHas(int limit) {
  return (... || (SharedLimitOf(kArchitectures) == limit));
}
template <int kLimit>
inline constexpr bool kCompiled = AnyHas<__CUDA_ARCH_LIST__>(kLimit);
template <int... kArchitectures>
constexpr bool AnyIsHopper() {
  return (... || (kArchitectures >= 900 && kArchitectures < 1000));
}
inline constexpr bool kCompiledForHopper = AnyIsHopper<__CUDA_ARCH_LIST__>();
#else
template <int kLimit>
inline constexpr bool kCompiled = true;
inline constexpr bool kCompiledForHopper = true;
#endif
using CompiledLimits = LimitList<>::With<kCompiled<kSharedOf90>, kSharedOf90>::With<
    kCompiled<kSharedOf80>, kSharedOf80>::With<kCompiled<kSharedOf86>, kSharedOf86>::Type;

// Queues the blocks of a body on a stream of the current device.
struct TileLauncher {
  using Limits = CompiledLimits;
  static constexpr bool kMayFuse = kCompiledForHopper;  // ForwardFused is made for it alone
  cudaStream_t stream;

  Card card() const { return CurrentCard(); }

  template <class Body>
  void Launch(const char* step, const Body& body, Index blocks) const {
    if (blocks == 0) return;
    KLA_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), step, "sizes",
              "at most 2^31 - 1 thread blocks; cut the batch", std::to_string(blocks));
    const auto* kernel = reinterpret_cast<const void*>(&RunTileBody<Body>);
    constexpr int kBytes = static_cast<int>(sizeof(typename Body::Shared));
    if constexpr (kBytes > 48 * 1024) {
      CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                step);
    }
    void* arguments[] = {const_cast<Body*>(&body)};
    CheckCuda(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Body::kThreads),
                               arguments, kBytes, stream),
              step);
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_
