// SPDX-License-Identifier: Apache-2.0
// tests/layer: the layer is the function that its equations say, and it is one function whether it
// runs at once, in pieces, packed or token by token.
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "layer/layer_support.h"

namespace kla::test {
namespace {

template <class C>
class LayerLawsTest : public ::testing::Test {
 public:
  using Element = typename C::T;
  using Layer = typename C::Layer;
  using StateElement = typename C::State;

  // Heads 2 -> 4 of 16 x 24; two more than a chunk of every backend.
  static KlaLayerConfig Config(HeadGrouping grouping = HeadGrouping::kInterleaved) {
    return {.model_dim = 20,
            .num_heads = 2,
            .num_value_heads = 4,
            .key_dim = 16,
            .value_dim = 24,
            .grouping = grouping};
  }

  // Rounding of the states to their storage counts where sequences continue from one.
  static double Tolerance(const Layer& layer, Index tokens, const std::vector<double>& expected,
                          double storage = kRoundoff<StateElement>) {
    return LayerTolerance<Element>(layer.sizes(), tokens, Rms(expected)) +
           8 * storage * Rms(expected);
  }

  static void ExpectNear(const char* what, const std::vector<double>& actual,
                         const std::vector<double>& expected, double tolerance) {
    ASSERT_FALSE(expected.empty());
    EXPECT_GT(Rms(expected), 0.01) << what;
    ExpectClose(what, actual, expected, tolerance, 0);
  }
};

using Configs = ::testing::Types<LayerConfig<Reference, double, Shape<16, 24>>,
                                 LayerConfig<Reference, double, Shape<16, 24>, Gdn>,
                                 LayerConfig<Reference, float, DynamicShape, Longhorn>,
                                 LayerConfig<Simd, float, Shape<16, 24>>,
                                 LayerConfig<Simd, double, Shape<16, 24>, RelaxedKaczmarz>,
                                 LayerConfig<Simd, float, DynamicShape, Gdn>,
                                 LayerConfig<Simd, float, Shape<16, 24>, Kla, bfloat16>>;
TYPED_TEST_SUITE(LayerLawsTest, Configs, LayerConfigName);

TYPED_TEST(LayerLawsTest, MatchesTheEquations) {
  using T = typename TypeParam::T;
  for (const HeadGrouping grouping : {HeadGrouping::kInterleaved, HeadGrouping::kTiled}) {
    KlaLayerConfig config = TestFixture::Config(grouping);
    if (grouping == HeadGrouping::kTiled) config.scale = 0.4;
    const auto layer = MakeLayer<typename TypeParam::Layer>(config);
    for (const Index tokens : {1, 2, 5, 70}) {
      const auto x = RandomModel<T>(2, tokens, 20);
      const auto expected =
          RunNaive<typename TypeParam::StepSize>(config, layer.parameters(), x.view());
      LayerWorkspace<T> workspace;
      TestFixture::ExpectNear("y", Values(layer.Forward(x.view(), workspace)), expected,
                              TestFixture::Tolerance(layer, tokens, expected, 0));
    }
  }
}

TYPED_TEST(LayerLawsTest, StepsEqualForward) {
  using T = typename TypeParam::T;
  const auto layer = MakeLayer<typename TypeParam::Layer>(TestFixture::Config());
  const Index tokens = 37;
  const auto x = RandomModel<T>(3, tokens, 20);
  LayerWorkspace<T> workspace;
  const auto expected = Values(layer.Forward(x.view(), workspace));
  // One token a call, and several.
  for (const Index each : {1, 2, 3, 5, 16, 37}) {
    auto state = layer.MakeState(3);
    Array<ModelView<T>> y({3, tokens, 20});
    for (Index t = 0; t < tokens; t += each) {
      const Index end = std::min(tokens, t + each);
      layer.Step(Tokens<const T>(x.view(), t, end), state, Tokens<T>(y.view(), t, end));
    }
    TestFixture::ExpectNear("y", y.Values(), expected,
                            TestFixture::Tolerance(layer, tokens, expected) *
                                (kIsHalfWidth<typename TypeParam::State> ? 4 : 1));
  }
}

TYPED_TEST(LayerLawsTest, SplitAnywhereEqualsForward) {
  using T = typename TypeParam::T;
  const auto layer = MakeLayer<typename TypeParam::Layer>(TestFixture::Config());
  const Index tokens = 70;
  const auto x = RandomModel<T>(2, tokens, 20, 2, Placement::kStrided);
  LayerWorkspace<T> whole;
  const auto expected = Values(layer.Forward(x.view(), whole));
  for (const std::vector<Index>& cuts : std::vector<std::vector<Index>>{
           {0, 1, 70}, {0, 2, 3, 70}, {0, 35, 36, 70}, {0, 0, 64, 70, 70}, {0, 69, 70}}) {
    auto state = layer.MakeState(2);
    LayerWorkspace<T> workspace;
    Array<ModelView<T>> y({2, tokens, 20});
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const auto piece = layer.Forward(
          Tokens<const T>(x.view(), cuts[i], cuts[i + 1]), workspace,
          {.initial_state = &state, .final_state = &state, .keep_for_backward = i % 2 == 0});
      const auto to = Tokens<T>(y.view(), cuts[i], cuts[i + 1]);
      for (Index b = 0; b < 2; ++b) {
        for (Index t = 0; t < cuts[i + 1] - cuts[i]; ++t) {
          std::copy_n(piece.Row(b, t), 20, to.Row(b, t));
        }
      }
    }
    TestFixture::ExpectNear("y", y.Values(), expected,
                            TestFixture::Tolerance(layer, tokens, expected));
  }
}

// Packed sequences, some empty or shorter than the convolution, prefilled and then decoded.
TYPED_TEST(LayerLawsTest, PackedSequencesAreSeparate) {
  using T = typename TypeParam::T;
  const KlaLayerConfig config = TestFixture::Config();
  const auto layer = MakeLayer<typename TypeParam::Layer>(config);
  const std::vector<std::int32_t> offsets = {0, 2, 2, 3, 70, 75, 145};
  const auto x = RandomModel<T>(1, 145, 20);
  const auto expected =
      RunNaive<typename TypeParam::StepSize>(config, layer.parameters(), x.view(), offsets);
  LayerWorkspace<T> workspace;
  auto state = layer.MakeState(8);
  const std::vector<std::int64_t> slots = {3, 0, -1, 7, 2, 5};
  TestFixture::ExpectNear(
      "y",
      Values(layer.Forward(x.view(), workspace,
                           {.cu_seqlens = offsets, .final_state = &state, .slots = slots})),
      expected, TestFixture::Tolerance(layer, 70, expected, 0));

  // Each sequence goes on for three tokens: as if it had been longer, whatever its neighbours.
  const auto more = RandomModel<T>(6, 3, 20, 5);
  Array<ModelView<T>> y({6, 3, 20});
  layer.Step(more.view(), state, y, slots);
  for (Index n = 0; n < 6; ++n) {
    if (slots[static_cast<std::size_t>(n)] == -1) continue;
    const Index begin = offsets[static_cast<std::size_t>(n)];
    const Index length = offsets[static_cast<std::size_t>(n) + 1] - begin;
    Array<ModelView<T>> joined({1, length + 3, 20});
    for (Index t = 0; t < length + 3; ++t) {
      std::copy_n(t < length ? x.view().Row(0, begin + t) : more.view().Row(n, t - length), 20,
                  joined.view().Row(0, t));
    }
    const auto all =
        RunNaive<typename TypeParam::StepSize>(config, layer.parameters(), joined.view());
    const std::vector<double> tail(all.end() - 60, all.end());
    std::vector<double> actual;
    for (Index t = 0; t < 3; ++t) {
      for (Index c = 0; c < 20; ++c) actual.push_back(static_cast<double>(y.view()(n, t, c)));
    }
    TestFixture::ExpectNear("y", actual, tail, TestFixture::Tolerance(layer, 73, tail));
  }
}

// A skipped sequence's y and every unnamed slot stay as they are, bit by bit; y may be x.
TYPED_TEST(LayerLawsTest, SkippedSequencesAndSlotsAreUntouched) {
  using T = typename TypeParam::T;
  const auto layer = MakeLayer<typename TypeParam::Layer>(TestFixture::Config());
  const auto x = RandomModel<T>(3, 2, 20);
  auto state = layer.MakeState(3);
  Array<ModelView<T>> y({3, 2, 20});
  layer.Step(x.view(), state, y);
  auto expected_state = state;
  layer.Step(Tokens<const T>(x.view(), 0, 1), state, Tokens<T>(y.view(), 0, 1), {2, -1, 0});
  const auto expect_same_slot = [&](Index slot, bool same) {
    EXPECT_EQ(std::equal(state.window(slot), state.window(slot) + state.window_size(),
                         expected_state.window(slot)),
              same);
    Array<StateView<float>> before({1, 4, 16, 24}), after({1, 4, 16, 24});
    expected_state.recurrent().Store(before.view(), {slot});
    state.recurrent().Store(after.view(), {slot});
    EXPECT_EQ(before.SameBits(after), same);
  };
  expect_same_slot(0, false);
  expect_same_slot(1, true);
  expect_same_slot(2, false);

  // The same again, in place, all sequences in one call and slot 1 not named.
  auto in_place = RandomModel<T>(3, 2, 20);
  const auto view = Tokens<T>(in_place.view(), 0, 1);
  const auto skipped = RandomModel<T>(3, 2, 20);
  layer.Step(view, expected_state, view, {2, -1, 0});
  for (Index c = 0; c < 20; ++c) {
    EXPECT_EQ(view(0, 0, c), y.view()(0, 0, c));
    EXPECT_EQ(view(1, 0, c), skipped.view()(1, 0, c));
    EXPECT_EQ(view(2, 0, c), y.view()(2, 0, c));
  }
}

// A prefix is read once and continued twice: by Copy, and by naming its slot twice.
TYPED_TEST(LayerLawsTest, SequencesShareAPrefix) {
  using T = typename TypeParam::T;
  const auto layer = MakeLayer<typename TypeParam::Layer>(TestFixture::Config());
  const auto prefix = RandomModel<T>(1, 9, 20), rest = RandomModel<T>(2, 4, 20, 3);
  LayerWorkspace<T> workspace;
  auto state = layer.MakeState(2);
  layer.Forward(prefix.view(), workspace, {.final_state = &state});
  const std::vector<Index> twice = {0, 0};
  const auto forked =
      Values(layer.Forward(rest.view(), workspace, {.initial_state = &state, .slots = twice}));
  state.Copy(0, 1);
  const auto copied = Values(layer.Forward(rest.view(), workspace, {.initial_state = &state}));
  EXPECT_EQ(forked, copied);
  state.Reset(1);
  const auto reset = Values(layer.Forward(rest.view(), workspace, {.initial_state = &state}));
  EXPECT_TRUE(std::equal(forked.begin(), forked.begin() + 80, reset.begin()));
  EXPECT_NE(forked, reset);
}

}  // namespace
}  // namespace kla::test
