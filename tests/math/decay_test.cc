// SPDX-License-Identifier: Apache-2.0
// tests/math: decay in log space.
#include "kla/math/decay.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(DecayTest, IsTheExponentialAndExactlyZeroAtMinusInfinity) {
  EXPECT_EQ(internal::Decay(0.0), 1.0);
  EXPECT_EQ(internal::Decay(-2.0), std::exp(-2.0));
  EXPECT_EQ(internal::Decay(-700.0), std::exp(-700.0));
  EXPECT_EQ(internal::Decay(-1e5), 0.0);
  EXPECT_EQ(internal::Decay(-kInfinity), 0.0);
  EXPECT_EQ(internal::Decay(-std::numeric_limits<float>::infinity()), 0.0f);
}

// The clamp changes nothing that a double could tell: exp is 0 there already.
TEST(DecayTest, ClampsWhereTheExponentialIsZeroAnyway) {
  EXPECT_EQ(std::exp(internal::kMinLogDecay), 0.0);
  EXPECT_EQ(internal::ClampLogDecay(-999.5), -999.5);
  EXPECT_EQ(internal::ClampLogDecay(-kInfinity), internal::kMinLogDecay);
  EXPECT_EQ(internal::ClampLogDecay(0.0f), 0.0f);
}

TEST(CumulativeLogDecayTest, SumsAlongAStride) {
  const std::vector<float> g = {-0.5f, 9, -0.25f, 9, -1.0f, 9};
  double sums[3];
  internal::CumulativeLogDecay(g.data(), 2, 3, sums);
  EXPECT_EQ(sums[0], -0.5);
  EXPECT_EQ(sums[1], -0.75);
  EXPECT_EQ(sums[2], -1.75);
  internal::CumulativeLogDecay(g.data(), 2, 0, sums);  // no tokens: nothing is written
  EXPECT_EQ(sums[0], -0.5);
}

// Minus infinity anywhere: no difference of sums is NaN, and every product across it is 0.
TEST(CumulativeLogDecayTest, MinusInfinityCutsTheChunkWithoutNan) {
  std::vector<double> g = {-0.1, -kInfinity, -0.2, -kInfinity, -kInfinity, -0.3};
  std::vector<double> sums(g.size());
  internal::CumulativeLogDecay(g.data(), 1, static_cast<Index>(g.size()), sums.data());
  for (std::size_t i = 0; i < g.size(); ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double exact = 1;
      for (std::size_t t = j + 1; t <= i; ++t) exact *= std::exp(g[t]);
      // One rounding per sum; sums reach 1000 for each -infinity passed.
      EXPECT_NEAR(internal::DecayBetween(sums[i], sums[j]), exact, 4000 * 0x1p-52 * exact)
          << i << " " << j;
    }
  }
}

// 64 tokens of g down to -20 in float: products of neighbours keep float precision, because the
// sums are double. Summed in float they would lose 1280 * 2^-24 = 8e-5, a thousand roundoffs.
TEST(CumulativeLogDecayTest, KeepsFloatPrecisionUnderStrongDecay) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<float> strong(-20.0f, -19.0f), weak(-1e-3f, 0.0f);
  std::vector<float> g(64);
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = i < 60 ? strong(random) : weak(random);
  std::vector<double> sums(g.size());
  internal::CumulativeLogDecay(g.data(), 1, 64, sums.data());
  for (std::size_t i = 60; i < 64; ++i) {
    double exact = 1;
    for (std::size_t t = 60; t <= i; ++t) exact *= std::exp(static_cast<double>(g[t]));
    EXPECT_NEAR(internal::DecayBetween(sums[i], sums[59]), exact, 1280 * 64 * 0x1p-53);
  }
}

}  // namespace
}  // namespace kla::test
