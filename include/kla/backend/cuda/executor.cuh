// SPDX-License-Identifier: Apache-2.0
// backend/cuda: where an operation is queued, and the scratch memory that it may use.
#ifndef KLA_BACKEND_CUDA_EXECUTOR_CUH_
#define KLA_BACKEND_CUDA_EXECUTOR_CUH_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>

#include "kla/core/executor.h"

namespace kla {

// Operations of the backend Cuda queue their kernels on the caller's stream and return. They
// allocate nothing and wait for nothing, so they can be captured in a graph. Those that need
// scratch memory say how much (WorkspaceBytes of the operation) and take it from here.
//   ChunkForward<Cuda, Head>(args, CudaExecutor{.stream = stream, .workspace = p, ...});
// Left out, an operation runs on the default stream, without workspace.
struct CudaExecutor {
  cudaStream_t stream = nullptr;
  // Device memory, aligned to 256 bytes, used until the stream has passed the operation.
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;

  // The concept Executor: what an operation does on the host runs on the calling thread.
  template <class F>
  void ParallelFor(Index count, const F& task) const {
    Serial{}.ParallelFor(count, task);
  }
  Index Concurrency() const { return 1; }
};

namespace internal::device {

// The executor of a call: the caller's, or the default stream for Serial, the operations' default.
template <class Exec>
CudaExecutor ExecutorOf(const Exec& executor) {
  static_assert(std::is_same_v<Exec, CudaExecutor> || std::is_same_v<Exec, Serial>,
                "kla: operations of the backend Cuda run on a stream; pass a CudaExecutor");
  if constexpr (std::is_same_v<Exec, CudaExecutor>) {
    return executor;
  } else {
    return {};
  }
}

}  // namespace internal::device
}  // namespace kla

#endif  // KLA_BACKEND_CUDA_EXECUTOR_CUH_
