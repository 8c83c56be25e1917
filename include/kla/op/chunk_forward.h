// SPDX-License-Identifier: Apache-2.0
// op: the chunk-parallel forward pass, for training and prefill.
#ifndef KLA_OP_CHUNK_FORWARD_H_
#define KLA_OP_CHUNK_FORWARD_H_

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

// For each token t of a value head, with n = |k_t|^2 and S [K, V] its state:
//   S   <- exp(g_t) S + beta_t k_t (v_t - exp(g_t) S^T k_t)^T
//   o_t  = scale S^T q_t                       beta_t = StepSize::Beta(eta_t, n, epsilon)
// q_t and k_t are L2-normalised first where StepSize says so (math/step_size.h).
// Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587; math/chunk_form.h derives the form in
// chunks of tokens, in which it is computed.
//
// T is float, double, bfloat16, float16 or, with Reference, a scalar of yours. Gates are in
// Accumulator<T>, states in State. Write ChunkForwardArgs<float>{.q = ...}: where the type is
// named, the compiler names the field that is wrong.
//
// The values of g and eta are not read by the checks. g > 0 makes the state grow by exp(g), as the
// equations say, until it overflows. A NaN in g or eta, or an overflow, is an error of the caller:
// o is then undefined in the whole sequence and head, earlier tokens of its chunk included, and not
// always NaN (Simd's ChunkForward takes g = NaN for a decay).
template <class T, class State = Accumulator<T>>
struct ChunkForwardArgs {
  KeyView<const T> q;                  // [B, T, H, K]
  KeyView<const T> k;                  // [B, T, H, K]
  ValueView<const T> v;                // [B, T, HV, V], HV a multiple of H
  GateView<const Accumulator<T>> g;    // [B, T, HV] natural log of the decay, -infinity to 0
  GateView<const Accumulator<T>> eta;  // [B, T, HV] step; within (0, 1) in the paper's models
  ValueView<T> o;                      // [B, T, HV, V], written

  StateRef<const State> initial_state = {};  // [N, HV, K, V] or [N, HV, V, K]; zero if left out
  StateRef<State> final_state = {};  // likewise, written unless left out; may be initial_state
  // The state that enters each chunk: written unless left out. ChunkBackward takes it to save
  // recomputing the states. [NT, HV, K, V], sequence after sequence, with NT = ChunkCount(
  // cu_seqlens, B, T, C) chunks (op/problem.h) of C = kChunkLength<Backend, Shape, T> tokens.
  ChunkStateView<Accumulator<T>> chunk_states = {};

  IndexList cu_seqlens = {};         // [N + 1], packs N sequences into one batch row
  std::optional<double> scale = {};  // K^(-1/2) if left out
  double epsilon = 1e-6;             // >= 0, added to |k|^2 in the step size and the L2 norms
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

// What Kernel is specialised for.
template <class StepSize, class T, class State>
struct ChunkForwardOp {
  using Args = ChunkForwardArgs<T, State>;
};

// Throws std::invalid_argument, before anything is written, for a null or wrongly shaped argument,
// an output that overlaps another argument (final_state may be initial_state), or bad cu_seqlens.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T = float,
          class State = Accumulator<T>, Executor Exec = Serial>
void ChunkForward(const ChunkForwardArgs<T, State>& args, const Exec& executor = {}) {
  using internal::RegionOf;
  const internal::ArgumentCheck<Backend, Shape> check("ChunkForward");
  const Problem problem = check.Inputs(args);
  check.Values("o", args.o, problem);
  check.OptionalState("initial_state", args.initial_state, problem);
  check.OptionalState("final_state", args.final_state, problem);
  check.OptionalChunkStates(
      "chunk_states", args.chunk_states, problem,
      ChunkCount(args.cu_seqlens, problem.batch, problem.tokens, kChunkLength<Backend, Shape, T>));
  check.Aliasing({{"o", RegionOf(args.o)},
                  {"final_state", RegionOf(args.final_state)},
                  {"chunk_states", RegionOf(args.chunk_states)}},
                 {{"q", RegionOf(args.q)},
                  {"k", RegionOf(args.k)},
                  {"v", RegionOf(args.v)},
                  {"g", RegionOf(args.g)},
                  {"eta", RegionOf(args.eta)}});
  const internal::NamedRegion initial{"initial_state", RegionOf(args.initial_state)};
  check.Disjoint({"o", RegionOf(args.o)}, initial);
  check.Disjoint({"chunk_states", RegionOf(args.chunk_states)}, initial);
  if (!internal::IsSameArray(args.final_state, args.initial_state)) {
    check.Disjoint({"final_state", RegionOf(args.final_state)}, initial);
  }
  Kernel<ChunkForwardOp<StepSize, T, State>, Backend, Shape>::Run(args, executor);
}

}  // namespace kla

#endif  // KLA_OP_CHUNK_FORWARD_H_
