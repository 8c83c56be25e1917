// SPDX-License-Identifier: Apache-2.0
// Relative RMS errors of ChunkForward and ChunkBackward on Simd against the oracle in double, per
// type, shape and decay: printed as a table and bounded.
#include <cstdio>

#include "gtest/gtest.h"
#include "kla/kla.h"
#include "support/configs.h"
#include "support/exact.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {
namespace {

struct Bounds {
  double forward, gradient;
};
// float: 50 and 170 roundoffs; 16-bit storage: one roundoff and a quarter, the oracle's result
// being exact and theirs rounded once.
template <class T>
constexpr Bounds kBounds = {3e-6, 1e-5};
template <>
constexpr Bounds kBounds<bfloat16> = {5e-3, 5e-3};
template <>
constexpr Bounds kBounds<float16> = {6e-4, 6e-4};

template <class C>
class ChunkAccuracyTest : public ::testing::Test {
 protected:
  static void Report(const char* what, const std::vector<double>& actual,
                     const std::vector<double>& expected, double bound) {
    const Deviation deviation = Compare(actual, expected);
    // A decay of -infinity may make a gradient exactly 0.
    std::printf("  %s %.1e", what,
                deviation.error > 0 ? deviation.error / deviation.reference : 0.0);
    EXPECT_LE(deviation.error, bound * deviation.reference) << what;
  }

  static void Measure(const Case& c, std::uint64_t seed) {
    constexpr Bounds kBound = kBounds<typename C::T>;
    const Given<C> given(c, seed);
    const OracleResult oracle = RunOracle<Kla>(c, given.tensors);
    const auto forward = RunForward<C>(c, given.tensors);
    std::printf("%-22s %-13s", ConfigName::GetName<C>(0).c_str(), c.name.c_str());
    Report("o", forward.o.Values(), oracle.o.Values(), kBound.forward);
    Report("S", forward.final_state.Values(), oracle.final_state.Values(), kBound.forward);
    const auto expected = ExactGradients<Kla>(given.exact_case, given.exact);
    const auto actual = RunBackward<C>(c, given.tensors);
    Report("dq", actual.dq.Values(), expected.dq.Values(), kBound.gradient);
    Report("dk", actual.dk.Values(), expected.dk.Values(), kBound.gradient);
    Report("dv", actual.dv.Values(), expected.dv.Values(), kBound.gradient);
    Report("dg", actual.dg.Values(), expected.dg.Values(), kBound.gradient);
    Report("deta", actual.deta.Values(), expected.deta.Values(), kBound.gradient);
    Report("dS", actual.d_initial_state.Values(), expected.d_initial_state.Values(),
           kBound.gradient);
    std::printf("\n");
  }
};

using Configs = ::testing::Types<Config<Simd, float, 64, 64>, Config<Simd, float, 96, 192>,
                                 Config<Simd, float, 128, 128>, Config<Simd, float, 256, 256>,
                                 Config<Simd, bfloat16, 96, 192>, Config<Simd, bfloat16, 128, 128>,
                                 Config<Simd, float16, 128, 128>>;
TYPED_TEST_SUITE(ChunkAccuracyTest, Configs, ConfigName);

TYPED_TEST(ChunkAccuracyTest, RelativeErrorsAreBounded) {
  this->Measure({.name = "ordinary", .tokens = 500}, 1);
  this->Measure({.name = "no_decay", .tokens = 500, .inputs = Inputs::kNoDecay}, 2);
  this->Measure({.name = "strong_decay", .tokens = 500, .inputs = Inputs::kStrongDecay}, 3);
}

}  // namespace
}  // namespace kla::test
