// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: LayerStep, everything of a decoding KLA layer between its projections in a
// single launch: at small batch, launches are what a user waits for. From the arguments of the
// operation to launches of its body (step_kernel.h).
#ifndef KLA_BACKEND_CUDA_LAYER_STEP_H_
#define KLA_BACKEND_CUDA_LAYER_STEP_H_

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/layer/state.h"
#include "kla/backend/cuda/layer/step_kernel.h"
#include "kla/core/heads.h"
#include "kla/op/layer_step.h"

namespace kla::internal::device {

// LayerStep on a pool, its arguments checked by the operation.
template <class StepSize, class Platform, class Shape, class T, class State, class Launcher>
void RunLayerStep(const LayerStepArgs<T>& args, PooledLayerState<Platform, Shape, T, State>& state,
                  const Launcher& launcher) {
  const Index count = args.projected.extents()[0];
  const double scale = args.scale.value_or(1.0 / std::sqrt(static_cast<double>(Shape::kKeyDim)));
  const LayerStepInputs<T> inputs = {
      .projected = args.projected.data(),
      .o = args.o.data(),
      .projected_stride = args.projected.strides()[0],
      .o_stride = args.o.strides()[0],
      .conv = args.conv,
      .a_log = args.a_log,
      .dt_bias = args.dt_bias,
      .step_bias = args.step_bias,
      .norm = args.norm,
      .windows = state.windows(),
      .positions = state.positions(),
      .groups = HeadGroups<std::int32_t>::Of(static_cast<std::int32_t>(state.sizes().key_heads),
                                             static_cast<std::int32_t>(state.sizes().value_heads),
                                             args.grouping),
      .scale = static_cast<float>(scale),
      .norm_epsilon = static_cast<float>(args.norm_epsilon),
      .epsilon = args.epsilon};
  ForEachRun(args.slots, {}, 1, count, [&](const auto& sequences, Index run) {
    using Sequences = std::remove_cvref_t<decltype(sequences)>;
    constexpr bool kOverlaps = requires { Launcher::kOverlaps; };
    // Where there are blocks for all multiprocessors, two at a time hide each other's waiting.
    const auto launch = [&](auto threads) {
      using Body = LayerStepBody<StepSize, Shape::kKeyDim, Shape::kValueDim, Sequences, T, State,
                                 kOverlaps, decltype(threads)::value>;
      launcher.Launch("LayerStep", Body{inputs, state.recurrent().view(), sequences},
                      run * state.sizes().value_heads);
    };
    if (!kOverlaps && run * state.sizes().value_heads >= 2 * Index{launcher.Multiprocessors()}) {
      launch(std::integral_constant<int, 256>{});
    } else {
      launch(std::integral_constant<int, 512>{});
    }
  });
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_STEP_H_
