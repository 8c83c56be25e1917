// SPDX-License-Identifier: Apache-2.0
// backend/cuda: ChunkForward and ChunkBackward on a device.
//
//   std::size_t bytes = kla::ChunkForwardWorkspaceBytes<kla::Cuda, Head>(args);
//   kla::ChunkForward<kla::Cuda, Head>(args, kla::CudaExecutor{.stream = stream,
//       .workspace = memory, .workspace_bytes = bytes});
//
// Views and states point into device memory. cu_seqlens lies in the caller's host memory, where the
// arguments are checked; it reaches the device as kernel arguments, so the call returns at once,
// the list may be freed then, and a captured graph keeps its values.
#ifndef KLA_BACKEND_CUDA_CHUNK_CUH_
#define KLA_BACKEND_CUDA_CHUNK_CUH_

#include "kla/backend/cuda/chunk/launch.cuh"
#include "kla/backend/cuda/chunk/run.h"
#include "kla/backend/cuda/cuda.h"
#include "kla/backend/cuda/executor.cuh"
#include "kla/core/kernel.h"

namespace kla {

// Cuda with one more 16-bit term in the factors of products: float32 results to its roundoff, bf16
// and fp16 inputs with intermediates to 2^-17. Products cost twice (float32) or three times as
// much.
struct CudaAccurate {
  static constexpr std::string_view kName = "CudaAccurate";
  static constexpr std::string_view kInstructionSet = "sm_80";
};

// 16-bit terms of the factors of products (backend/cuda/tile/layout.h). Cuda: one for bf16 and fp16
// inputs, two ("3xBF16", 2^-17) for float32.
template <class Backend, class T>
inline constexpr int kOperandTerms = (std::is_same_v<T, float> ? 2 : 1) +
                                     (std::is_same_v<Backend, CudaAccurate> ? 1 : 0);

template <class Backend>
concept ChunkBackend = std::is_same_v<Backend, Cuda> || std::is_same_v<Backend, CudaAccurate>;

namespace internal::device {

template <class Backend, class Shape, class StepSize, class T, class State>
struct ChunkConfigOf {
  static_assert(!std::is_same_v<T, double>, "kla: Cuda takes float, bfloat16 and float16 inputs");
  using Type = ChunkConfig<StepSize, T, State, Shape, kOperandTerms<Backend, T>>;
};

}  // namespace internal::device

// Bytes of workspace that a call with these arguments needs on the current device; nothing is read
// through the pointers.
template <class Backend, class Shape, class StepSize = Kla, class T, class State>
std::size_t ChunkForwardWorkspaceBytes(const ChunkForwardArgs<T, State>& args) {
  return internal::device::ForwardBytes<
      typename internal::device::ChunkConfigOf<Backend, Shape, StepSize, T, State>::Type>(
      args, internal::device::CurrentCard());
}
template <class Backend, class Shape, class StepSize = Kla, class T, class State>
std::size_t ChunkBackwardWorkspaceBytes(const ChunkBackwardArgs<T, State>& args) {
  return internal::device::BackwardBytes<
      typename internal::device::ChunkConfigOf<Backend, Shape, StepSize, T, State>::Type,
      internal::device::TileLauncher::Limits>(args, internal::device::CurrentCard());
}

template <class StepSize, class T, class State, ChunkBackend Backend, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, Backend, Shape> {
  template <class Exec>
  static void Run(const ChunkForwardArgs<T, State>& args, const Exec& executor) {
    using C = typename internal::device::ChunkConfigOf<Backend, Shape, StepSize, T, State>::Type;
    const CudaExecutor on = internal::device::ExecutorOf(executor);
    internal::device::RunChunkForward<C>(args, internal::device::TileLauncher{on.stream},
                                         on.workspace, on.workspace_bytes);
  }
};

template <class StepSize, class T, class State, ChunkBackend Backend, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, Backend, Shape> {
  template <class Exec>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Exec& executor) {
    using C = typename internal::device::ChunkConfigOf<Backend, Shape, StepSize, T, State>::Type;
    const CudaExecutor on = internal::device::ExecutorOf(executor);
    internal::device::RunChunkBackward<C>(args, internal::device::TileLauncher{on.stream},
                                          on.workspace, on.workspace_bytes);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_CHUNK_CUH_
