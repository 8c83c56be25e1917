// SPDX-License-Identifier: Apache-2.0
// backend/cuda: DecodeStep and DecodeState on a device.
//
//   DecodeState<Cuda, Shape<128, 128>> state(slots, value_heads);
//   DecodeStep<Cuda, Shape<128, 128>>(DecodeStepArgs<float>{.q = q, ...}, state,
//                                     CudaExecutor{.stream = stream});
//
// One launch for up to 256 sequences whose slots or offsets are listed in host memory, or for any
// number without such lists or with lists in device memory (IndexList::OnDevice). No workspace.
#ifndef KLA_BACKEND_CUDA_DECODE_STEP_CUH_
#define KLA_BACKEND_CUDA_DECODE_STEP_CUH_

#include "kla/backend/cuda/block/launch.cuh"
#include "kla/backend/cuda/cuda.h"
#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/decode/state.h"
#include "kla/backend/cuda/executor.cuh"
#include "kla/backend/cuda/runtime/device_memory.cuh"
#include "kla/core/kernel.h"
#include "kla/op/decode_step.h"

namespace kla {

namespace internal::device {

// What PooledState needs of CUDA.
struct DevicePlatform {
  using Executor = CudaExecutor;
  template <class T>
  using Memory = DeviceMemory<T>;

  static cudaStream_t Queue(const Executor& executor) { return executor.stream; }
  static DeviceLauncher MakeLauncher(const Executor& executor) {
    return DeviceLauncher(executor.stream);
  }
  template <class T>
  static void CopyAndWait(const T* from, T* to, Index count, const Executor& executor) {
    internal::device::CopyAndWait(from, to, count, executor.stream);
  }
  static bool IsDevicePointer(const void* pointer) {
    return internal::device::IsDevicePointer(pointer);
  }
};

}  // namespace internal::device

template <HeadShape Shape, class State>
class DecodeState<Cuda, Shape, State>
    : public internal::device::PooledState<internal::device::DevicePlatform, Shape, State, 0> {
  using internal::device::PooledState<internal::device::DevicePlatform, Shape, State,
                                      0>::PooledState;
};

template <int kTokens, HeadShape Shape, class State>
class DecodeState<CudaDeferred<kTokens>, Shape, State>
    : public internal::device::PooledState<internal::device::DevicePlatform, Shape, State,
                                           kTokens> {
  using internal::device::PooledState<internal::device::DevicePlatform, Shape, State,
                                      kTokens>::PooledState;
};

template <class StepSize, class T, class State, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, Cuda, Shape> {
  template <class Exec>
  static void Run(const DecodeStepArgs<T>& args, DecodeState<Cuda, Shape, State>& state,
                  const Exec& executor) {
    internal::device::RunDecodeStep<Shape, StepSize, false>(
        args, state.view(),
        internal::device::DeviceLauncher(internal::device::ExecutorOf(executor).stream));
  }
};

template <class StepSize, class T, class State, class Shape, int kTokens>
struct Kernel<DecodeStepOp<StepSize, T, State>, CudaDeferred<kTokens>, Shape> {
  template <class Exec>
  static void Run(const DecodeStepArgs<T>& args,
                  DecodeState<CudaDeferred<kTokens>, Shape, State>& state, const Exec& executor) {
    internal::device::RunDecodeStep<Shape, StepSize, true>(
        args, state.view(),
        internal::device::DeviceLauncher(internal::device::ExecutorOf(executor).stream));
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_DECODE_STEP_CUH_
