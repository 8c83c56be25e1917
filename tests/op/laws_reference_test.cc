// SPDX-License-Identifier: Apache-2.0
#include "op/laws_suite.h"

namespace kla::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, LawsTest, LawConfigs<Reference>, ConfigName);
}  // namespace kla::test
