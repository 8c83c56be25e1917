// SPDX-License-Identifier: Apache-2.0
#include "op/chunk_forward_suite.h"
#include "support/simd_configs.h"

namespace kla::test {

#if KLA_SIMD_HAS_BF16_DOT
// Prefill multiplies bfloat16 pairs: the state, V', w V' and P are rounded where they are factors.
template <>
inline constexpr double kOperandRoundoff<Simd, bfloat16> = kRoundoff<bfloat16>;
#endif

INSTANTIATE_TYPED_TEST_SUITE_P(Other, ChunkForwardTest, SimdOtherConfigs, ConfigName);
}  // namespace kla::test
