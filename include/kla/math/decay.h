// SPDX-License-Identifier: Apache-2.0
// math: the decay a = exp(g), g <= 0 in natural-log space, and its products inside a chunk.
#ifndef KLA_MATH_DECAY_H_
#define KLA_MATH_DECAY_H_

#include <cmath>

#include "kla/core/scalar.h"

namespace kla::internal {

// exp of anything below is 0 in double precision as well. Clamping there keeps g = -infinity out of
// differences of cumulative sums, where it would give NaN.
inline constexpr double kMinLogDecay = -1000.0;

template <class R>
KLA_HOST_DEVICE R ClampLogDecay(R g) {
  return g < R(kMinLogDecay) ? R(kMinLogDecay) : g;
}

template <class R>
KLA_HOST_DEVICE R Decay(R g) {
  using std::exp;
  return exp(ClampLogDecay(g));
}

// cumulative[i] = g[0] + ... + g[i] for i < count, each g clamped. Sums in W: with g = -20 the sums
// of a chunk of 64 reach -1280, where float resolves only 1e-4 of a difference that may be near 0.
template <class R, class W>
KLA_HOST_DEVICE void CumulativeLogDecay(const R* g, Index stride, Index count, W* cumulative) {
  W sum(0);
  for (Index i = 0; i < count; ++i) {
    sum += ClampLogDecay(W(g[i * stride]));
    cumulative[i] = sum;
  }
}

// D(i, j) = exp(G_i - G_j), the decay from token j to a later token i >= j of the same chunk.
// Always formed from the difference: exp(-G_j) alone overflows.
template <class W>
KLA_HOST_DEVICE W DecayBetween(W later, W earlier) {
  using std::exp;
  return exp(later - earlier);
}

}  // namespace kla::internal

#endif  // KLA_MATH_DECAY_H_
