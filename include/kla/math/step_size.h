// SPDX-License-Identifier: Apache-2.0
// math: step sizes beta = Beta(eta, n, epsilon) of the update S <- aS + beta k (v - a S^T k)^T,
// with n = |k|^2, and whether q and k are L2-normalised first, x / sqrt(|x|^2 + epsilon). Host and
// device.
//
//   policy            beta              q     k      source
//   Kla               eta / (n + eps)   L2    raw    Zou, Ren, Liu: Kaczmarz Linear Attention
//   RelaxedKaczmarz   eta / (n + eps)   raw   raw    the same, without the normalised query
//   Kaczmarz          1 / (n + eps)     raw   raw    Kaczmarz 1937: full projection
//   Gdn               eta               L2    L2     Yang, Kautz, Hatamizadeh: Gated Delta Networks
//   Longhorn          eta / (1 + eta n) raw   raw    Liu et al.: Longhorn
//   PlainDelta        eta               raw   raw    Widrow, Hoff 1960: the delta rule
//
// Where k is normalised first, n is the squared norm of the normalised key. A step size of your own
// is a struct like these (concept StepSizePolicy); no file of the library needs to change.
#ifndef KLA_MATH_STEP_SIZE_H_
#define KLA_MATH_STEP_SIZE_H_

#include <string_view>

#include "kla/core/concepts.h"
#include "kla/core/scalar.h"

namespace kla {

// beta = eta / (n + eps); q and k as they are.
struct RelaxedKaczmarz {
  static constexpr std::string_view kName = "RelaxedKaczmarz";
  static constexpr bool kNormalizeQuery = false;
  static constexpr bool kNormalizeKey = false;
  template <class R>
  KLA_HOST_DEVICE static R Beta(R eta, R norm2, R epsilon) {
    return eta / (norm2 + epsilon);
  }
  template <class R>
  KLA_HOST_DEVICE static StepDerivatives<R> Derivatives(R eta, R norm2, R epsilon) {
    const R inverse = R(1) / (norm2 + epsilon);
    return {inverse, -eta * inverse * inverse};
  }
};

// beta = eta / (n + eps); q L2-normalised. The default.
struct Kla : RelaxedKaczmarz {
  static constexpr std::string_view kName = "Kla";
  static constexpr bool kNormalizeQuery = true;
};

// beta = 1 / (n + eps); q and k as they are.
struct Kaczmarz {
  static constexpr std::string_view kName = "Kaczmarz";
  static constexpr bool kNormalizeQuery = false;
  static constexpr bool kNormalizeKey = false;
  template <class R>
  KLA_HOST_DEVICE static R Beta(R /*eta*/, R norm2, R epsilon) {
    return R(1) / (norm2 + epsilon);
  }
  template <class R>
  KLA_HOST_DEVICE static StepDerivatives<R> Derivatives(R /*eta*/, R norm2, R epsilon) {
    const R inverse = R(1) / (norm2 + epsilon);
    return {R(0), -inverse * inverse};
  }
};

// beta = eta; q and k as they are.
struct PlainDelta {
  static constexpr std::string_view kName = "PlainDelta";
  static constexpr bool kNormalizeQuery = false;
  static constexpr bool kNormalizeKey = false;
  template <class R>
  KLA_HOST_DEVICE static R Beta(R eta, R /*norm2*/, R /*epsilon*/) {
    return eta;
  }
  template <class R>
  KLA_HOST_DEVICE static StepDerivatives<R> Derivatives(R /*eta*/, R /*norm2*/, R /*epsilon*/) {
    return {R(1), R(0)};
  }
};

// Gated DeltaNet: beta = eta; q and k L2-normalised.
struct Gdn : PlainDelta {
  static constexpr std::string_view kName = "Gdn";
  static constexpr bool kNormalizeQuery = true;
  static constexpr bool kNormalizeKey = true;
};

// beta = eta / (1 + eta n); q and k as they are.
struct Longhorn {
  static constexpr std::string_view kName = "Longhorn";
  static constexpr bool kNormalizeQuery = false;
  static constexpr bool kNormalizeKey = false;
  template <class R>
  KLA_HOST_DEVICE static R Beta(R eta, R norm2, R /*epsilon*/) {
    return eta / (R(1) + eta * norm2);
  }
  template <class R>
  KLA_HOST_DEVICE static StepDerivatives<R> Derivatives(R eta, R norm2, R /*epsilon*/) {
    const R inverse = R(1) / (R(1) + eta * norm2);
    return {inverse * inverse, -eta * eta * inverse * inverse};
  }
};

}  // namespace kla

#endif  // KLA_MATH_STEP_SIZE_H_
