// SPDX-License-Identifier: Apache-2.0
#include "op/decode_state_suite.h"

namespace kla::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Simd, DecodeStateTest, DecodeStateConfigs<Simd>, ConfigName);
}  // namespace kla::test
