// SPDX-License-Identifier: Apache-2.0
// tests/math: the unit-key form is the same update, for every step size and every length of key.
#include "kla/math/unit_key.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kla/math/recurrence.h"
#include "support/step_sizes.h"

namespace kla::test {
namespace {

template <class S>
class UnitKeyTest : public testing::Test {};

TYPED_TEST_SUITE(UnitKeyTest, StepSizes, StepSizeName);

// Squared norms from 0 over those of the smallest and the largest float keys.
constexpr double kNorms[] = {0, 1e-90, 1e-44, 1e-12, 1e-6, 0.3, 1, 5e3, 1e20, 1e38, 1e60, 1e79};

// b r^2 = beta and b r r_v = beta: exactly, so within the few roundings of r, r^2 and b.
TYPED_TEST(UnitKeyTest, ScalesMultiplyBackToTheStep) {
  for (const double n : kNorms) {
    for (const double epsilon : {1e-6, 0.5, 0.0}) {
      for (const double eta : {0.0, 0.7, 1.0, 2.0}) {
        if (n + epsilon == 0) continue;  // see KeyOfLengthZero
        SCOPED_TRACE(testing::Message() << "n " << n << ", eps " << epsilon << ", eta " << eta);
        const internal::UnitKeyScales<double> s = internal::UnitKey<TypeParam>(eta, n, epsilon);
        if (TypeParam::kNormalizeKey) {
          EXPECT_EQ(s.value, 1.0);
          EXPECT_EQ(s.step, TypeParam::Beta(eta, n * s.key * s.key, epsilon));
        } else {
          const double beta = TypeParam::Beta(eta, n, epsilon);
          EXPECT_NEAR(s.step * s.key * s.key, beta, 8 * 0x1p-53 * beta);
          EXPECT_EQ(s.key, s.value);
        }
        EXPECT_NEAR(s.key * s.key * (n + epsilon), 1.0, 8 * 0x1p-53);
      }
    }
  }
}

TYPED_TEST(UnitKeyTest, TheStepOfAKeyOfLengthZeroIsFinite) {
  for (const double epsilon : {0.0, 1e-6}) {
    const internal::UnitKeyScales<double> s = internal::UnitKey<TypeParam>(0.7, 0.0, epsilon);
    EXPECT_TRUE(std::isfinite(s.key) && std::isfinite(s.value) && std::isfinite(s.step));
    const auto d = internal::UnitKeyBackward<TypeParam>(0.7, 0.0, epsilon, 0.0, 0.0, 0.0);
    EXPECT_TRUE(std::isfinite(d.norm2) && std::isfinite(d.eta));
    if (epsilon == 0) {
      EXPECT_EQ(s.key, 0.0);
    }
  }
}

// The update with beta and raw k against the update with b, k~ and v~.
TYPED_TEST(UnitKeyTest, IsTheSameUpdate) {
  constexpr Index kK = 6, kV = 4;
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  for (const double length : {0.0, 1e-40, 1e-15, 1e-3, 1.0, 50.0, 1e15, 1e30}) {
    SCOPED_TRACE(testing::Message() << "|k| about " << length);
    std::vector<double> q(kK), k(kK), v(kV), o(kV), o_unit(kV), s(kK * kV), s_unit;
    for (double& x : q) x = normal(random);
    for (double& x : k) x = length * normal(random);
    for (double& x : v) x = normal(random);
    for (double& x : s) x = normal(random);
    s_unit = s;
    const double eta = 0.8, epsilon = 1e-6, g = -0.1, scale = 0.5;
    double n = 0;
    for (const double x : k) n += x * x;
    std::vector<double> raw = k;
    if (TypeParam::kNormalizeKey) {
      for (double& x : raw) x /= std::sqrt(n + epsilon);
    }
    double raw_n = 0;
    for (const double x : raw) raw_n += x * x;
    const double beta = TypeParam::Beta(eta, raw_n, epsilon);
    internal::RecurrenceStep({s.data(), kK, kV, kV, 1}, q.data(), raw.data(), v.data(), g, beta,
                             scale, o.data());
    const internal::UnitKeyScales<double> scales = internal::UnitKey<TypeParam>(eta, n, epsilon);
    for (double& x : k) x *= scales.key;
    for (double& x : v) x *= scales.value;
    internal::RecurrenceStep({s_unit.data(), kK, kV, kV, 1}, q.data(), k.data(), v.data(), g,
                             scales.step, scale, o_unit.data());
    // Each element sums K products of b k~_i k~_m S_mj besides v: a relative error of the largest.
    const double unit = std::abs(scales.step);
    const double bound = 20 * kK * 0x1p-53 * (1 + unit) * 4;
    for (std::size_t i = 0; i < s.size(); ++i) {
      EXPECT_NEAR(s_unit[i], s[i], bound * (1 + std::abs(s[i])));
    }
    for (std::size_t j = 0; j < o.size(); ++j) {
      EXPECT_NEAR(o_unit[j], o[j], bound * kK * (1 + std::abs(o[j])));
    }
  }
}

// L(n, eta) = a r + b r_v + c b~ with arbitrary weights: its derivatives are what UnitKeyBackward
// returns for d_scale_key = a, d_scale_value = b, d_step = c. Bound: as in step_size_test.cc, |L|
// replaced by the sum of the terms' sizes; three terms, third derivatives up to 15/8 r^7.
TYPED_TEST(UnitKeyTest, GradientsAgreeWithFiniteDifferences) {
  for (const double a : {0.0, 1.3}) {
    for (const double b : {0.0, -0.8}) {
      for (const double c : {0.0, 0.6}) {
        for (const double eta : {0.05, 0.9, 1.7}) {
          for (const double n : {1e-4, 0.2, 1.0, 30.0}) {
            for (const double epsilon : {0.0, 1e-6, 0.3}) {
              const auto loss = [&](double at_n, double at_eta) {
                const auto s = internal::UnitKey<TypeParam>(at_eta, at_n, epsilon);
                return a * s.key + (TypeParam::kNormalizeKey ? 0.0 : b * s.value) + c * s.step;
              };
              const auto s = internal::UnitKey<TypeParam>(eta, n, epsilon);
              const double size =
                  std::abs(a * s.key) + std::abs(b * s.value) + std::abs(c * s.step);
              const double h = 1e-5 * eta, e = 1e-5 * n;
              const auto d = internal::UnitKeyBackward<TypeParam>(eta, n, epsilon, a, b, c);
              EXPECT_NEAR(d.norm2, (loss(n + e, eta) - loss(n - e, eta)) / (2 * e),
                          4e-10 * size / n);
              EXPECT_NEAR(d.eta, (loss(n, eta + h) - loss(n, eta - h)) / (2 * h),
                          4e-10 * size / eta);
            }
          }
        }
      }
    }
  }
}

TEST(InverseNormTest, IsTheInverseRootAndZeroAtZero) {
  EXPECT_EQ(internal::InverseNorm(3.0, 1.0), 0.5);
  EXPECT_EQ(internal::InverseNorm(0.0, 1e-6), 1 / std::sqrt(1e-6));
  EXPECT_EQ(internal::InverseNorm(0.0, 0.0), 0.0);
  EXPECT_EQ(internal::InverseNorm(0.25f, 0.0f), 2.0f);
}

}  // namespace
}  // namespace kla::test
