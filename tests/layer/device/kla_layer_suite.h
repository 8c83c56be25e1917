// SPDX-License-Identifier: Apache-2.0
// tests/layer: KlaLayer on a device against its equations in double, on the host
// (device_layer_test) and on a device (cuda_layer_device_test). Traits has
//   Layer<Shape, StepSize, T, State>
//   Copy(vector) -> an array with data() where the layer's arrays lie, and Values(array) -> vector
#ifndef KLA_TESTS_LAYER_DEVICE_KLA_LAYER_SUITE_H_
#define KLA_TESTS_LAYER_DEVICE_KLA_LAYER_SUITE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kla/layer/parameters.h"
#include "layer/naive_gradients.h"
#include "layer/naive_layer.h"
#include "support/tolerance.h"

namespace kla::test {

template <class Traits>
class DeviceLayerTest : public ::testing::Test {
 protected:
  // A layer with random parameters, and rows of x, both exact in T.
  template <class Shape, class StepSize, class T, class State>
  struct Setup {
    using Layer = typename Traits::template Layer<Shape, StepSize, T, State>;

    Setup(const KlaLayerConfig& config, Index rows_of_x, std::uint64_t seed)
        : host(ResolveSizes<Shape>(config)), layer(config), rows(rows_of_x) {
      std::mt19937_64 random(seed);
      host.Initialize(random);
      std::normal_distribution<double> normal;
      const auto exact = [](double value) {
        return static_cast<double>(static_cast<float>(T(static_cast<float>(value))));
      };
      for (double& value : host.values()) value = exact(value + 0.3 * normal(random));
      layer.parameters().Load(host);
      for (Index i = 0; i < rows * width(); ++i) {
        x.push_back(T(static_cast<float>(normal(random))));
        exact_x.push_back(static_cast<double>(static_cast<float>(x.back())));
      }
      device_x = Traits::Copy(x);
    }

    Index width() const { return host.sizes().model_dim; }
    // [batch, tokens, D] from row `first` on.
    ModelView<const T> X(Index first, Index batch, Index tokens) const {
      return {device_x.data() + first * width(), {batch, tokens, width()}};
    }
    // A gradient of the results, of the shape of x and exact in T.
    std::vector<double> RandomGradient(std::uint64_t seed) const {
      std::mt19937_64 random(seed);
      std::normal_distribution<double> normal;
      std::vector<double> dy;
      for (Index i = 0; i < rows * width(); ++i) {
        dy.push_back(
            static_cast<double>(static_cast<float>(T(static_cast<float>(normal(random))))));
      }
      return dy;
    }
    // What the equations say for the rows of x.
    std::vector<double> Expected(Index batch, const IndexList& cu_seqlens = {}) const {
      const ModelView<const double> view(exact_x.data(), {batch, rows / batch, width()});
      return RunNaive<StepSize>(layer.config(), host, view, cu_seqlens);
    }

    KlaParameters<double> host;
    Layer layer;
    Index rows;
    std::vector<T> x;
    std::vector<double> exact_x;
    decltype(Traits::Copy(x)) device_x;
  };

  template <class T>
  static std::vector<double> Doubles(const std::vector<T>& values) {
    std::vector<double> doubles;
    for (const T& value : values) {
      doubles.push_back(static_cast<double>(static_cast<float>(value)));
    }
    return doubles;
  }
  // Rows of y, from wherever they lie.
  template <class T>
  static std::vector<double> Read(const ModelView<const T>& y) {
    return Doubles(
        Traits::template Values<T>(y.data(), y.extents()[0] * y.extents()[1] * y.extents()[2]));
  }

  // Every array between two kernels is rounded to T: three in front of the recurrence, one behind.
  template <class T, class State>
  static void ExpectNear(const char* what, const std::vector<double>& actual,
                         const std::vector<double>& expected, const LayerSizes& sizes,
                         Index tokens) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    EXPECT_GT(Rms(expected), 0.01) << what;
    const double stored = kRoundoff<State> > kRoundoff<float> ? 8 * kRoundoff<State> : 0.0;
    const double rounded = kRoundoff<T> > kRoundoff<float> ? 6 * kRoundoff<T> : 0.0;
    ExpectClose(
        what, actual, expected,
        LayerTolerance<float>(sizes, tokens, Rms(expected)) + (stored + rounded) * Rms(expected),
        0);
  }

  template <class Shape, class StepSize, class T, class State = float>
  static void ExpectForwardAndSteps(const KlaLayerConfig& config, std::uint64_t seed) {
    // Three sequences: prefilled with some tokens each, then decoded token by token, then two at a
    // time; the last is forked before.
    constexpr Index kBatch = 3, kTokens = 75, kPrefill = 69;
    const Setup<Shape, StepSize, T, State> s(config, kBatch * kTokens, seed);
    const LayerSizes& sizes = s.layer.sizes();
    const Index width = s.width();
    const std::vector<double> expected = s.Expected(kBatch);
    const auto rows_of = [&](Index n, Index begin, Index end) {
      return std::vector<double>(expected.begin() + (n * kTokens + begin) * width,
                                 expected.begin() + (n * kTokens + end) * width);
    };
    const auto strided = [&](Index begin, Index end) {
      return ModelView<const T>(s.device_x.data() + begin * width, {kBatch, end - begin, width},
                                {kTokens * width, width, 1});
    };

    auto workspace = s.layer.MakeWorkspace(kBatch, kTokens);
    const auto whole = Read<T>(s.layer.Forward(s.X(0, kBatch, kTokens), workspace));
    ExpectNear<T, float>("forward", whole, expected, sizes, kTokens);

    auto state = s.layer.MakeState(/*slots=*/5, /*tokens=*/2);
    const std::vector<std::int32_t> slots = {4, 0, 2};
    const auto with_state = s.layer.MakeWorkspace(
        kBatch, kPrefill, {.initial_state = &state, .final_state = &state, .slots = slots});
    auto room = typename Traits::template Layer<Shape, StepSize, T, State>::Workspace(
        with_state.data(), with_state.bytes());
    // In two pieces, of which the second begins in the middle of a chunk, and the first is shorter
    // than the convolution.
    std::vector<double> actual;
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, 2}, {2, kPrefill}}) {
      const auto y = Read<T>(
          s.layer.Forward(strided(begin, end), room,
                          {.initial_state = &state, .final_state = &state, .slots = slots}));
      for (Index n = 0; n < kBatch; ++n) {
        const auto length = (end - begin) * width;
        ExpectNear<T, State>("piece", {y.begin() + n * length, y.begin() + (n + 1) * length},
                             rows_of(n, begin, end), sizes, kTokens);
      }
    }

    // A sequence that is skipped keeps its state, and its y is left as it is.
    const std::vector<std::int32_t> skips = {4, -1, 2};
    auto y = Traits::Copy(std::vector<T>(static_cast<std::size_t>(kBatch * 2 * width), T(-77.0f)));
    for (const Index t : {kPrefill, kPrefill + 1}) {
      s.layer.Step(strided(t, t + 1), state, ModelView<T>(y.data(), {kBatch, 1, width}), skips);
      const auto rows = Doubles(Traits::template Values<T>(y.data(), kBatch * width));
      for (Index n = 0; n < kBatch; ++n) {
        const std::vector<double> row(rows.begin() + n * width, rows.begin() + (n + 1) * width);
        if (n == 1) {
          EXPECT_EQ(row, std::vector<double>(static_cast<std::size_t>(width), -77.0));
        } else {
          ExpectNear<T, State>("step", row, rows_of(n, t, t + 1), sizes, kTokens);
        }
      }
    }
    state.Copy(2, 3);
    const std::vector<std::int64_t> forked = {4, 0, 3};
    for (const Index t : {kPrefill + 2, kPrefill + 4}) {
      const Index end = std::min(t + 2, kTokens);
      // The skipped sequence goes on from where it was: it is given its own tokens.
      std::vector<T> x;
      for (Index n = 0; n < kBatch; ++n) {
        const Index from = n == 1 ? t - 2 : t;
        x.insert(x.end(), s.x.begin() + (n * kTokens + from) * width,
                 s.x.begin() + (n * kTokens + from + end - t) * width);
      }
      auto in_place = Traits::Copy(x);
      s.layer.Step(ModelView<const T>(in_place.data(), {kBatch, end - t, width}), state,
                   ModelView<T>(in_place.data(), {kBatch, end - t, width}), forked);
      const auto rows =
          Doubles(Traits::template Values<T>(in_place.data(), kBatch * (end - t) * width));
      for (Index n = 0; n < kBatch; ++n) {
        const Index from = n == 1 ? t - 2 : t, length = (end - t) * width;
        ExpectNear<T, State>("steps", {rows.begin() + n * length, rows.begin() + (n + 1) * length},
                             rows_of(n, from, from + end - t), sizes, kTokens);
      }
    }
  }

  template <class Shape, class StepSize, class T>
  static void ExpectPacked(const KlaLayerConfig& config, std::uint64_t seed) {
    const std::vector<std::int32_t> offsets = {0, 0, 1, 67, 67, 70, 103, 103};
    const Setup<Shape, StepSize, T, float> s(config, offsets.back(), seed);
    const Index count = static_cast<Index>(offsets.size()) - 1, width = s.width();
    const std::vector<double> expected = s.Expected(1, offsets);
    auto state = s.layer.MakeState(count);
    const std::vector<std::int64_t> slots = {6, 5, 4, 3, -1, 1, 0};
    // All of it, with the ends kept; then one more token of each sequence.
    auto workspace = s.layer.MakeWorkspace(
        1, offsets.back(), {.cu_seqlens = offsets, .final_state = &state, .slots = slots});
    const auto y =
        Read<T>(s.layer.Forward(s.X(0, 1, offsets.back()), workspace,
                                {.cu_seqlens = offsets, .final_state = &state, .slots = slots}));
    ExpectNear<T, float>("packed", y, expected, s.layer.sizes(), 103);
    for (Index n = 0; n < count; ++n) {
      const auto slot = slots[static_cast<std::size_t>(n)];
      if (slot < 0) continue;
      const Index begin = offsets[static_cast<std::size_t>(n)],
                  end = offsets[static_cast<std::size_t>(n) + 1];
      auto exact =
          std::vector<double>(s.exact_x.begin() + begin * width, s.exact_x.begin() + end * width);
      exact.insert(exact.end(), s.exact_x.begin(), s.exact_x.begin() + width);
      const auto all = RunNaive<StepSize>(
          config, s.host, ModelView<const double>(exact.data(), {1, end - begin + 1, width}));
      auto out = Traits::Copy(std::vector<T>(static_cast<std::size_t>(width), T(0.0f)));
      const std::vector<std::int64_t> one = {slot};
      s.layer.Step(s.X(0, 1, 1), state, ModelView<T>(out.data(), {1, 1, width}), one);
      ExpectNear<T, float>("after packed", Doubles(Traits::template Values<T>(out.data(), width)),
                           {all.end() - width, all.end()}, s.layer.sizes(), 103);
    }
  }

  // Four arrays between kernels are rounded to T on the way to y, five on the way back. Both ways
  // sum in float; the factors of products inside chunks have two terms of 16 bits for float, else
  // one.
  template <class T>
  static void ExpectGradient(const std::string& name, const std::vector<double>& actual,
                             const std::vector<double>& expected, const LayerSizes& sizes,
                             Index tokens) {
    const double rms = Rms(expected), rounded = kIsHalfWidth<T> ? 9 * kRoundoff<T> : 0;
    const double factors = (kIsHalfWidth<T> ? kRoundoff<T> : 0x1p-17) * OperandGrowth(tokens);
    EXPECT_GT(rms, 0.01) << name;
    ExpectClose(name.c_str(), actual, expected,
                2 * LayerTolerance<float>(sizes, tokens, rms) + (rounded + factors) * rms, 0);
  }
  template <class T>
  static void ExpectGradients(const std::vector<double>& dx, const KlaParameters<float>& gradients,
                              const std::vector<double>& expected_dx,
                              const KlaParameters<double>& expected, Index tokens) {
    ExpectGradient<T>("x", dx, expected_dx, expected.sizes(), tokens);
    for (const auto& [name, shape, values] : expected.tensors()) {
      const auto got = gradients.at(name).values;
      ExpectGradient<T>(name, {got.begin(), got.end()}, {values.begin(), values.end()},
                        expected.sizes(), tokens);
    }
  }
  template <class Gradients>
  static KlaParameters<float> OnHost(const Gradients& gradients) {
    KlaParameters<float> host(gradients.sizes());
    gradients.Store(host);
    return host;
  }

  // Of `batch` sequences, or of packed ones.
  template <class Shape, class StepSize, class T>
  static void ExpectBackward(const KlaLayerConfig& config, Index batch, Index tokens,
                             std::uint64_t seed, const IndexList& cu_seqlens = {}) {
    const Setup<Shape, StepSize, T, float> s(config, batch * tokens, seed);
    const ModelView<const double> x(s.exact_x.data(), {batch, tokens, s.width()});
    std::mt19937_64 random(seed + 1);
    std::normal_distribution<float> normal;
    std::vector<T> dy;
    for (std::size_t i = 0; i < s.x.size(); ++i) dy.push_back(T(normal(random)));
    const std::vector<double> exact_dy = Doubles(dy);
    const auto device_dy = Traits::Copy(dy);
    const ModelView<const T> dy_view(device_dy.data(), x.extents());

    auto workspace = s.layer.MakeWorkspace(batch, tokens, {.cu_seqlens = cu_seqlens});
    auto gradients = s.layer.MakeGradients();
    const auto y =
        Read<T>(s.layer.Forward(s.X(0, batch, tokens), workspace, {.cu_seqlens = cu_seqlens}));
    const auto dx = Read<T>(s.layer.Backward(dy_view, workspace, gradients));
    const KlaParameters<float> once = OnHost(gradients);
    const NaiveGradients expected = RunNaiveBackward<StepSize>(
        config, s.host, x, ModelView<const double>(exact_dy.data(), x.extents()), cu_seqlens);
    ExpectGradients<T>(dx, once, expected.dx, expected.parameters, batch * tokens);

    // Twice the gradients where they are added, up to the order of sums; and the same bits again.
    s.layer.Backward(dy_view, workspace, gradients, GradientMode::kAccumulate);
    const KlaParameters<float> twice = OnHost(gradients);
    EXPECT_EQ(dx, Read<T>(s.layer.Backward(dy_view, workspace, gradients)));
    const KlaParameters<float> again = OnHost(gradients);
    std::vector<double> doubled;
    for (std::size_t i = 0; i < once.values().size(); ++i) {
      ASSERT_EQ(once.values()[i], again.values()[i]) << i;
      doubled.push_back(2 * static_cast<double>(once.values()[i]));
    }
    ExpectClose("accumulated", {twice.values().begin(), twice.values().end()}, doubled,
                kRoundoff<float> * std::sqrt(static_cast<double>(batch * tokens)) * Rms(doubled),
                0);

    // Without Backward: the same y, in less memory.
    const auto inference = s.layer.MakeWorkspace(
        batch, tokens, {.cu_seqlens = cu_seqlens, .keep_for_backward = false});
    EXPECT_LT(inference.bytes(), workspace.bytes());
    EXPECT_EQ(y, Read<T>(s.layer.Forward(s.X(0, batch, tokens), workspace,
                                         {.cu_seqlens = cu_seqlens, .keep_for_backward = false})));
    EXPECT_THROW(s.layer.Backward(dy_view, workspace, gradients), std::invalid_argument);
  }
};

TYPED_TEST_SUITE_P(DeviceLayerTest);

// Heads 2 -> 4; D no multiple of the rows' alignment.
inline KlaLayerConfig DeviceLayerConfig(HeadGrouping grouping = HeadGrouping::kInterleaved) {
  return {.model_dim = 40, .num_heads = 2, .num_value_heads = 4, .grouping = grouping};
}

TYPED_TEST_P(DeviceLayerTest, ForwardAndStepsMatchTheEquations) {
  using H = HeadGrouping;
  this->template ExpectForwardAndSteps<Shape<16, 32>, Kla, float>(DeviceLayerConfig(), 1);
  this->template ExpectForwardAndSteps<Shape<16, 32>, Kla, bfloat16>(DeviceLayerConfig(), 2);
  this->template ExpectForwardAndSteps<Shape<32, 16>, Gdn, float, bfloat16>(
      DeviceLayerConfig(H::kTiled), 3);
}

TYPED_TEST_P(DeviceLayerTest, PackedSequencesMatchTheEquations) {
  this->template ExpectPacked<Shape<16, 32>, Kla, float>(DeviceLayerConfig(), 4);
}

TYPED_TEST_P(DeviceLayerTest, GradientsMatchTheEquations) {
  this->template ExpectBackward<Shape<16, 32>, Kla, float>(DeviceLayerConfig(), 2, 70, 6);
  this->template ExpectBackward<Shape<16, 32>, Kla, bfloat16>(DeviceLayerConfig(), 3, 33, 7);
  const std::vector<std::int32_t> offsets = {0, 0, 1, 67, 67, 70, 103, 103};
  this->template ExpectBackward<Shape<32, 16>, Gdn, float>(DeviceLayerConfig(HeadGrouping::kTiled),
                                                           1, 103, 8, offsets);
}

TYPED_TEST_P(DeviceLayerTest, ParametersComeBackAndSeedsAgree) {
  using Head = Shape<16, 32>;
  typename TypeParam::template Layer<Head, Kla, float, float> layer(DeviceLayerConfig());
  std::mt19937_64 here(5), there(5);
  KlaParameters<float> expected(layer.sizes()), actual(layer.sizes());
  expected.Initialize(here);
  layer.Initialize(there);
  layer.parameters().Store(actual);
  EXPECT_TRUE(
      std::equal(expected.values().begin(), expected.values().end(), actual.values().begin()));
  KlaParameters<float> others(ResolveSizes<Head>({.model_dim = 40, .num_heads = 4}));
  EXPECT_THROW(layer.parameters().Load(others), std::invalid_argument);
}

TYPED_TEST_P(DeviceLayerTest, BadArgumentsThrow) {
  using Head = Shape<16, 32>;
  typename TypeParam::template Layer<Head, Kla, float, float> layer(DeviceLayerConfig());
  auto state = layer.MakeState(2);
  auto memory = TypeParam::Copy(std::vector<float>(3 * 40, 1.0f));
  const auto x = [&](Index batch, Index tokens, Index width) {
    return ModelView<float>(memory.data(), {batch, tokens, width});
  };
  auto workspace = layer.MakeWorkspace(1, 1);
  const std::vector<std::int32_t> twice = {1, 1}, beyond = {0, 2};
  EXPECT_THROW(layer.Step(x(1, 1, 39), state, x(1, 1, 39)), std::invalid_argument);
  EXPECT_THROW(layer.Step(x(2, 1, 40), state, x(1, 1, 40)), std::invalid_argument);
  EXPECT_THROW(layer.Step(x(1, 2, 40), state, x(1, 2, 40)), std::invalid_argument);
  EXPECT_THROW(layer.Step(x(3, 1, 40), state, x(3, 1, 40)), std::invalid_argument);
  EXPECT_THROW(layer.Step(x(2, 1, 40), state, x(2, 1, 40), twice), std::invalid_argument);
  EXPECT_THROW(layer.Step(x(2, 1, 40), state, x(2, 1, 40), beyond), std::invalid_argument);
  EXPECT_THROW(layer.Forward(x(1, 3, 40), workspace), std::invalid_argument);
  EXPECT_THROW(layer.Forward(x(1, 1, 20), workspace), std::invalid_argument);
  EXPECT_THROW(layer.Forward(x(1, 1, 40), workspace, {.final_state = &state, .slots = twice}),
               std::invalid_argument);
  typename TypeParam::template Layer<Head, Kla, float, float> other(
      {.model_dim = 40, .num_heads = 4});
  EXPECT_THROW(other.Step(x(1, 1, 40), state, x(1, 1, 40)), std::invalid_argument);
  EXPECT_THROW(layer.MakeState(1, 0), std::invalid_argument);

  // Of Backward; the first call is right.
  auto gradients = layer.MakeGradients(), others = other.MakeGradients();
  auto room = layer.MakeWorkspace(1, 2);
  const auto dy = x(1, 2, 40);
  EXPECT_THROW(layer.Backward(dy, room, gradients), std::invalid_argument);
  const auto y = layer.Forward(x(1, 2, 40), room);
  layer.Backward(dy, room, gradients);
  EXPECT_THROW(layer.Backward(x(1, 1, 40), room, gradients), std::invalid_argument);
  EXPECT_THROW(layer.Backward(y, room, gradients), std::invalid_argument);
  EXPECT_THROW(layer.Backward({nullptr, {1, 2, 40}}, room, gradients), std::invalid_argument);
  EXPECT_THROW(layer.Backward(dy, room, others), std::invalid_argument);
  EXPECT_THROW(layer.Backward(dy, room, layer.parameters()), std::invalid_argument);
  EXPECT_THROW(other.Backward(dy, room, others), std::invalid_argument);
  EXPECT_THROW(layer.Forward(y, room), std::invalid_argument);
  typename decltype(layer)::Workspace misaligned(static_cast<unsigned char*>(room.data()) + 16,
                                                 room.bytes());
  EXPECT_THROW(layer.Forward(x(1, 1, 40), misaligned), std::invalid_argument);
  auto moved = std::move(room);
  EXPECT_THROW(layer.Backward(dy, room, gradients), std::invalid_argument);
  layer.Backward(dy, moved, gradients);
  layer.Forward(x(1, 2, 40), moved, {.keep_for_backward = false});
  EXPECT_THROW(layer.Backward(dy, moved, gradients), std::invalid_argument);
  // No tokens, no gradient.
  layer.Forward({nullptr, {1, 0, 40}}, moved);
  layer.Backward({nullptr, {1, 0, 40}}, moved, gradients);
  KlaParameters<float> zeros(layer.sizes());
  gradients.Store(zeros);
  for (const float value : zeros.values()) ASSERT_EQ(value, 0.0f);
}

REGISTER_TYPED_TEST_SUITE_P(DeviceLayerTest, ForwardAndStepsMatchTheEquations,
                            PackedSequencesMatchTheEquations, GradientsMatchTheEquations,
                            ParametersComeBackAndSeedsAgree, BadArgumentsThrow);

}  // namespace kla::test

#endif  // KLA_TESTS_LAYER_DEVICE_KLA_LAYER_SUITE_H_
