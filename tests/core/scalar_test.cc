// SPDX-License-Identifier: Apache-2.0
// tests/core: the 16-bit formats against a rounding written in double from their definition.
#include "kla/core/scalar.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

// A binary format by its IEEE 754 parameters; everything below is derived from them.
template <class Half>
struct Format;
template <>
struct Format<float16> {
  static constexpr int kMantissaBits = 10, kMinExponent = -14, kMaxExponent = 15;
};
template <>
struct Format<bfloat16> {
  static constexpr int kMantissaBits = 7, kMinExponent = -126, kMaxExponent = 127;
};

// The value of a bit pattern: (-1)^s 2^e 1.m, subnormals 2^min 0.m, infinities and NaN at the top.
template <class Half>
double ValueOf(std::uint16_t bits) {
  using F = Format<Half>;
  const int mantissa = bits & ((1 << F::kMantissaBits) - 1);
  const int field = (bits & 0x7fff) >> F::kMantissaBits;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (field == F::kMaxExponent - F::kMinExponent + 2) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  }
  const int implicit = field == 0 ? 0 : 1 << F::kMantissaBits;
  const int exponent = (field == 0 ? 1 : field) - 1 + F::kMinExponent;
  return sign * std::ldexp(mantissa + implicit, exponent - F::kMantissaBits);
}

// Nearest value of the format, ties to even. Exact: a float divided by a power of two and rounded
// to an integer (std::nearbyint, ties to even) fits a double.
template <class Half>
double Rounded(double x) {
  using F = Format<Half>;
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), F::kMinExponent);
  const double quantum = std::ldexp(1.0, exponent - F::kMantissaBits);
  const double rounded = std::nearbyint(x / quantum) * quantum;
  const double largest = std::ldexp(2.0 - std::ldexp(1.0, -F::kMantissaBits), F::kMaxExponent);
  return std::abs(rounded) > largest ? std::copysign(HUGE_VAL, x) : rounded;
}

template <class Half>
class HalfWidthTest : public testing::Test {};

struct Names {
  template <class Half>
  static std::string GetName(int) {
    return std::is_same_v<Half, float16> ? "f16" : "bf16";
  }
};
using HalfWidthTypes = testing::Types<bfloat16, float16>;
TYPED_TEST_SUITE(HalfWidthTest, HalfWidthTypes, Names);

// Equality that tells 0 from -0. ASSERT_ below: the first of 65,536 failures is enough.
bool SameNumber(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

TYPED_TEST(HalfWidthTest, EveryBitPatternConvertsToItsValue) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    TypeParam half;
    half.bits = static_cast<std::uint16_t>(bits);
    ASSERT_TRUE(SameNumber(static_cast<float>(half), ValueOf<TypeParam>(half.bits))) << bits;
  }
}

TYPED_TEST(HalfWidthTest, EveryBitPatternSurvivesTheRoundTrip) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    TypeParam half;
    half.bits = static_cast<std::uint16_t>(bits);
    const float value = half;
    const TypeParam back(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      ASSERT_EQ(back.bits, half.bits);
    }
  }
}

// Rounding is monotone, so it is right everywhere if it is right at each value, at each midpoint
// between neighbours and one float to either side of both.
TYPED_TEST(HalfWidthTest, RoundsToNearestTiesToEvenAroundEveryValueAndMidpoint) {
  constexpr int kInfinity = (Format<TypeParam>::kMaxExponent - Format<TypeParam>::kMinExponent + 2)
                            << Format<TypeParam>::kMantissaBits;
  for (int bits = 0; bits < kInfinity; ++bits) {
    const double value = ValueOf<TypeParam>(static_cast<std::uint16_t>(bits));
    // Above the largest value the neighbour is what the next exponent would begin with.
    const double next = bits + 1 < kInfinity
                            ? ValueOf<TypeParam>(static_cast<std::uint16_t>(bits + 1))
                            : std::ldexp(1.0, Format<TypeParam>::kMaxExponent + 1);
    for (const double at : {value, (value + next) / 2}) {
      const auto centre = static_cast<float>(at);
      for (const float x :
           {std::nextafter(centre, -1.0f), centre, std::nextafter(centre, HUGE_VALF)}) {
        for (const float signed_x : {x, -x}) {
          ASSERT_TRUE(
              SameNumber(static_cast<float>(TypeParam(signed_x)), Rounded<TypeParam>(signed_x)))
              << signed_x;
        }
      }
    }
  }
}

TYPED_TEST(HalfWidthTest, InfinityAndNanStayWhatTheyAre) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(TypeParam(kInfinity)), kInfinity);
  EXPECT_EQ(static_cast<float>(TypeParam(-kInfinity)), -kInfinity);
  // Every mantissa bit alone: a payload that rounds away must not turn NaN into infinity.
  for (std::uint32_t payload = 1; payload < 0x800000u; payload <<= 1) {
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const float nan = std::bit_cast<float>(sign | 0x7f800000u | payload);
      EXPECT_TRUE(std::isnan(static_cast<float>(TypeParam(nan)))) << payload;
    }
  }
  EXPECT_EQ(static_cast<float>(TypeParam(std::numeric_limits<float>::max())),
            static_cast<float>(Rounded<TypeParam>(std::numeric_limits<float>::max())));
}

struct OwnScalar {
  double value;
};

TEST(ScalarTest, SumsAndGatesAreHeldInWiderTypes) {
  static_assert(std::is_same_v<Accumulator<float>, float>);
  static_assert(std::is_same_v<Accumulator<bfloat16>, float>);
  static_assert(std::is_same_v<Accumulator<const float16>, float>);
  static_assert(std::is_same_v<Accumulator<double>, double>);
  static_assert(std::is_same_v<Accumulator<OwnScalar>, OwnScalar>);
  static_assert(std::is_same_v<Wide<float>, double>);
  static_assert(std::is_same_v<Wide<const bfloat16>, double>);
  static_assert(std::is_same_v<Wide<float16>, double>);
  static_assert(std::is_same_v<Wide<double>, double>);
  static_assert(std::is_same_v<Wide<OwnScalar>, OwnScalar>);
  static_assert(sizeof(bfloat16) == 2 && sizeof(float16) == 2);
  static_assert(std::is_trivially_copyable_v<bfloat16> && std::is_trivially_copyable_v<float16>);
  SUCCEED();
}

}  // namespace
}  // namespace kla::test
