// SPDX-License-Identifier: Apache-2.0
// backend/cuda: runs the bodies of the chunk kernels on a stream. Every launch is checked here.
#ifndef KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_
#define KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <limits>
#include <string>

#include "kla/backend/cuda/status.cuh"
#include "kla/backend/cuda/tile.h"
#include "kla/core/check.h"

namespace kla::device {

template <class Body>
__global__ void __launch_bounds__(Body::kThreads, Body::kBlocksPerSm)
    RunTileBody(const __grid_constant__ Body body) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const tile::Block<Body::kGroups> block;
  body(block, *reinterpret_cast<typename Body::Shared*>(memory));
}

// Queues the blocks of a body on a stream of the current device.
struct TileLauncher {
  cudaStream_t stream;

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

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_LAUNCH_CUH_
