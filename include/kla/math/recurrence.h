// SPDX-License-Identifier: Apache-2.0
// math: one token of one head, as in the paper. Host and device, any scalar.
#ifndef KLA_MATH_RECURRENCE_H_
#define KLA_MATH_RECURRENCE_H_

#include "kla/core/scalar.h"
#include "kla/math/decay.h"

namespace kla::internal {

// A state in memory: element (i, j), key by value, at data[i * key_stride + j * value_stride].
template <class R>
struct StateMatrix {
  R* data;
  Index key_dim, value_dim;
  Index key_stride, value_stride;

  KLA_HOST_DEVICE R& operator()(Index i, Index j) const {
    return data[i * key_stride + j * value_stride];
  }
};

// The gated delta rule, decay before the residual:
//   S <- a S + beta k (v - a S^T k)^T,   a = exp(g),   o = scale S^T q
// q, k [K]   v, o [V]   S [K, V] in place.   6KV flops.
// q and k are used as they are: normalise them first where the step size asks for it.
// Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587, with beta = eta / (|k|^2 + eps).
template <class R>
KLA_HOST_DEVICE void RecurrenceStep(const StateMatrix<R>& state, const R* q, const R* k, const R* v,
                                    R g, R beta, R scale, R* o) {
  const R a = Decay(g);
  for (Index j = 0; j < state.value_dim; ++j) {
    R recalled(0);  // (S^T k)_j
    for (Index i = 0; i < state.key_dim; ++i) recalled += state(i, j) * k[i];
    const R delta = beta * (v[j] - a * recalled);
    R out(0);
    for (Index i = 0; i < state.key_dim; ++i) {
      state(i, j) = a * state(i, j) + k[i] * delta;
      out += state(i, j) * q[i];
    }
    o[j] = scale * out;
  }
}

}  // namespace kla::internal

#endif  // KLA_MATH_RECURRENCE_H_
