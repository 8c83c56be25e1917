// SPDX-License-Identifier: Apache-2.0
// backend/reference: the rows of one head, brought into unit-key form, and the way back for
// gradients.
#ifndef KLA_BACKEND_REFERENCE_SCALED_ROWS_H_
#define KLA_BACKEND_REFERENCE_SCALED_ROWS_H_

#include <vector>

#include "kla/core/scalar.h"
#include "kla/core/view.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::reference {

// Plain row-major matrix [rows, columns].
template <class R>
struct Matrix {
  Matrix() = default;
  Matrix(Index row_count, Index column_count)
      : rows(row_count),
        columns(column_count),
        data(static_cast<std::size_t>(row_count * column_count), R(0)) {}
  R& operator()(Index i, Index j) { return data[static_cast<std::size_t>(i * columns + j)]; }
  const R& operator()(Index i, Index j) const {
    return data[static_cast<std::size_t>(i * columns + j)];
  }
  R* Row(Index i) { return data.data() + i * columns; }
  const R* Row(Index i) const { return data.data() + i * columns; }

  Index rows = 0, columns = 0;
  std::vector<R> data;
};

template <class R>
R Dot(const R* a, const R* b, Index count) {
  R sum(0);
  for (Index i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// |x|^2 in Wide, in which it cannot overflow for float and below.
template <class T>
Wide<T> SquaredNorm(const T* x, Index count) {
  Wide<T> sum(0);
  for (Index i = 0; i < count; ++i) {
    const auto value = static_cast<Wide<T>>(x[i]);
    sum += value * value;
  }
  return sum;
}

// Tokens [begin, begin + length) of one value head: q^ [C, K], k~ [C, K], v~ [C, V], steps b [C],
// and the scalars they were made with.
template <class StepSize, class T>
struct ScaledRows {
  using R = Accumulator<T>;
  using W = Wide<T>;

  template <class Args>
  ScaledRows(const Args& args, W eps, Index batch, Index begin, Index length, Index key_head,
             Index value_head)
      : q(length, args.q.template extent<Key>()),
        k(length, args.k.template extent<Key>()),
        v(length, args.v.template extent<Value>()),
        epsilon(eps) {
    for (Index i = 0; i < length; ++i) {
      const Index t = begin + i;
      const T* q_row = args.q.Row(batch, t, key_head);
      const T* k_row = args.k.Row(batch, t, key_head);
      const T* v_row = args.v.Row(batch, t, value_head);
      eta.push_back(static_cast<W>(args.eta(batch, t, value_head)));
      norm2.push_back(SquaredNorm(k_row, k.columns));
      scales.push_back(UnitKey<StepSize>(eta.back(), norm2.back(), epsilon));
      query_scale.push_back(
          StepSize::kNormalizeQuery ? InverseNorm(SquaredNorm(q_row, q.columns), epsilon) : W(1));
      b.push_back(static_cast<R>(scales.back().step));
      Scale(q_row, query_scale.back(), q.columns, q.Row(i));
      Scale(k_row, scales.back().key, k.columns, k.Row(i));
      Scale(v_row, scales.back().value, v.columns, v.Row(i));
    }
  }

  // dq = r dq^ - r^3 <q, dq^> q where q is normalised; added to dq [K].
  void AddQueryGradient(Index i, const T* q_row, const R* d_scaled, R* dq) const {
    const W r = query_scale[static_cast<std::size_t>(i)];
    W along(0);
    if constexpr (StepSize::kNormalizeQuery)
      along = r * r * r * WideDot(q_row, d_scaled, q.columns);
    for (Index c = 0; c < q.columns; ++c) {
      dq[c] += static_cast<R>(r * static_cast<W>(d_scaled[c]) - along * static_cast<W>(q_row[c]));
    }
  }

  // From dk~ [K], dv~ [V] and db: adds dk [K], sets dv [V] (cast to T) and deta.
  void AddKeyValueGradient(Index i, const T* k_row, const T* v_row, const R* dk_scaled,
                           const R* dv_scaled, W db, R* dk, T* dv, R* deta) const {
    const auto at = static_cast<std::size_t>(i);
    const auto gradient =
        UnitKeyBackward<StepSize>(eta[at], norm2[at], epsilon, WideDot(k_row, dk_scaled, k.columns),
                                  WideDot(v_row, dv_scaled, v.columns), db);
    for (Index c = 0; c < k.columns; ++c) {
      dk[c] += static_cast<R>(scales[at].key * static_cast<W>(dk_scaled[c]) +
                              W(2) * gradient.norm2 * static_cast<W>(k_row[c]));
    }
    for (Index c = 0; c < v.columns; ++c) {
      dv[c] = static_cast<T>(static_cast<R>(scales[at].value * static_cast<W>(dv_scaled[c])));
    }
    *deta = static_cast<R>(gradient.eta);
  }

  Matrix<R> q, k, v;
  std::vector<R> b;
  W epsilon;
  std::vector<W> eta, norm2, query_scale;
  std::vector<UnitKeyScales<W>> scales;

 private:
  static void Scale(const T* row, W factor, Index count, R* out) {
    for (Index c = 0; c < count; ++c) out[c] = static_cast<R>(factor * static_cast<W>(row[c]));
  }
  static W WideDot(const T* a, const R* b_row, Index count) {
    W sum(0);
    for (Index c = 0; c < count; ++c) sum += static_cast<W>(a[c]) * static_cast<W>(b_row[c]);
    return sum;
  }
};

}  // namespace kla::internal::reference

#endif  // KLA_BACKEND_REFERENCE_SCALED_ROWS_H_
