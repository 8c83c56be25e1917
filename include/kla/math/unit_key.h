// SPDX-License-Identifier: Apache-2.0
// math: the unit-key form, which every backend computes in. Host and device.
//
// With n = |k|^2 and r = (n + eps)^(-1/2), each step size is a gated delta rule on scaled inputs:
//   S <- a S + b k~ (v~ - a S^T k~)^T,   k~ = r k,   v~ = r_v v
//   k raw:                 r_v = r,  b = Beta(eta, n) (n + eps)          (Kla: b = eta)
//   k normalised (Gdn):    r_v = 1,  b = Beta(eta, n r^2)                (Gdn: b = eta)
// exactly, k = 0 included. Keys of length at most 1 keep the triangular systems of the chunk form
// well conditioned: with raw keys of log-normal length the inverses reach 6 to 38, with unit
// keys 1.
//
// With eps = 0 a key k = 0 has r = 0, so that it writes nothing and its gradient counts as 0, and
// r v must fit the type of v: let eps be positive unless |k| is known to stay away from 0.
//
// These scalars are computed in Wide<T>, so that |k|^2 of float inputs cannot overflow.
#ifndef KLA_MATH_UNIT_KEY_H_
#define KLA_MATH_UNIT_KEY_H_

#include <cmath>
#include <type_traits>

#include "kla/core/scalar.h"
#include "kla/math/step_size.h"

namespace kla::internal {

// (n + eps)^(-1/2), and 0 where n + eps = 0.
template <class W>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE W InverseNorm(W norm2, W epsilon) {
  using std::sqrt;
  const W sum = norm2 + epsilon;
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<W, double>) return sum > 0 ? ::rsqrt(sum) : 0.0;
#endif
  return sum > W(0) ? W(W(1) / sqrt(sum)) : W(0);
}

template <class W>
struct UnitKeyScales {
  W key;    // r:   k~ = r k
  W value;  // r_v: v~ = r_v v
  W step;   // b
};

template <class StepSize, class W>
KLA_HOST_DEVICE UnitKeyScales<W> UnitKey(W eta, W norm2, W epsilon) {
  const W r = InverseNorm(norm2, epsilon);
  if constexpr (StepSize::kNormalizeKey) {
    return {r, W(1), StepSize::Beta(eta, W(norm2 * r * r), epsilon)};
  } else {
    const W sum = norm2 + epsilon;
    if (!(sum > W(0))) return {W(0), W(0), W(0)};
    return {r, r, StepSize::Beta(eta, norm2, epsilon) * sum};
  }
}

template <class W>
struct UnitKeyGradient {
  W norm2;  // d n: dk = r dk~ + 2 d_n k
  W eta;    // d eta
};

// From d_scale_key = <k, dk~>, d_scale_value = <v, dv~> (ignored where v~ = v) and d_step = db.
template <class StepSize, class W>
KLA_HOST_DEVICE UnitKeyGradient<W> UnitKeyBackward(W eta, W norm2, W epsilon, W d_scale_key,
                                                   W d_scale_value, W d_step) {
  const W r = InverseNorm(norm2, epsilon);
  const W half_r3 = r * r * r / W(2);  // dr/dn = -r^3 / 2
  if constexpr (StepSize::kNormalizeKey) {
    // n^ = n / (n + eps), so dn^/dn = eps r^4.
    const auto d = StepSize::Derivatives(eta, W(norm2 * r * r), epsilon);
    return {d_step * d.norm2 * epsilon * r * r * r * r - half_r3 * d_scale_key, d_step * d.eta};
  } else {
    const W sum = norm2 + epsilon;
    if (!(sum > W(0))) return {W(0), W(0)};
    const auto d = StepSize::Derivatives(eta, norm2, epsilon);
    const W d_sum = d.norm2 * sum + StepSize::Beta(eta, norm2, epsilon);
    return {d_step * d_sum - half_r3 * (d_scale_key + d_scale_value), d_step * d.eta * sum};
  }
}

}  // namespace kla::internal

#endif  // KLA_MATH_UNIT_KEY_H_
