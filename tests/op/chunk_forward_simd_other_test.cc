// SPDX-License-Identifier: Apache-2.0
#include "op/chunk_forward_suite.h"
#include "support/simd_configs.h"
#include "support/simd_forward_roundoff.h"

namespace kla::test {

INSTANTIATE_TYPED_TEST_SUITE_P(Other, ChunkForwardTest, SimdOtherConfigs, ConfigName);
}  // namespace kla::test
