// SPDX-License-Identifier: Apache-2.0
#include "op/decode_step_suite.h"

namespace kla::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, DecodeStepTest, ReferenceConfigs, ConfigName);
}  // namespace kla::test
