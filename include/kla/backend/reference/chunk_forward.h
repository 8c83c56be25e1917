// SPDX-License-Identifier: Apache-2.0
// backend/reference: ChunkForward, one head after the other, chunk by chunk.
#ifndef KLA_BACKEND_REFERENCE_CHUNK_FORWARD_H_
#define KLA_BACKEND_REFERENCE_CHUNK_FORWARD_H_

#include <algorithm>

#include "kla/backend/reference/chunk_terms.h"
#include "kla/core/backend.h"
#include "kla/op/chunk_forward.h"

namespace kla {

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, Reference, Shape> {
  using R = Accumulator<T>;
  using W = Wide<T>;
  static constexpr Index kChunk = kChunkLength<Reference, Shape, T>;

  template <class Executor>
  static void Run(const ChunkForwardArgs<T, State>& args, const Executor& executor) {
    const Problem problem = MakeProblem(args);
    const ChunkStarts<Reference> starts(args.cu_seqlens, problem, kChunk);
    executor.ParallelFor(problem.sequences * problem.value_heads, [&](Index task) {
      const Index n = task / problem.value_heads;
      RunHead(args, problem, n, task % problem.value_heads, starts[n]);
    });
  }

 private:
  static void RunHead(const ChunkForwardArgs<T, State>& args, const Problem& problem, Index n,
                      Index head, Index chunk) {
    const auto [batch, first, length] = SequenceAt(args.cu_seqlens, problem.tokens, n);
    auto state = internal::reference::LoadState<R>(args.initial_state, n, head, problem.key_dim,
                                                   problem.value_dim);
    for (Index begin = 0; begin < length; begin += kChunk, ++chunk) {
      const Index count = std::min(kChunk, length - begin);
      if (!args.chunk_states.is_null()) {
        for (Index i = 0; i < state.rows; ++i) {
          std::copy_n(state.Row(i), state.columns, args.chunk_states.Row(chunk, head, i));
        }
      }
      const internal::reference::ChunkTerms<StepSize, T> terms(
          args, W(problem.epsilon), R(problem.scale), batch, first + begin, count,
          problem.KeyHeadOf(head), head, state);
      for (Index i = 0; i < count; ++i) {
        T* out = args.o.Row(batch, first + begin + i, head);
        for (Index c = 0; c < problem.value_dim; ++c) {
          out[c] = static_cast<T>(terms.Output(state, i, c));
        }
      }
      terms.Advance(state);
    }
    internal::reference::StoreState(state, args.final_state, n, head);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_REFERENCE_CHUNK_FORWARD_H_
