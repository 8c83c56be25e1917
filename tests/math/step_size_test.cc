// SPDX-License-Identifier: Apache-2.0
// tests/math: the six step sizes, by hand and by finite differences.
#include "kla/math/step_size.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "gtest/gtest.h"
#include "support/step_sizes.h"

namespace kla::test {
namespace {

template <class S>
class StepSizeTest : public testing::Test {};

using TheSix = testing::Types<Kla, RelaxedKaczmarz, Kaczmarz, Gdn, Longhorn, PlainDelta>;
TYPED_TEST_SUITE(StepSizeTest, TheSix, StepSizeName);

// eta = 0.5, n = 3, eps = 1: one number a row of the table in step_size.h.
template <class S>
struct ByHand;
template <>
struct ByHand<Kla> {
  static constexpr double kBeta = 0.5 / 4, kToEta = 1.0 / 4, kToNorm2 = -0.5 / 16;
  static constexpr bool kQuery = true, kKey = false;
};
template <>
struct ByHand<RelaxedKaczmarz> : ByHand<Kla> {
  static constexpr bool kQuery = false;
};
template <>
struct ByHand<Kaczmarz> {
  static constexpr double kBeta = 1.0 / 4, kToEta = 0, kToNorm2 = -1.0 / 16;
  static constexpr bool kQuery = false, kKey = false;
};
template <>
struct ByHand<Gdn> {
  static constexpr double kBeta = 0.5, kToEta = 1, kToNorm2 = 0;
  static constexpr bool kQuery = true, kKey = true;
};
template <>
struct ByHand<Longhorn> {
  static constexpr double kBeta = 0.5 / 2.5, kToEta = 1 / 6.25, kToNorm2 = -0.25 / 6.25;
  static constexpr bool kQuery = false, kKey = false;
};
template <>
struct ByHand<PlainDelta> : ByHand<Gdn> {
  static constexpr bool kQuery = false, kKey = false;
};

TYPED_TEST(StepSizeTest, HasTheValuesComputedByHand) {
  static_assert(StepSizePolicy<TypeParam>);
  using Hand = ByHand<TypeParam>;
  EXPECT_DOUBLE_EQ(TypeParam::Beta(0.5, 3.0, 1.0), Hand::kBeta);
  const StepDerivatives<double> d = TypeParam::Derivatives(0.5, 3.0, 1.0);
  EXPECT_DOUBLE_EQ(d.eta, Hand::kToEta);
  EXPECT_DOUBLE_EQ(d.norm2, Hand::kToNorm2);
  EXPECT_EQ(TypeParam::kNormalizeQuery, Hand::kQuery);
  EXPECT_EQ(TypeParam::kNormalizeKey, Hand::kKey);
}

// Central differences with a step h err by h^2 f'''/6 + u |f| / h. Every f here is smooth with
// |f'''| <= 6 |f| / x^3 in its argument x, so with h = 1e-5 x: 1e-10 |f|/x + 1e-11 |f|/x.
TYPED_TEST(StepSizeTest, DerivativesAgreeWithFiniteDifferences) {
  for (const double eta : {1e-3, 0.3, 0.999, 1.9}) {
    for (const double n : {1e-7, 0.01, 1.0, 37.0, 1e8}) {
      for (const double epsilon : {0.0, 1e-6, 0.1}) {
        SCOPED_TRACE(testing::Message() << "eta " << eta << ", n " << n << ", eps " << epsilon);
        const auto d = TypeParam::Derivatives(eta, n, epsilon);
        const double h = 1e-5 * eta, e = 1e-5 * n;
        const double scale = std::abs(TypeParam::Beta(eta, n, epsilon));
        const double to_eta =
            (TypeParam::Beta(eta + h, n, epsilon) - TypeParam::Beta(eta - h, n, epsilon)) / (2 * h);
        const double to_n =
            (TypeParam::Beta(eta, n + e, epsilon) - TypeParam::Beta(eta, n - e, epsilon)) / (2 * e);
        EXPECT_NEAR(d.eta, to_eta, 2e-10 * scale / eta);
        EXPECT_NEAR(d.norm2, to_n, 2e-10 * scale / n);
      }
    }
  }
}

TYPED_TEST(StepSizeTest, NamesDiffer) {
  const auto same = [](std::string_view name) { return name == TypeParam::kName ? 1 : 0; };
  EXPECT_EQ(same(Kla::kName) + same(RelaxedKaczmarz::kName) + same(Kaczmarz::kName) +
                same(Gdn::kName) + same(Longhorn::kName) + same(PlainDelta::kName),
            1);
}

// What a user may write: nothing but the concept holds it together.
struct Incomplete {
  static constexpr std::string_view kName = "Incomplete";
  static constexpr bool kNormalizeQuery = false;
  template <class R>
  static R Beta(R eta, R, R) {
    return eta;
  }
};
static_assert(!StepSizePolicy<Incomplete>);

}  // namespace
}  // namespace kla::test
