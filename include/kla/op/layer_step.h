// SPDX-License-Identifier: Apache-2.0
// op: one token of a KLA layer between its projections, for generation.
#ifndef KLA_OP_LAYER_STEP_H_
#define KLA_OP_LAYER_STEP_H_

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "kla/core/check.h"
#include "kla/core/concepts.h"
#include "kla/core/executor.h"
#include "kla/core/heads.h"
#include "kla/core/kernel.h"
#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/argument_check.h"
#include "kla/op/layer_sizes.h"
#include "kla/op/memory_region.h"

namespace kla {

// What sequences carry from token to token through a layer: a pool of slots, one sequence each,
// with the recurrent state of every value head and the last three inputs of the convolution. T is
// the element type of the layer, State the storage type of the recurrent states. LayerStep and
// KlaLayer::Step take it. Each backend defines its own: backend/cuda/layer_step.cuh, and for CPUs
// layer/host/state.h.
template <class Backend, HeadShape Shape, class T, class State = Accumulator<T>>
class LayerState;

// One row a sequence: [N, columns].
template <class T>
using RowView = View<T, Extent<Sequence>, Extent<Model>>;

// One token of each of N sequences. The rows of `projected` are those that KlaLayer's input
// projection makes: [ q | k | v | gate | a | b ], of widths H K, H K, HV V, HV V, HV, HV. The
// weights are KlaParameters' of the same names, in Accumulator<T>. With * the causal convolution
// over four tokens:
//   q = SiLU(c_q * q)   k = SiLU(c_k * k)   v = SiLU(c_v * v)            (math/convolution.h)
//   g = -exp(A_log) softplus(a + dt_bias)   eta = sigmoid(b + bias)      (math/gates.h)
//   o = RMSNorm(the recurrence of DecodeStep) SiLU(gate)                 (math/gated_norm.h)
// LayerStepArgs<bfloat16>{...} for activations in bfloat16.
template <class T>
struct LayerStepArgs {
  RowView<const T> projected;                 // [N, 2 H K + 2 HV V + 2 HV]
  RowView<T> o;                               // [N, HV V], written: what the output projection
                                              // takes
  const Accumulator<T>* conv = nullptr;       // q_conv1d, k_conv1d, v_conv1d: [2 H K + HV V, 4],
                                              // 16-byte aligned; the last tap meets this token
  const Accumulator<T>* a_log = nullptr;      // [HV]
  const Accumulator<T>* dt_bias = nullptr;    // [HV]
  const Accumulator<T>* step_bias = nullptr;  // b_proj.bias [HV]
  const Accumulator<T>* norm = nullptr;       // o_norm.weight [V]

  IndexList slots = {};              // [N], as in DecodeStep; -1 skips a sequence
  std::optional<double> scale = {};  // K^(-1/2) if left out
  double epsilon = 1e-6;             // of the step size and of the L2 norms
  double norm_epsilon = 1e-5;        // of the gated RMSNorm
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

// What Kernel is specialised for.
template <class StepSize, class T, class State>
struct LayerStepOp {
  using Args = LayerStepArgs<T>;
};

namespace internal {

// The arguments of LayerStep against the sizes of its state.
template <class Backend, class Shape, class T>
void CheckLayerStep(const LayerStepArgs<T>& args, const LayerSizes& sizes) {
  constexpr const char* kName = "LayerStep";
  const ArgumentCheck<Backend, Shape> check(kName);
  const auto aligned = [](const char* name, const void* pointer, std::uintptr_t alignment) {
    KLA_CHECK(reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0, kName, name,
              "an address aligned to " + std::to_string(alignment) + " bytes", "another one");
  };
  const auto rows = [&](const char* name, const auto& view, Index count, Index columns) {
    KLA_CHECK(view.extents()[0] == count && view.extents()[1] == columns, kName, name,
              "[N, columns] = [" + std::to_string(count) + ", " + std::to_string(columns) + "]",
              view.is_null() ? "a null view" : view.ShapeText());
    KLA_CHECK(!view.is_null() || count == 0, kName, name, "data", "a null pointer");
    aligned(name, view.data(), alignof(T));
  };
  const auto weight = [&](const char* name, const auto* pointer, std::uintptr_t alignment) {
    KLA_CHECK(pointer != nullptr, kName, name, "data", "a null pointer");
    aligned(name, pointer, alignment);
  };
  const Index count = args.projected.extents()[0];
  rows("projected", args.projected, count, sizes.projected_width());
  rows("o", args.o, count, sizes.value_width());
  weight("conv", args.conv, 16);
  weight("a_log", args.a_log, alignof(Accumulator<T>));
  weight("dt_bias", args.dt_bias, alignof(Accumulator<T>));
  weight("step_bias", args.step_bias, alignof(Accumulator<T>));
  weight("norm", args.norm, alignof(Accumulator<T>));
  KLA_CHECK(std::isfinite(args.epsilon) && args.epsilon >= 0, kName, "epsilon",
            "a finite number >= 0", std::to_string(args.epsilon));
  KLA_CHECK(std::isfinite(args.norm_epsilon) && args.norm_epsilon > 0, kName, "norm_epsilon",
            "a finite number > 0", std::to_string(args.norm_epsilon));
  KLA_CHECK(!args.scale || std::isfinite(*args.scale), kName, "scale", "a finite number",
            std::to_string(args.scale.value_or(0)));
  check.HostList("slots", args.slots, kTakesDeviceLists<Backend>);
  check.Aliasing({{"o", RegionOf(args.o)}}, {{"projected", RegionOf(args.projected)}});
}

}  // namespace internal

// Throws std::invalid_argument, before anything is written, for a null, misaligned or wrongly
// shaped argument, an output that overlaps the input, or a slot that is out of range or named
// twice.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T = float,
          class State = Accumulator<T>, Executor Exec = Serial>
void LayerStep(const LayerStepArgs<T>& args, LayerState<Backend, Shape, T, State>& state,
               const Exec& executor = {}) {
  internal::CheckLayerStep<Backend, Shape>(args, state.sizes());
  state.recurrent().CheckSlots("LayerStep", args.slots, args.projected.extents()[0]);
  Kernel<LayerStepOp<StepSize, T, State>, Backend, Shape>::Run(args, state, executor);
}

}  // namespace kla

#endif  // KLA_OP_LAYER_STEP_H_
