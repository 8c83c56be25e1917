// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: LayerStep, everything of a decoding KLA layer between its projections in a
// single launch: at small batch, launches are what a user waits for. LayerStep itself is in
// layer_step.cuh; this file holds its arguments, its state, and what does not depend on CUDA.
#ifndef KLA_BACKEND_CUDA_LAYER_STEP_H_
#define KLA_BACKEND_CUDA_LAYER_STEP_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/decode/state.h"
#include "kla/backend/cuda/layer/step_kernel.h"
#include "kla/core/check.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/memory_region.h"

namespace kla {

// One row a sequence: [N, columns].
template <class T>
using RowView = View<T, Extent<Sequence>, Extent<Model>>;

// One token of each of N sequences, in device memory. The rows of `projected` are those that
// KlaLayer's input projection makes: [ q | k | v | gate | a | b ], of widths
// H K, H K, HV V, HV V, HV, HV. The weights are KlaParameters' of the same names, as float.
template <class T>
struct LayerStepArgs {
  RowView<const T> projected;        // [N, 2 H K + 2 HV V + 2 HV]
  RowView<T> o;                      // [N, HV V], written: what the output projection takes
  const float* conv = nullptr;       // q_conv1d, k_conv1d, v_conv1d: [2 H K + HV V, 4], 16-byte
                                     // aligned; the last tap meets the current token
  const float* a_log = nullptr;      // [HV]
  const float* dt_bias = nullptr;    // [HV]
  const float* step_bias = nullptr;  // b_proj.bias [HV]
  const float* norm = nullptr;       // o_norm.weight [V]

  IndexList slots = {};              // [N], as in DecodeStep; -1 skips a sequence
  std::optional<double> scale = {};  // K^(-1/2) if left out
  double epsilon = 1e-6;
  double norm_epsilon = 1e-5;
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

namespace internal::device {

// What sequences carry from token to token: recurrent states, and the last three inputs of the
// convolution. Zero at first, the start of a sequence.
template <class Platform, HeadShape Shape, class T, class State>
class PooledLayerState {
  static_assert(Shape::kKeyDim != kDynamic && Shape::kValueDim != kDynamic,
                "kla: LayerStep is compiled for the dimensions of a head; use Dispatch "
                "(core/dispatch.h) where they are known at run time only");
  static_assert(kIsStored<T>, "kla: LayerStep takes float, bfloat16 and float16");

 public:
  using Recurrent = PooledState<Platform, Shape, State, 0>;
  using Executor = typename Platform::Executor;

  PooledLayerState(Index slots, Index key_heads, Index value_heads)
      : key_heads_(key_heads),
        recurrent_(slots, value_heads),
        windows_(slots * kWindowRows * conv_channels()),
        positions_(slots * value_heads) {
    KLA_CHECK(key_heads >= 1 && value_heads % key_heads == 0, "LayerStepState", "key_heads",
              "a divisor of value_heads = " + std::to_string(value_heads),
              std::to_string(key_heads));
    Reset();
  }

  Index slots() const { return recurrent_.slots(); }
  Index key_heads() const { return key_heads_; }
  Index value_heads() const { return recurrent_.value_heads(); }
  Index conv_channels() const {
    return 2 * key_heads_ * Shape::kKeyDim + recurrent_.value_heads() * Shape::kValueDim;
  }

  // The recurrent states: Load, Store, CheckSlots. Load starts no sequence: see LoadWindow.
  Recurrent& recurrent() { return recurrent_; }
  const Recurrent& recurrent() const { return recurrent_; }

  void Reset(const Executor& executor = {}) {
    recurrent_.Reset(executor);
    windows_.Zero(0, windows_.size(), Platform::Queue(executor));
    positions_.Zero(0, positions_.size(), Platform::Queue(executor));
  }
  void Reset(Index slot, const Executor& executor = {}) {
    recurrent_.Reset(slot, executor);
    const Index window = kWindowRows * conv_channels();
    windows_.Zero(slot * window, window, Platform::Queue(executor));
    positions_.Zero(slot * value_heads(), value_heads(), Platform::Queue(executor));
  }

  // The window of a slot from and to host memory, [3, conv_channels], the oldest row first, as
  // KlaLayer's LayerState holds it. Both wait.
  void LoadWindow(Index slot, const T* rows, const Executor& executor = {}) {
    CheckSlot("LayerState::LoadWindow", slot);
    const Index channels = conv_channels();
    Platform::CopyAndWait(rows, windows_.data() + (slot * kWindowRows + 1) * channels, 3 * channels,
                          executor);
    positions_.Zero(slot * value_heads(), value_heads(), Platform::Queue(executor));
  }
  void StoreWindow(Index slot, T* rows, const Executor& executor = {}) const {
    CheckSlot("LayerState::StoreWindow", slot);
    const Index channels = conv_channels();
    std::int32_t position = 0;
    Platform::CopyAndWait(positions_.data() + slot * value_heads(), &position, 1, executor);
    for (int j = 0; j < 3; ++j) {
      const Index row = slot * kWindowRows + (position + 1 + j) % kWindowRows;
      Platform::CopyAndWait(windows_.data() + row * channels, rows + j * channels, channels,
                            executor);
    }
  }

  // Copies a slot, to fork a sequence at a shared prefix or to keep a checkpoint.
  void Copy(Index from, Index to, const Executor& executor = {}) {
    recurrent_.Copy(from, to, executor);
    const Index window = kWindowRows * conv_channels(), heads = value_heads();
    if (from == to) return;
    windows_.CopyWithin(from * window, to * window, window, Platform::Queue(executor));
    positions_.CopyWithin(from * heads, to * heads, heads, Platform::Queue(executor));
  }
  Index size_bytes() const {
    return recurrent_.size_bytes() + static_cast<Index>(windows_.Bytes() + positions_.Bytes());
  }

  // What the kernel takes.
  T* windows() const { return windows_.data(); }
  std::int32_t* positions() const { return positions_.data(); }

 private:
  void CheckSlot(const char* operation, Index slot) const {
    KLA_CHECK(slot >= 0 && slot < slots(), operation, "slot",
              "a slot below " + std::to_string(slots()), std::to_string(slot));
  }

  Index key_heads_;
  Recurrent recurrent_;
  typename Platform::template Memory<T> windows_;
  typename Platform::template Memory<std::int32_t> positions_;
};

template <class T, class StateT>
void CheckLayerStep(const LayerStepArgs<T>& args, const StateT& state, Index value_dim) {
  const auto rows = [&](const char* name, const auto& view, Index count, Index columns) {
    KLA_CHECK(view.extents()[0] == count && view.extents()[1] == columns, "LayerStep", name,
              "[N, columns] = [" + std::to_string(count) + ", " + std::to_string(columns) + "]",
              view.is_null() ? "a null view" : view.ShapeText());
    KLA_CHECK(!view.is_null() || count == 0, "LayerStep", name, "data", "a null pointer");
    CheckAligned("LayerStep", name, view.data());
  };
  const auto weight = [](const char* name, const float* pointer, std::uintptr_t alignment) {
    KLA_CHECK(pointer != nullptr, "LayerStep", name, "data", "a null pointer");
    KLA_CHECK(reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0, "LayerStep", name,
              "an address aligned to " + std::to_string(alignment) + " bytes", "another one");
  };
  const Index count = args.projected.extents()[0], values = state.value_heads() * value_dim;
  rows("projected", args.projected, count,
       state.conv_channels() + values + 2 * state.value_heads());
  rows("o", args.o, count, values);
  weight("conv", args.conv, 16);
  weight("a_log", args.a_log, alignof(float));
  weight("dt_bias", args.dt_bias, alignof(float));
  weight("step_bias", args.step_bias, alignof(float));
  weight("norm", args.norm, alignof(float));
  KLA_CHECK(std::isfinite(args.epsilon) && args.epsilon >= 0, "LayerStep", "epsilon",
            "a finite number >= 0", std::to_string(args.epsilon));
  KLA_CHECK(std::isfinite(args.norm_epsilon) && args.norm_epsilon > 0, "LayerStep", "norm_epsilon",
            "a finite number > 0", std::to_string(args.norm_epsilon));
  KLA_CHECK(!args.scale || std::isfinite(*args.scale), "LayerStep", "scale", "a finite number",
            std::to_string(args.scale.value_or(0)));
  const auto o = internal::RegionOf(args.o);
  KLA_CHECK(o.empty || o.ElementsAreDistinct(), "LayerStep", "o",
            "an output whose rows do not overlap each other", "overlapping rows");
  KLA_CHECK(!internal::MayOverlap(o, internal::RegionOf(args.projected)), "LayerStep", "o",
            "memory that does not overlap 'projected'", "overlapping arrays");
}

// LayerStep by a launcher.
template <class Platform, class Shape, class StepSize, class T, class State, class Launcher>
void RunLayerStep(const LayerStepArgs<T>& args, PooledLayerState<Platform, Shape, T, State>& state,
                  const Launcher& launcher) {
  CheckLayerStep(args, state, Shape::kValueDim);
  const Index count = args.projected.extents()[0];
  state.recurrent().CheckSlots("LayerStep", args.slots, count);
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
      .groups = HeadGroups<std::int32_t>::Of(static_cast<std::int32_t>(state.key_heads()),
                                             static_cast<std::int32_t>(state.value_heads()),
                                             args.grouping),
      .scale = static_cast<float>(scale),
      .norm_epsilon = static_cast<float>(args.norm_epsilon),
      .epsilon = args.epsilon};
  ForEachRun(args.slots, {}, 1, count, [&](const auto& sequences, Index run) {
    using Sequences = std::remove_cvref_t<decltype(sequences)>;
    constexpr bool kOverlaps = requires { Launcher::kOverlaps; };
    using Body =
        LayerStepBody<StepSize, Shape::kKeyDim, Shape::kValueDim, Sequences, T, State, kOverlaps>;
    launcher.Launch("LayerStep", Body{inputs, state.recurrent().view(), sequences},
                    run * state.value_heads());
  });
}

}  // namespace internal::device
}  // namespace kla

#endif  // KLA_BACKEND_CUDA_LAYER_STEP_H_
