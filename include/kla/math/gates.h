// SPDX-License-Identifier: Apache-2.0
// math: the two scalars that each token gives each value head, from a = W_a x and b = W_b x.
//
//   decay      g   = -exp(A_log) softplus(a + dt_bias)   <= 0
//   step size  eta = sigmoid(b + bias)                   in (0, 1)
//
// Backward:
//   da = -dg exp(A_log) sigmoid(a + dt_bias) = ddt_bias,     dA_log = dg g
//   db = deta eta (1 - eta) = dbias
//
// Computed by layer/host/token_gates.h (CPU), backend/cuda/layer/kernels.h and gradient_kernels.h
// (prefill and training on a GPU) and backend/cuda/layer/step_kernel.h (a token on a GPU).
#ifndef KLA_MATH_GATES_H_
#define KLA_MATH_GATES_H_

#include "kla/core/scalar.h"
#include "kla/math/activation.h"

namespace kla::internal {

// g from rate = exp(A_log) and a with its bias.
template <class R>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE R LogDecayOf(const R& rate, const R& a) {
  return -rate * Softplus(a);
}
template <class R>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE R LogDecayBackward(const R& dg, const R& rate, const R& a) {
  return -dg * rate * Sigmoid(a);
}

// d b from eta = Sigmoid(b) and its gradient.
template <class R>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE R SigmoidBackward(const R& d_eta, const R& eta) {
  return d_eta * eta * (R(1) - eta);
}

}  // namespace kla::internal

#endif  // KLA_MATH_GATES_H_
