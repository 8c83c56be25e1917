// SPDX-License-Identifier: Apache-2.0
// backend/reference: ChunkBackward by the formulas of math/chunk_form.h. Keeps the state that
// enters each chunk.
#ifndef KLA_BACKEND_REFERENCE_CHUNK_BACKWARD_H_
#define KLA_BACKEND_REFERENCE_CHUNK_BACKWARD_H_

#include <algorithm>
#include <vector>

#include "kla/backend/reference/chunk_terms.h"
#include "kla/core/backend.h"
#include "kla/op/chunk_backward.h"

namespace kla {

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, Reference, Shape> {
  using R = Accumulator<T>;
  using W = Wide<T>;
  using Matrix = internal::reference::Matrix<R>;
  using Terms = internal::reference::ChunkTerms<StepSize, T>;
  static constexpr Index kChunk = kChunkLength<Reference, Shape, T>;

  template <class Executor>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Executor& executor) {
    const Problem problem = MakeProblem(args);
    const ChunkStarts<Reference> starts(args.cu_seqlens, problem, kChunk);
    executor.ParallelFor(problem.sequences * problem.key_heads, [&](Index task) {
      const Index n = task / problem.key_heads, key_head = task % problem.key_heads;
      const SequenceSpan span = SequenceAt(args.cu_seqlens, problem.tokens, n);
      // Summed over the value heads that read this key head.
      Matrix dq(span.length, problem.key_dim), dk(span.length, problem.key_dim);
      for (Index i = 0; i < problem.GroupSize(); ++i) {
        RunHead(args, problem, n, problem.ValueHeadOf(key_head, i), starts[n], dq, dk);
      }
      for (Index i = 0; i < span.length; ++i) {
        T* dq_row = args.dq.Row(span.batch, span.begin + i, key_head);
        T* dk_row = args.dk.Row(span.batch, span.begin + i, key_head);
        for (Index c = 0; c < problem.key_dim; ++c) {
          dq_row[c] = static_cast<T>(dq(i, c));
          dk_row[c] = static_cast<T>(dk(i, c));
        }
      }
    });
  }

 private:
  static Terms MakeTerms(const ChunkBackwardArgs<T, State>& args, const Problem& problem,
                         const SequenceSpan& span, Index begin, Index head, const Matrix& state) {
    return Terms(args, W(problem.epsilon), R(problem.scale), span.batch, span.begin + begin,
                 std::min(kChunk, span.length - begin), problem.KeyHeadOf(head), head, state);
  }

  static void RunHead(const ChunkBackwardArgs<T, State>& args, const Problem& problem, Index n,
                      Index head, Index first_chunk, Matrix& dq, Matrix& dk) {
    const SequenceSpan span = SequenceAt(args.cu_seqlens, problem.tokens, n);
    const Index chunk_count = (span.length + kChunk - 1) / kChunk;
    std::vector<Matrix> states = EnteringStates(args, problem, n, head, first_chunk, chunk_count);
    auto d_state = internal::reference::LoadState<R>(args.d_final_state, n, head, problem.key_dim,
                                                     problem.value_dim);
    for (Index chunk = chunk_count; chunk-- > 0;) {
      const Matrix& state = states[static_cast<std::size_t>(chunk)];
      BackwardChunk(args, problem, span, chunk * kChunk, head,
                    MakeTerms(args, problem, span, chunk * kChunk, head, state), state, d_state, dq,
                    dk);
    }
    internal::reference::StoreState(d_state, args.d_initial_state, n, head);
  }

  static std::vector<Matrix> EnteringStates(const ChunkBackwardArgs<T, State>& args,
                                            const Problem& problem, Index n, Index head,
                                            Index first_chunk, Index chunk_count) {
    const SequenceSpan span = SequenceAt(args.cu_seqlens, problem.tokens, n);
    auto state = internal::reference::LoadState<R>(args.initial_state, n, head, problem.key_dim,
                                                   problem.value_dim);
    std::vector<Matrix> states;
    for (Index chunk = 0; chunk < chunk_count; ++chunk) {
      if (args.chunk_states.is_null()) {
        states.push_back(state);
        MakeTerms(args, problem, span, chunk * kChunk, head, state).Advance(state);
      } else {
        for (Index i = 0; i < state.rows; ++i) {
          std::copy_n(args.chunk_states.Row(first_chunk + chunk, head, i), state.columns,
                      state.Row(i));
        }
        states.push_back(state);
      }
    }
    return states;
  }

  // One chunk: from dS+ (d_state) and dO to all gradients of its tokens; d_state becomes dS.
  static void BackwardChunk(const ChunkBackwardArgs<T, State>& args, const Problem& problem,
                            const SequenceSpan& span, Index begin, Index head, const Terms& terms,
                            const Matrix& state, Matrix& d_state, Matrix& dq, Matrix& dk) {
    const Index count = terms.count, key_dim = state.rows, value_dim = state.columns;
    const auto& rows = terms.rows;
    const Matrix& v_prime = terms.pseudo_value;
    Matrix d_o(count, value_dim);  // dO [C, V]
    for (Index i = 0; i < count; ++i) {
      const T* row = args.d_o.Row(span.batch, span.begin + begin + i, head);
      for (Index c = 0; c < value_dim; ++c) d_o(i, c) = static_cast<R>(row[c]);
    }

    // dV' = P^T dO + w (K dS+), and Z = (I + A)^-T dV' by backward substitution.  [C, V]
    Matrix z(count, value_dim);
    for (Index i = count; i-- > 0;) {
      for (Index c = 0; c < value_dim; ++c) {
        R along(0);
        for (Index r = 0; r < key_dim; ++r) along += rows.k(i, r) * d_state(r, c);
        R sum = terms.ToEnd(i) * along;
        for (Index j = i; j < count; ++j) sum += terms.p(j, i) * d_o(j, c);
        for (Index j = i + 1; j < count; ++j) sum -= terms.a(j, i) * z(j, c);
        z(i, c) = sum;
      }
    }

    // Y = dO V'^T, X = s Y * D, M = -StrictLower(Z V'^T) * D; dG from the sums of rows and columns.
    Matrix x(count, count), m(count, count);
    std::vector<W> d_log(static_cast<std::size_t>(count), W(0));  // dG
    for (Index i = 0; i < count; ++i) {
      for (Index j = 0; j <= i; ++j) {
        const R y = internal::reference::Dot(d_o.Row(i), v_prime.Row(j), value_dim);
        x(i, j) = terms.scale * y * terms.decay(i, j);
        if (j == i) continue;
        const R da = -internal::reference::Dot(z.Row(i), v_prime.Row(j), value_dim);
        m(i, j) = da * terms.decay(i, j);
        const W through = static_cast<W>(y * terms.p(i, j) + da * terms.a(i, j));
        d_log[static_cast<std::size_t>(i)] += through;
        d_log[static_cast<std::size_t>(j)] -= through;
      }
    }

    W end(0);  // what reaches dG of the last token besides its own row
    std::vector<R> dv(static_cast<std::size_t>(value_dim), R(0));
    Matrix dq_hat(count, key_dim), dk_tilde(count, key_dim);
    std::vector<W> db(static_cast<std::size_t>(count), W(0));
    for (Index i = 0; i < count; ++i) {
      W& d_log_i = d_log[static_cast<std::size_t>(i)];
      W& db_i = db[static_cast<std::size_t>(i)];
      for (Index r = 0; r < key_dim; ++r) {
        const R from_state =  // I_q
            terms.scale * terms.Gamma(i) *
            internal::reference::Dot(d_o.Row(i), state.Row(r), value_dim);
        const R to_state =  // F
            terms.ToEnd(i) * internal::reference::Dot(v_prime.Row(i), d_state.Row(r), value_dim);
        const R recalled =  // gamma T_w = -gamma Z S^T
            -terms.Gamma(i) * internal::reference::Dot(z.Row(i), state.Row(r), value_dim);
        R dq_sum = from_state, mk(0), transposed(0);
        for (Index j = 0; j <= i; ++j) dq_sum += x(i, j) * rows.k(j, r);
        for (Index j = 0; j < i; ++j) mk += m(i, j) * rows.k(j, r);
        for (Index j = i; j < count; ++j) {
          transposed += x(j, i) * rows.q(j, r) + m(j, i) * terms.B(j) * rows.k(j, r);
        }
        dq_hat(i, r) = dq_sum;
        dk_tilde(i, r) = transposed + to_state + terms.B(i) * (recalled + mk);
        db_i += static_cast<W>(mk * rows.k(i, r));
        d_log_i += static_cast<W>(terms.B(i) * recalled * rows.k(i, r) + from_state * rows.q(i, r) -
                                  to_state * rows.k(i, r));
        end += static_cast<W>(to_state * rows.k(i, r));
      }
      db_i += static_cast<W>(internal::reference::Dot(z.Row(i), terms.error.Row(i), value_dim));
    }
    for (Index r = 0; r < key_dim; ++r) {
      end += static_cast<W>(terms.gamma.back() *
                            internal::reference::Dot(state.Row(r), d_state.Row(r), value_dim));
    }
    d_log.back() += end;

    const Index key_head = problem.KeyHeadOf(head);
    W d_gate(0);  // reverse cumulative sum of dG
    for (Index i = count; i-- > 0;) {
      const Index t = span.begin + begin + i;
      for (Index c = 0; c < value_dim; ++c) dv[static_cast<std::size_t>(c)] = terms.B(i) * z(i, c);
      rows.AddQueryGradient(i, args.q.Row(span.batch, t, key_head), dq_hat.Row(i),
                            dq.Row(begin + i));
      rows.AddKeyValueGradient(i, args.k.Row(span.batch, t, key_head),
                               args.v.Row(span.batch, t, head), dk_tilde.Row(i), dv.data(),
                               db[static_cast<std::size_t>(i)], dk.Row(begin + i),
                               args.dv.Row(span.batch, t, head), &args.deta(span.batch, t, head));
      d_gate += d_log[static_cast<std::size_t>(i)];
      // Beyond the clamp the decay is 0 whatever g is.
      const bool clamped = args.g(span.batch, t, head) <= R(internal::kMinLogDecay);
      args.dg(span.batch, t, head) = clamped ? R(0) : static_cast<R>(d_gate);
    }

    // dS = gamma_C dS+ + s Q^T (gamma dO) - (b gamma K)^T Z
    for (Index r = 0; r < key_dim; ++r) {
      for (Index c = 0; c < value_dim; ++c) {
        R sum = terms.gamma.back() * d_state(r, c);
        for (Index i = 0; i < count; ++i) {
          sum += terms.Gamma(i) *
                 (terms.scale * rows.q(i, r) * d_o(i, c) - terms.B(i) * rows.k(i, r) * z(i, c));
        }
        d_state(r, c) = sum;
      }
    }
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_REFERENCE_CHUNK_BACKWARD_H_
