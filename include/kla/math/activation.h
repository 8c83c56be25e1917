// SPDX-License-Identifier: Apache-2.0
// math: the functions that gates and activations are made of, scalar by scalar. Host and device.
#ifndef KLA_MATH_ACTIVATION_H_
#define KLA_MATH_ACTIVATION_H_

#include <cmath>
#include <type_traits>

#include "kla/core/scalar.h"

namespace kla::internal {

// 1 / (1 + exp(-x)).
template <class T>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE T Sigmoid(const T& x) {
  using std::exp;
  return T(1) / T(T(1) + T(exp(T(-x))));
}

// log(1 + exp(x)), without overflow; its slope is Sigmoid(x).
template <class T>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE T Softplus(const T& x) {
  using std::exp;
  using std::log;
  using std::log1p;
  const T decayed = exp(x > T(0) ? T(-x) : x);  // exp(-|x|)
  T rest;
  if constexpr (std::is_floating_point_v<T>) {
    rest = log1p(decayed);
  } else {
    rest = log(T(T(1) + decayed));
  }
  return x > T(0) ? T(x + rest) : rest;
}

// The slope of SiLU(x) = x s with s = Sigmoid(x).
template <class T>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE T SiluSlope(const T& x, const T& s) {
  return s * (T(1) + x * (T(1) - s));
}

}  // namespace kla::internal

#endif  // KLA_MATH_ACTIVATION_H_
