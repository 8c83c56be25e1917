// SPDX-License-Identifier: Apache-2.0
// tests/support: every step size, for typed suites that run over them.
#ifndef KLA_TESTS_SUPPORT_STEP_SIZES_H_
#define KLA_TESTS_SUPPORT_STEP_SIZES_H_

#include <string>
#include <string_view>

#include "gtest/gtest.h"
#include "kla/math/step_size.h"

namespace kla::test {

// A caller's own: a normalised key whose step looks at its length. None of the six has both.
struct NormalizedLonghorn : Longhorn {
  static constexpr std::string_view kName = "NormalizedLonghorn";
  static constexpr bool kNormalizeKey = true;
};

using StepSizes =
    testing::Types<Kla, RelaxedKaczmarz, Kaczmarz, Gdn, Longhorn, PlainDelta, NormalizedLonghorn>;

struct StepSizeName {
  template <class S>
  static std::string GetName(int /*position*/) {
    return std::string(S::kName);
  }
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_STEP_SIZES_H_
