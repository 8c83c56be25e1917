// SPDX-License-Identifier: Apache-2.0
// backend/reference: the matrices of one chunk that forward and backward share, by plain loops over
// the formulas of math/chunk_form.h.
#ifndef KLA_BACKEND_REFERENCE_CHUNK_TERMS_H_
#define KLA_BACKEND_REFERENCE_CHUNK_TERMS_H_

#include <utility>
#include <vector>

#include "kla/backend/reference/scaled_rows.h"
#include "kla/core/layout.h"
#include "kla/math/decay.h"

namespace kla::internal::reference {

// One chunk of C tokens of one value head, with the state S [K, V] that enters it.
template <class StepSize, class T>
struct ChunkTerms {
  using R = Accumulator<T>;
  using W = Wide<T>;

  template <class Args>
  ChunkTerms(const Args& args, W epsilon, R output_scale, Index batch, Index begin, Index length,
             Index key_head, Index value_head, const Matrix<R>& state)
      : rows(args, epsilon, batch, begin, length, key_head, value_head),
        count(length),
        scale(output_scale),
        decay(length, length),
        a(length, length),
        p(length, length),
        error(length, rows.v.columns),
        pseudo_value(length, rows.v.columns) {
    std::vector<W> sums(static_cast<std::size_t>(length));
    CumulativeLogDecay(&args.g(batch, begin, value_head), args.g.template stride<Time>(), length,
                       sums.data());
    for (Index i = 0; i < length; ++i) {
      const W at = sums[static_cast<std::size_t>(i)];
      gamma.push_back(static_cast<R>(DecayBetween(at, W(0))));
      to_end.push_back(static_cast<R>(DecayBetween(sums.back(), at)));
      for (Index j = 0; j <= i; ++j) {
        decay(i, j) = static_cast<R>(DecayBetween(at, sums[static_cast<std::size_t>(j)]));
        p(i, j) = scale * Dot(rows.q.Row(i), rows.k.Row(j), rows.k.columns) * decay(i, j);
        if (j < i) a(i, j) = B(i) * Dot(rows.k.Row(i), rows.k.Row(j), rows.k.columns) * decay(i, j);
      }
    }
    // E = V - gamma (K S);  V' = (I + A)^-1 b E by forward substitution.
    for (Index i = 0; i < length; ++i) {
      for (Index c = 0; c < rows.v.columns; ++c) {
        error(i, c) = rows.v(i, c) - Gamma(i) * Recall(rows.k, state, i, c);
        R value = B(i) * error(i, c);
        for (Index j = 0; j < i; ++j) value -= a(i, j) * pseudo_value(j, c);
        pseudo_value(i, c) = value;
      }
    }
  }

  // o_i = s gamma_i (S^T q_i) + (P V')_i, one element.
  R Output(const Matrix<R>& state, Index i, Index c) const {
    R out = scale * Gamma(i) * Recall(rows.q, state, i, c);
    for (Index j = 0; j <= i; ++j) out += p(i, j) * pseudo_value(j, c);
    return out;
  }

  // S <- gamma_C S + (w K)^T V'
  void Advance(Matrix<R>& state) const {
    for (Index r = 0; r < state.rows; ++r) {
      for (Index c = 0; c < state.columns; ++c) {
        R sum = gamma.back() * state(r, c);
        for (Index i = 0; i < count; ++i) sum += ToEnd(i) * rows.k(i, r) * pseudo_value(i, c);
        state(r, c) = sum;
      }
    }
  }

  const R& B(Index i) const { return rows.b[static_cast<std::size_t>(i)]; }
  const R& Gamma(Index i) const { return gamma[static_cast<std::size_t>(i)]; }
  const R& ToEnd(Index i) const { return to_end[static_cast<std::size_t>(i)]; }

  ScaledRows<StepSize, T> rows;
  Index count;
  R scale;
  std::vector<R> gamma;    // exp(G_i)
  std::vector<R> to_end;   // w_i = exp(G_last - G_i)
  Matrix<R> decay;         // D [C, C]
  Matrix<R> a;             // A [C, C], strictly lower
  Matrix<R> p;             // P [C, C], lower
  Matrix<R> error;         // E [C, V]
  Matrix<R> pseudo_value;  // V' [C, V]

 private:
  // (X S)(i, c)
  static R Recall(const Matrix<R>& x, const Matrix<R>& state, Index i, Index c) {
    R sum(0);
    for (Index r = 0; r < x.columns; ++r) sum += x(i, r) * state(r, c);
    return sum;
  }
};

template <class R, class S>
Matrix<R> LoadState(const StateRef<S>& states, Index sequence, Index head, Index key_dim,
                    Index value_dim) {
  Matrix<R> state(key_dim, value_dim);
  if (states.is_null()) return state;
  const S* data = states.Head(sequence, head);
  for (Index i = 0; i < key_dim; ++i) {
    for (Index j = 0; j < value_dim; ++j) {
      state(i, j) = static_cast<R>(data[i * states.key_stride + j * states.value_stride]);
    }
  }
  return state;
}

template <class R, class S>
void StoreState(const Matrix<R>& state, const StateRef<S>& states, Index sequence, Index head) {
  if (states.is_null()) return;
  S* data = states.Head(sequence, head);
  for (Index i = 0; i < state.rows; ++i) {
    for (Index j = 0; j < state.columns; ++j) {
      data[i * states.key_stride + j * states.value_stride] =
          internal::ConvertElement<S>(state(i, j));
    }
  }
}

}  // namespace kla::internal::reference

#endif  // KLA_BACKEND_REFERENCE_CHUNK_TERMS_H_
