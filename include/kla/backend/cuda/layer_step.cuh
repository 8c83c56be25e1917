// SPDX-License-Identifier: Apache-2.0
// backend/cuda: LayerStep on a device.
//
//   LayerStepState<Cuda, Shape<96, 192>, bfloat16> state(slots, /*key_heads=*/12,
//                                                        /*value_heads=*/12);
//   for each token:
//     projected = x W_in^T                                               (a GEMM of your own)
//     LayerStep<Cuda, Shape<96, 192>>({.projected = ..., .o = z, ...}, state, {.stream = stream});
//     y = z W_out^T                                                      (a GEMM of your own)
//
// One launch, no workspace, capturable; the same function as KlaLayer::Step between its
// projections.
#ifndef KLA_BACKEND_CUDA_LAYER_STEP_CUH_
#define KLA_BACKEND_CUDA_LAYER_STEP_CUH_

#include <type_traits>

#include "kla/backend/cuda/decode_step.cuh"
#include "kla/backend/cuda/layer/step.h"

namespace kla {

template <class Backend, HeadShape Shape, class T, class State = float>
requires(std::is_same_v<Backend, Cuda>) using LayerStepState =
    internal::device::PooledLayerState<internal::device::DevicePlatform, Shape, T, State>;

// Throws std::invalid_argument, before anything is queued, for a null, misaligned or wrongly shaped
// argument, an output that overlaps the input, or a slot that is out of range or named twice.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T, class State>
requires(std::is_same_v<Backend, Cuda>) void LayerStep(
    const LayerStepArgs<T>& args,
    internal::device::PooledLayerState<internal::device::DevicePlatform, Shape, T, State>& state,
    const CudaExecutor& executor = {}) {
  internal::device::RunLayerStep<internal::device::DevicePlatform, Shape, StepSize>(
      args, state, internal::device::DeviceLauncher(executor.stream));
}

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_LAYER_STEP_CUH_
