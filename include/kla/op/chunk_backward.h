// SPDX-License-Identifier: Apache-2.0
// op: gradients of the chunk-parallel forward pass.
#ifndef KLA_OP_CHUNK_BACKWARD_H_
#define KLA_OP_CHUNK_BACKWARD_H_

#include <optional>

#include "kla/core/concepts.h"
#include "kla/core/executor.h"
#include "kla/core/kernel.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/argument_check.h"
#include "kla/op/problem.h"

namespace kla {

// Gradients with respect to everything that ChunkForward reads, given those of what it writes. The
// first block repeats ChunkForward's arguments; outputs of ChunkForward are not needed.
// dq and dk of a key head are summed over the HV / H value heads that read it. Formulas:
// math/chunk_form.h. Where g <= -1000 the decay is 0 whatever g is, and so is dg.
template <class T, class State = Accumulator<T>>
struct ChunkBackwardArgs {
  KeyView<const T> q;                  // [B, T, H, K]
  KeyView<const T> k;                  // [B, T, H, K]
  ValueView<const T> v;                // [B, T, HV, V]
  GateView<const Accumulator<T>> g;    // [B, T, HV]
  GateView<const Accumulator<T>> eta;  // [B, T, HV]
  ValueView<const T> d_o;              // [B, T, HV, V]

  KeyView<T> dq;                  // written, [B, T, H, K]
  KeyView<T> dk;                  // written, [B, T, H, K]
  ValueView<T> dv;                // written, [B, T, HV, V]
  GateView<Accumulator<T>> dg;    // written, [B, T, HV]
  GateView<Accumulator<T>> deta;  // written, [B, T, HV]

  StateRef<const State> initial_state = {};  // as in ChunkForward
  StateRef<const State> d_final_state = {};  // zero if left out
  StateRef<State> d_initial_state = {};      // written unless left out; may be d_final_state
  // As written by ChunkForward; recomputed from the inputs if left out.
  ChunkStateView<const Accumulator<T>> chunk_states = {};

  IndexList cu_seqlens = {};  // these four as given to ChunkForward
  std::optional<double> scale = {};
  double epsilon = 1e-6;
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

// What Kernel is specialised for.
template <class StepSize, class T, class State>
struct ChunkBackwardOp {
  using Args = ChunkBackwardArgs<T, State>;
};

// Throws std::invalid_argument, before anything is written, for a null or wrongly shaped argument,
// an output that overlaps another argument (d_initial_state may be d_final_state), or bad
// cu_seqlens.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T = float,
          class State = Accumulator<T>, Executor Exec = Serial>
void ChunkBackward(const ChunkBackwardArgs<T, State>& args, const Exec& executor = {}) {
  using internal::RegionOf;
  const internal::ArgumentCheck<Backend, Shape> check("ChunkBackward");
  const Problem problem = check.Inputs(args);
  check.Values("d_o", args.d_o, problem);
  check.Keys("dq", args.dq, problem);
  check.Keys("dk", args.dk, problem);
  check.Values("dv", args.dv, problem);
  check.Gates("dg", args.dg, problem);
  check.Gates("deta", args.deta, problem);
  check.OptionalState("initial_state", args.initial_state, problem);
  check.OptionalState("d_final_state", args.d_final_state, problem);
  check.OptionalState("d_initial_state", args.d_initial_state, problem);
  check.OptionalChunkStates(
      "chunk_states", args.chunk_states, problem,
      ChunkCount(args.cu_seqlens, problem.batch, problem.tokens, kChunkLength<Backend, Shape, T>));
  const internal::NamedRegion d_final{"d_final_state", RegionOf(args.d_final_state)};
  check.Aliasing({{"dq", RegionOf(args.dq)},
                  {"dk", RegionOf(args.dk)},
                  {"dv", RegionOf(args.dv)},
                  {"dg", RegionOf(args.dg)},
                  {"deta", RegionOf(args.deta)},
                  {"d_initial_state", RegionOf(args.d_initial_state)}},
                 {{"q", RegionOf(args.q)},
                  {"k", RegionOf(args.k)},
                  {"v", RegionOf(args.v)},
                  {"g", RegionOf(args.g)},
                  {"eta", RegionOf(args.eta)},
                  {"d_o", RegionOf(args.d_o)},
                  {"initial_state", RegionOf(args.initial_state)},
                  {"chunk_states", RegionOf(args.chunk_states)}});
  for (const auto& output : {internal::NamedRegion{"dq", RegionOf(args.dq)},
                             {"dk", RegionOf(args.dk)},
                             {"dv", RegionOf(args.dv)},
                             {"dg", RegionOf(args.dg)},
                             {"deta", RegionOf(args.deta)}}) {
    check.Disjoint(output, d_final);
  }
  if (!internal::IsSameArray(args.d_initial_state, args.d_final_state)) {
    check.Disjoint({"d_initial_state", RegionOf(args.d_initial_state)}, d_final);
  }
  Kernel<ChunkBackwardOp<StepSize, T, State>, Backend, Shape>::Run(args, executor);
}

}  // namespace kla

#endif  // KLA_OP_CHUNK_BACKWARD_H_
