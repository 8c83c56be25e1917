// SPDX-License-Identifier: Apache-2.0
// LayerStep against the equations in double: on the host and on a device. A Traits has
//   Backend
//   Step<Shape, StepSize>(args, state)   with args in host memory
#ifndef KLA_TESTS_BACKEND_CUDA_LAYER_STEP_SUITE_H_
#define KLA_TESTS_BACKEND_CUDA_LAYER_STEP_SUITE_H_

#include <stdexcept>
#include <vector>

#include "backend/cuda/layer_step_oracle.h"
#include "gtest/gtest.h"
#include "kla/op/layer_step.h"
#include "support/array.h"
#include "support/tolerance.h"

namespace kla::test {

template <class Traits>
class LayerStepTest : public ::testing::Test {
 protected:
  template <class Shape, class T, class State>
  using StateOf = LayerState<typename Traits::Backend, Shape, T, State>;

  template <class T>
  static LayerStepArgs<T> Arguments(const Array<RowView<T>>& projected, Array<RowView<T>>& o,
                                    const LayerStepWeights& weights, const IndexList& slots = {},
                                    HeadGrouping grouping = HeadGrouping::kInterleaved) {
    return {.projected = projected.view(),
            .o = o.view(),
            .conv = weights.conv.data(),
            .a_log = weights.a_log.data(),
            .dt_bias = weights.dt_bias.data(),
            .step_bias = weights.step_bias.data(),
            .norm = weights.norm.data(),
            .slots = slots,
            .grouping = grouping};
  }

  // Four sequences, of which one is skipped, some tokens, every one against the oracle.
  template <class Shape, class StepSize, class T, class State>
  static void ExpectMatchesOracle(Index key_heads, Index value_heads, HeadGrouping grouping,
                                  std::uint64_t seed) {
    const LayerSizesForTest sizes{key_heads, value_heads, Shape::kKeyDim, Shape::kValueDim,
                                  grouping};
    const LayerStepWeights weights(sizes, seed);
    constexpr Index kSequences = 4, kTokens = 9;
    const std::vector<std::int32_t> slots = {3, 0, -1, 1};
    StateOf<Shape, T, State> state(5, key_heads, value_heads);
    std::vector<LayerStepOracle<StepSize>> oracles(kSequences, {sizes, weights});
    std::mt19937_64 random(seed + 1);
    std::normal_distribution<double> normal;
    const Index width = value_heads * Shape::kValueDim;
    for (Index t = 0; t < kTokens; ++t) {
      Array<RowView<T>> projected({kSequences, sizes.width()}, Placement::kStrided);
      projected.Fill([&] { return normal(random); });
      Array<RowView<T>> o({kSequences, width}, Placement::kStrided);
      const Array<RowView<T>> untouched = o;
      Traits::template Step<Shape, StepSize>(Arguments(projected, o, weights, slots, grouping),
                                             state);
      const auto rows = projected.Values(), actual = o.Values();
      EXPECT_TRUE(o.PaddingIsIntact());
      for (Index n = 0; n < kSequences; ++n) {
        const std::vector<double> got(actual.begin() + n * width, actual.begin() + (n + 1) * width);
        if (slots[static_cast<std::size_t>(n)] == -1) {
          for (const double e : got) EXPECT_EQ(e, -77.0);
          continue;
        }
        const auto expected = oracles[static_cast<std::size_t>(n)].Step(
            {rows.begin() + n * sizes.width(), rows.begin() + (n + 1) * sizes.width()});
        // The state's roundings, then those of float: the norm keeps the output of the size of the
        // weights, whatever the state is.
        const double stored = kRoundoff<State> > kRoundoff<float> ? 8 * kRoundoff<State> : 0.0;
        const double bound =
            4 * kRoundoff<float> * Growth(t + 1, Shape::kKeyDim, Shape::kValueDim) + stored;
        ExpectClose("z", got, expected, bound * Rms(expected), 2 * kRoundoff<T>);
      }
    }
    // The window is what the CPU layer would hold.
    std::vector<T> window(static_cast<std::size_t>(3 * sizes.channels()), T(0.0f));
    state.StoreWindow(3, window.data());
    for (std::size_t i = 0; i < window.size(); ++i) {
      ASSERT_EQ(static_cast<double>(static_cast<float>(window[i])), oracles[0].window()[i]);
    }
    // A sequence moved to another slot by its window and its state continues alike.
    state.LoadWindow(4, window.data());
    state.recurrent().Copy(3, 4);
    Array<RowView<T>> projected({2, sizes.width()}), o({2, width});
    projected.Fill([&] { return normal(random); });
    for (Index c = 0; c < sizes.width(); ++c) projected.view()(1, c) = projected.view()(0, c);
    const std::vector<std::int32_t> both = {3, 4};
    Traits::template Step<Shape, StepSize>(Arguments(projected, o, weights, both, grouping), state);
    for (Index c = 0; c < width; ++c) {
      ASSERT_EQ(static_cast<float>(o.view()(0, c)), static_cast<float>(o.view()(1, c)));
    }
  }
};

TYPED_TEST_SUITE_P(LayerStepTest);

TYPED_TEST_P(LayerStepTest, MatchesTheEquations) {
  using H = HeadGrouping;
  this->template ExpectMatchesOracle<Shape<96, 192>, Kla, float, float>(2, 2, H::kInterleaved, 1);
  this->template ExpectMatchesOracle<Shape<96, 192>, Kla, bfloat16, float>(2, 2, H::kInterleaved,
                                                                           2);
  this->template ExpectMatchesOracle<Shape<64, 64>, Gdn, float, bfloat16>(2, 4, H::kTiled, 3);
  this->template ExpectMatchesOracle<Shape<20, 36>, Longhorn, float16, float>(1, 3, H::kInterleaved,
                                                                              4);
  this->template ExpectMatchesOracle<Shape<256, 256>, RelaxedKaczmarz, float, float>(
      1, 2, H::kInterleaved, 5);
}

TYPED_TEST_P(LayerStepTest, BadArgumentsThrow) {
  using Head = Shape<64, 64>;
  const LayerSizesForTest sizes{1, 2, 64, 64};
  LayerStepWeights weights(sizes, 1);
  weights.conv.resize(weights.conv.size() + 1);  // room for a misaligned copy
  LayerState<typename TypeParam::Backend, Head, float> state(2, 1, 2);
  Array<RowView<float>> projected({2, sizes.width()}), o({2, 128});
  const std::vector<std::int32_t> twice = {1, 1};
  const LayerStepArgs<float> good = this->Arguments(projected, o, weights);
  const auto expect_throws = [&](const LayerStepArgs<float>& args) {
    EXPECT_THROW((TypeParam::template Step<Head, Kla>(args, state)), std::invalid_argument);
    EXPECT_TRUE(o.PaddingIsIntact());
  };
  auto args = good;
  args.conv = nullptr;
  expect_throws(args);
  args = good;
  args.conv = good.conv + 1;  // not aligned to 16 bytes
  expect_throws(args);
  args = good;
  args.o = RowView<float>(projected.view().data(), {2, 128});
  expect_throws(args);
  args = good;
  args.o = RowView<float>(o.view().data(), {2, 64});
  expect_throws(args);
  args = good;
  args.slots = twice;
  expect_throws(args);
  args = good;
  args.norm_epsilon = 0;
  expect_throws(args);
}

REGISTER_TYPED_TEST_SUITE_P(LayerStepTest, MatchesTheEquations, BadArgumentsThrow);

}  // namespace kla::test

#endif  // KLA_TESTS_BACKEND_CUDA_LAYER_STEP_SUITE_H_
