// SPDX-License-Identifier: Apache-2.0
// backend/cuda: LayerStep on a device.
//
//   LayerState<Cuda, Shape<96, 192>, bfloat16> state(slots, /*key_heads=*/12, /*value_heads=*/12);
//   for each token:
//     projected = x W_in^T                                               (a GEMM of your own)
//     LayerStep<Cuda, Shape<96, 192>>({.projected = ..., .o = z, ...}, state, {.stream = stream});
//     y = z W_out^T                                                      (a GEMM of your own)
//
// One launch, no workspace, capturable; the same function as KlaLayer::Step between its
// projections.
#ifndef KLA_BACKEND_CUDA_LAYER_STEP_CUH_
#define KLA_BACKEND_CUDA_LAYER_STEP_CUH_

#include "kla/backend/cuda/decode_step.cuh"
#include "kla/backend/cuda/layer/state.h"
#include "kla/backend/cuda/layer/step.h"
#include "kla/core/kernel.h"
#include "kla/op/layer_step.h"

namespace kla {

template <HeadShape Shape, class T, class State>
class LayerState<Cuda, Shape, T, State>
    : public internal::device::PooledLayerState<internal::device::DevicePlatform, Shape, T, State> {
  using internal::device::PooledLayerState<internal::device::DevicePlatform, Shape, T,
                                           State>::PooledLayerState;
};

template <class StepSize, class T, class State, class Shape>
struct Kernel<LayerStepOp<StepSize, T, State>, Cuda, Shape> {
  template <class Exec>
  static void Run(const LayerStepArgs<T>& args, LayerState<Cuda, Shape, T, State>& state,
                  const Exec& executor) {
    internal::device::RunLayerStep<StepSize>(
        args, state,
        internal::device::DeviceLauncher(internal::device::ExecutorOf(executor).stream));
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_LAYER_STEP_CUH_
