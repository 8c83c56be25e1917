// SPDX-License-Identifier: Apache-2.0
// tests/support: what the Simd backend rounds its factors to when it prefills.
#ifndef KLA_TESTS_SUPPORT_SIMD_FORWARD_ROUNDOFF_H_
#define KLA_TESTS_SUPPORT_SIMD_FORWARD_ROUNDOFF_H_

#include "kla/kla.h"
#include "support/tolerance.h"

namespace kla::test {

#if KLA_SIMD_HAS_BF16_DOT
// Prefill multiplies bfloat16 pairs: the state, V', w V' and P are rounded where they are factors.
template <>
inline constexpr double kOperandRoundoff<Simd, bfloat16> = kRoundoff<bfloat16>;
#endif

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_SIMD_FORWARD_ROUNDOFF_H_
