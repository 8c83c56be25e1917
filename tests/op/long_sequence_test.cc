// SPDX-License-Identifier: Apache-2.0
// tests/op: 65,536 tokens in float against double. The error must not grow with the context.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {
namespace {

constexpr Index kTokens = 65536, kDim = 32;

template <class C>
class LongSequenceTest : public testing::Test {};

using Configs =
    testing::Types<Config<Simd, float, kDim, kDim>, Config<Reference, float, kDim, kDim>>;
TYPED_TEST_SUITE(LongSequenceTest, Configs, ConfigName);

// How many tokens an error lives, in the sense of a sum of squares. A token multiplies the square
// of an earlier error by a^2 and, for keys of random direction, by 1 - rho (2 - rho) / K on
// average.
double Memory(const Tensors<double>& given) {
  const auto mean = [](const std::vector<double>& x, const auto& f) {
    return std::transform_reduce(x.begin(), x.end(), 0.0, std::plus<>(), f) /
           static_cast<double>(x.size());
  };
  const double decay = mean(given.g.Values(), [](double g) { return std::exp(2 * g); });
  const double shrink = mean(given.eta.Values(), [](double rho) { return rho * (2 - rho); });
  return 1 / (1 - decay * (1 - shrink / kDim));
}

// RMS error relative to the RMS of the outputs, in each of eight stretches of the sequence.
std::vector<double> ErrorByContext(const std::vector<double>& actual,
                                   const std::vector<double>& expected) {
  std::vector<double> errors;
  const auto stretch = static_cast<std::ptrdiff_t>(expected.size() / 8);
  for (std::ptrdiff_t at = 0; at < 8 * stretch; at += stretch) {
    const Deviation deviation = Compare({actual.begin() + at, actual.begin() + at + stretch},
                                        {expected.begin() + at, expected.begin() + at + stretch});
    errors.push_back(deviation.error / deviation.reference);
  }
  return errors;
}

template <class C>
void ExpectAccurate(Inputs inputs) {
  const Case c{.name = "long", .tokens = kTokens, .inputs = inputs};
  const Given<C> given(c, 50);
  const OracleResult oracle = RunOracle<Kla>(c, given.tensors);
  const std::vector<double> expected = oracle.o.Values();
  // Every token commits Growth(1) roundoffs of the state's norm, and they live for `memory` tokens.
  // q is a unit vector of random direction: o = K^(-1/2) S^T q has the relative error of S, and
  // the elements of S are sqrt(K) times as large as those of o.
  const double memory = Memory(given.exact);
  const double relative = kRoundoff<float> * Growth(1, kDim, kDim) * std::sqrt(memory);
  const double of_o = relative * Rms(expected), of_state = std::sqrt(double{kDim}) * of_o;
  const auto expect_close = [&](const char* form, const ForwardOutputs<C>& actual) {
    const std::vector<double> o = actual.o.Values(), state = actual.final_state.Values();
    const std::vector<double> errors = ErrorByContext(o, expected);
    std::printf("%-10s relative error of o, by eighths of the context:", form);
    for (const double error : errors) std::printf(" %.1e", error);
    std::printf("; allowed %.1e\n", relative);
    ExpectClose("o", o, expected, of_o, kRoundoff<float>);
    ExpectClose("state", state, oracle.final_state.Values(), of_state, kRoundoff<float>);
    EXPECT_LE(errors.back(), 1.5 * errors.front()) << "grows with the context";
  };
  expect_close("chunked", RunForward<C>(c, given.tensors));

  ForwardOutputs<C> stepped(c);
  DecodeState<typename C::Backend, typename C::Shape> pool(1, 1);
  pool.Load(given.tensors.initial_state.view());
  DecodeStep<typename C::Backend, typename C::Shape>(
      DecodeStepArgs<float>{.q = given.tensors.q.view(),
                            .k = given.tensors.k.view(),
                            .v = given.tensors.v.view(),
                            .g = given.tensors.g.view(),
                            .eta = given.tensors.eta.view(),
                            .o = stepped.o.view()},
      pool);
  pool.Store(stepped.final_state.ref());
  expect_close("recurrent", stepped);
}

TYPED_TEST(LongSequenceTest, ErrorIsBoundedWithDecay) {
  ExpectAccurate<TypeParam>(Inputs::kOrdinary);
}

// Nothing is ever forgotten but what the updates themselves erase.
TYPED_TEST(LongSequenceTest, ErrorIsBoundedWithoutDecay) {
  ExpectAccurate<TypeParam>(Inputs::kNoDecay);
}

// States stored in 16 bits, one token a call: every token rounds the body of the state, with a
// relative error below the unit roundoff, and the errors live for Memory() tokens like any other.
// They are independent, for what a token adds to an element varies from token to token.
template <class State>
void ExpectStateTypeIsAccurate(double log_decay) {
  const Case c{.name = "stored", .tokens = kTokens, .initial_state = false};
  Tensors<float> given(c, kDim, kDim, 51);
  given.g.Fill([&] { return log_decay; });
  Tensors<double> exact;
  exact.g = ToDouble<GateView>(given.g);
  exact.eta = ToDouble<GateView>(given.eta);
  const std::vector<double> expected = RunOracle<Kla>(c, given).o.Values();

  using Head = Shape<kDim, kDim>;
  DecodeState<Simd, Head, State> pool(1, 1);
  Array<ValueView<float>> o({1, kTokens, 1, kDim});
  const std::array<Index, 4> row = {1, 1, 1, kDim};
  for (Index t = 0; t < kTokens; ++t) {
    DecodeStep<Simd, Head, Kla, float, State>(
        DecodeStepArgs<float>{.q = {given.q.view().Row(0, t, 0), row},
                              .k = {given.k.view().Row(0, t, 0), row},
                              .v = {given.v.view().Row(0, t, 0), row},
                              .g = {&given.g.view()(0, t, 0), {1, 1, 1}},
                              .eta = {&given.eta.view()(0, t, 0), {1, 1, 1}},
                              .o = {o.view().Row(0, t, 0), row}},
        pool);
  }
  const double relative = kRoundoff<State> * std::sqrt(Memory(exact));
  const std::vector<double> errors = ErrorByContext(o.Values(), expected);
  std::printf("g = %-7g relative error of o, by eighths of the context:", log_decay);
  for (const double error : errors) std::printf(" %.1e", error);
  std::printf("; allowed %.1e\n", relative);
  for (const double error : errors) EXPECT_LE(error, relative);
  EXPECT_LE(errors.back(), 1.5 * errors.front()) << "grows with the context";
}

TEST(StateTypeTest, Bfloat16) {
  for (const double g : {0.0, -1e-4, -1e-3, -1e-2, -1e-1}) ExpectStateTypeIsAccurate<bfloat16>(g);
}

TEST(StateTypeTest, Float16) {
  for (const double g : {0.0, -1e-4, -1e-3, -1e-2, -1e-1}) ExpectStateTypeIsAccurate<float16>(g);
}

}  // namespace
}  // namespace kla::test
