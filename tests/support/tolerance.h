// SPDX-License-Identifier: Apache-2.0
// tests/support: how far a result may lie from the oracle, derived from the unit roundoff, the
// lengths of the sums and the norms of what is summed.
#ifndef KLA_TESTS_SUPPORT_TOLERANCE_H_
#define KLA_TESTS_SUPPORT_TOLERANCE_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kla/core/scalar.h"

namespace kla::test {

// Unit roundoff: half the distance from 1 to the next number.
template <class T>
constexpr double kRoundoff = 0x1p-53;
template <>
inline constexpr double kRoundoff<float> = 0x1p-24;
template <>
inline constexpr double kRoundoff<float16> = 0x1p-11;
template <>
inline constexpr double kRoundoff<bfloat16> = 0x1p-8;

inline double Rms(const std::vector<double>& x) {
  double sum = 0;
  for (const double e : x) sum += e * e;
  return x.empty() ? 0.0 : std::sqrt(sum / static_cast<double>(x.size()));
}

// Half the spacing of the smallest numbers, where it matters: float16 has no exponents below 2^-24.
template <class T>
constexpr double kUnderflow = 0;
template <>
inline constexpr double kUnderflow<float16> = 0x1p-25;

// Rounding errors of a sum of m terms behave like a random walk: sqrt(m) roundoffs of its norm. One
// token sums over the key axis (S^T k, S^T q) and, in the chunk form, over up to 2 * 64 tokens of a
// chunk; the update is non-expansive, so the errors of T tokens add up as a random walk again.
inline double Growth(Index tokens, Index key_dim, Index value_dim) {
  const auto root = [](Index m) { return std::sqrt(static_cast<double>(m)); };
  return (root(key_dim) + root(value_dim) + root(128) + 4.0) * root(std::max<Index>(tokens, 1));
}

// Backends that round the factors of matrix products to less than Accumulator<T>: to this roundoff.
template <class Backend, class T>
constexpr double kOperandRoundoff = 0;

// A product of rounded factors errs by their roundoff of its norm, however long its sums are. About
// eight factors are rounded on the way through a chunk; chunks add up as a random walk.
inline double OperandGrowth(Index tokens) {
  return std::sqrt(8.0 * std::ceil(static_cast<double>(tokens) / 64.0));
}

struct Deviation {
  double error;      // RMS of actual - expected; infinite where either is not finite
  double reference;  // RMS of expected
};

inline Deviation Compare(const std::vector<double>& actual, const std::vector<double>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  std::vector<double> difference(expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference[i] =
        std::isfinite(actual[i]) && std::isfinite(expected[i]) ? actual[i] - expected[i] : HUGE_VAL;
  }
  return {Rms(difference), Rms(expected)};
}

// RMS error of an array below `absolute`, an error bound from norms, plus one rounding of the
// result to its storage type with unit roundoff `storage`.
inline void ExpectClose(const char* what, const std::vector<double>& actual,
                        const std::vector<double>& expected, double absolute, double storage) {
  const Deviation deviation = Compare(actual, expected);
  EXPECT_LE(deviation.error, absolute + storage * deviation.reference)
      << what << ": RMS error " << deviation.error << ", RMS of the reference "
      << deviation.reference;
}

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_TOLERANCE_H_
