// SPDX-License-Identifier: Apache-2.0
// op: the recurrent form, one or a few tokens per sequence and call, for generation.
#ifndef KLA_OP_DECODE_STEP_H_
#define KLA_OP_DECODE_STEP_H_

#include <optional>
#include <string>

#include "kla/core/concepts.h"
#include "kla/core/executor.h"
#include "kla/core/kernel.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/argument_check.h"
#include "kla/op/decode_state.h"
#include "kla/op/problem.h"

namespace kla {

// The recurrence of ChunkForward, with the states in a pool. The T tokens of a sequence (here T is
// the axis, in <T> the element type) are applied one after the other in one walk over the state: 1
// in generation, a few when verifying a draft. Write DecodeStepArgs<float>{.q = ...}: where the
// type is named, the compiler names the field that is wrong. g > 0 and NaN: as in ChunkForwardArgs;
// a NaN stays in the state of its slot and head until Reset or Load.
template <class T>
struct DecodeStepArgs {
  KeyView<const T> q;                  // [B, T, H, K]
  KeyView<const T> k;                  // [B, T, H, K]
  ValueView<const T> v;                // [B, T, HV, V], HV a multiple of H
  GateView<const Accumulator<T>> g;    // [B, T, HV] natural log of the decay, -infinity to 0
  GateView<const Accumulator<T>> eta;  // [B, T, HV] step; within (0, 1) in the paper's models
  ValueView<T> o;                      // [B, T, HV, V], written

  // [N]: the slot that holds the state of sequence n; -1 skips the sequence, whose o is then left
  // as it is. Left out: slot n. Slots that are not named stay bit-identical.
  IndexList slots = {};

  IndexList cu_seqlens = {};         // [N + 1], packs N sequences into one batch row
  std::optional<double> scale = {};  // K^(-1/2) if left out
  double epsilon = 1e-6;             // >= 0, added to |k|^2 in the step size and the L2 norms
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

// What Kernel is specialised for.
template <class StepSize, class T, class State>
struct DecodeStepOp {
  using Args = DecodeStepArgs<T>;
};

// Throws std::invalid_argument, before anything is written, for a null or wrongly shaped argument,
// an output that overlaps an input, bad cu_seqlens, a state of other sizes, or a slot that is out
// of range or named twice.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T = float,
          class State = Accumulator<T>, Executor Exec = Serial>
void DecodeStep(const DecodeStepArgs<T>& args, DecodeState<Backend, Shape, State>& state,
                const Exec& executor = {}) {
  using internal::RegionOf;
  const internal::ArgumentCheck<Backend, Shape> check("DecodeStep");
  const Problem problem = check.Inputs(args, kTakesDeviceLists<Backend>);
  check.HostList("slots", args.slots, kTakesDeviceLists<Backend>);
  check.Values("o", args.o, problem);
  KLA_CHECK(
      state.value_heads() == problem.value_heads && state.key_dim() == problem.key_dim &&
          state.value_dim() == problem.value_dim,
      "DecodeStep", "state",
      "HV = " + std::to_string(problem.value_heads) + ", K = " + std::to_string(problem.key_dim) +
          ", V = " + std::to_string(problem.value_dim),
      "HV = " + std::to_string(state.value_heads()) + ", K = " + std::to_string(state.key_dim()) +
          ", V = " + std::to_string(state.value_dim()));
  check.Aliasing({{"o", RegionOf(args.o)}}, {{"q", RegionOf(args.q)},
                                             {"k", RegionOf(args.k)},
                                             {"v", RegionOf(args.v)},
                                             {"g", RegionOf(args.g)},
                                             {"eta", RegionOf(args.eta)}});
  state.CheckSlots("DecodeStep", args.slots, problem.sequences);
  Kernel<DecodeStepOp<StepSize, T, State>, Backend, Shape>::Run(args, state, executor);
}

}  // namespace kla

#endif  // KLA_OP_DECODE_STEP_H_
