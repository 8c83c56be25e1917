// SPDX-License-Identifier: Apache-2.0
#include "op/chunk_forward_suite.h"

namespace kla::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, ChunkForwardTest, ReferenceConfigs, ConfigName);
}  // namespace kla::test
