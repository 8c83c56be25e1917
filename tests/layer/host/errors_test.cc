// SPDX-License-Identifier: Apache-2.0
// tests/layer: every bad argument throws std::invalid_argument that names operation, argument,
// expected and given, and leaves every output as it was.
#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "layer/layer_support.h"

namespace kla::test {
namespace {

using Layer = KlaLayer<Simd, Shape<16, 24>>;
using Model = ModelView<float>;

void ExpectMessage(const std::function<void()>& call, const std::string& expected) {
  try {
    call();
    ADD_FAILURE() << "nothing thrown; expected: " << expected;
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()), expected);
  }
}

TEST(LayerErrorsTest, Config) {
  const auto make = [](const KlaLayerConfig& config) { return [config] { Layer layer(config); }; };
  const std::string at = "kla::KlaLayer: argument 'config.";
  ExpectMessage(make({.num_heads = 2}), at + "model_dim': expected at least 1, given 0");
  ExpectMessage(make({.model_dim = 8}), at + "num_heads': expected at least 1, given 0");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .num_value_heads = 3}),
                at + "num_value_heads': expected 0 or a multiple of num_heads = 2, given 3");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .key_dim = 17}),
                at + "key_dim': expected 0 or 16, as in the Shape, given 17");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .value_dim = 1}),
                at + "value_dim': expected 0 or 24, as in the Shape, given 1");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .norm_epsilon = 0}),
                at + "norm_epsilon': expected a finite number > 0, given 0.000000");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .epsilon = -1}),
                at + "epsilon': expected a finite number >= 0, given -1.000000");
  ExpectMessage(make({.model_dim = 8, .num_heads = 2, .scale = HUGE_VAL}),
                at + "scale': expected a finite number, given inf");
  ExpectMessage([] { KlaLayer<Simd, DynamicShape> layer({.model_dim = 8, .num_heads = 2}); },
                at + "key_dim': expected 1 to 1024 (the Shape is dynamic), given 0");
}

class LayerCallErrorsTest : public ::testing::Test {
 protected:
  // Runs the call, expects the message, and that nothing that the layer may write has changed.
  void Expect(const std::function<void()>& call, const std::string& expected) {
    const auto state_before = StateValues();
    const auto y_before = y_;
    const std::vector<float> gradients_before(gradients_.values().begin(),
                                              gradients_.values().end());
    ExpectMessage(call, expected);
    EXPECT_EQ(StateValues(), state_before);
    EXPECT_TRUE(y_.SameBits(y_before));
    EXPECT_TRUE(
        std::equal(gradients_before.begin(), gradients_before.end(), gradients_.values().begin()));
    // The workspace still holds what Backward needs, and gives what it gave.
    LayerWorkspace<float> copy = workspace_;
    EXPECT_EQ(Values(layer_.Backward(x_.view(), copy, scratch_)), dx_);
  }

  std::vector<float> StateValues() {
    std::vector<float> values(state_.window(0), state_.window(0) + 3 * state_.window_size());
    Array<StateView<float>> recurrent({3, 2, 16, 24});
    state_.recurrent().Store(recurrent.view());
    for (const double value : recurrent.Values()) values.push_back(static_cast<float>(value));
    return values;
  }

  const Layer layer_ = MakeLayer<Layer>({.model_dim = 20, .num_heads = 2});
  const Array<Model> x_ = RandomModel<float>(2, 5, 20);
  Array<Model> y_ = RandomModel<float>(2, 5, 20, 3);
  Layer::State state_ = layer_.MakeState(3);
  Layer::State other_state_ = MakeLayer<Layer>({.model_dim = 20, .num_heads = 1}).MakeState(3);
  Layer::Parameters gradients_ = layer_.MakeGradients(), scratch_ = layer_.MakeGradients();
  LayerWorkspace<float> workspace_;
  std::vector<double> dx_;

  void SetUp() override {
    layer_.Step(x_.view(), state_, y_);
    layer_.Forward(x_.view(), workspace_);
    LayerWorkspace<float> copy = workspace_;
    dx_ = Values(layer_.Backward(x_.view(), copy, scratch_));
  }
};

TEST_F(LayerCallErrorsTest, Forward) {
  const std::string at = "kla::KlaLayer::Forward: argument '";
  const auto forward = [&](const ModelView<const float>& x, const Layer::Options& options = {}) {
    return [this, x, options] { layer_.Forward(x, workspace_, options); };
  };
  const float* data = x_.view().data();
  Expect(forward({data, {2, 5, 19}}), at + "x': expected [B, T, D] = [2, 5, 20], given [2, 5, 19]");
  Expect(forward({nullptr, {2, 5, 20}}), at + "x': expected data, given a null pointer");
  Expect(forward({}), at + "x': expected [B, T, D] = [0, 0, 20], given a null view");

  const std::vector<std::int32_t> whole = {0, 2, 5}, late = {1, 5}, down = {0, 4, 3, 5};
  const std::vector<std::int64_t> shorter = {0, 2, 4};
  const ModelView<const float> row(data, {1, 5, 20});
  Expect(forward(x_.view(), {.cu_seqlens = whole}),
         at + "cu_seqlens': expected packed sequences in one batch row, B = 1, given B = 2");
  Expect(forward(row, {.cu_seqlens = late}),
         at + "cu_seqlens': expected offsets that begin with 0, given 1");
  Expect(forward(row, {.cu_seqlens = down}),
         at + "cu_seqlens': expected non-decreasing offsets, given 4 followed by 3 at position 2");
  Expect(forward(row, {.cu_seqlens = shorter}),
         at + "cu_seqlens': expected a last offset of T = 5, given 4");

  const std::vector<std::int32_t> one = {0}, far = {0, 3}, minus = {-2, 0}, twice = {1, 1};
  for (const bool final : {false, true}) {
    const auto options = [&](Layer::State& state, const IndexList& slots = {}) {
      return Layer::Options{.initial_state = final ? nullptr : &state,
                            .final_state = final ? &state : nullptr,
                            .slots = slots};
    };
    Expect(forward(x_.view(), options(other_state_)),
           at + (final ? "final" : "initial") +
               "_state': expected a state of this layer, [D, H, HV, K, V] = [20, 2, 2, 16, 24], "
               "given [20, 1, 1, 16, 24]");
    Expect(forward(x_.view(), options(state_, one)),
           at + "slots': expected one slot for each of N = 2 sequences, given 1");
    Expect(forward(x_.view(), options(state_, far)),
           at + "slots': expected -1 or a slot below 3, given 3");
    Expect(forward(x_.view(), options(state_, minus)),
           at + "slots': expected -1 or a slot below 3, given -2");
    const std::vector<float> many(4 * 20);
    Expect(forward({many.data(), {4, 1, 20}}, options(state_)),
           at + "slots': expected at most 3 sequences where slots are left out, given 4");
  }
  Expect(forward(x_.view(), {.final_state = &state_, .slots = twice}),
         at + "slots': expected every slot at most once, given slot 1 again at position 1");
}

TEST_F(LayerCallErrorsTest, ForwardOnItsOwnOutput) {
  const auto y = layer_.Forward(x_.view(), workspace_);
  ExpectMessage([&] { layer_.Forward(y, workspace_); },
                "kla::KlaLayer::Forward: argument 'x': expected memory outside the workspace that "
                "is written, given a view into it");
}

TEST_F(LayerCallErrorsTest, Backward) {
  const std::string at = "kla::KlaLayer::Backward: argument '";
  const ModelView<const float> dy = x_.view();
  Expect(
      [&] {
        layer_.Backward({dy.data(), {1, 5, 20}}, workspace_, gradients_);
      },
      at + "dy': expected [B, T, D] = [2, 5, 20], given [1, 5, 20]");
  Expect(
      [&] {
        layer_.Backward({nullptr, {2, 5, 20}}, workspace_, gradients_);
      },
      at + "dy': expected data, given a null pointer");
  LayerWorkspace<float> empty;
  Expect([&] { layer_.Backward(dy, empty, gradients_); },
         at + "workspace': expected one that a Forward filled with keep_for_backward, given one "
              "without");
  LayerWorkspace<float> inference;
  layer_.Forward(dy, inference);
  layer_.Forward(dy, inference, {.keep_for_backward = false});
  Expect([&] { layer_.Backward(dy, inference, gradients_); },
         at + "workspace': expected one that a Forward filled with keep_for_backward, given one "
              "without");
  LayerWorkspace<float> filled, taken;
  layer_.Forward(dy, filled);
  taken = std::move(filled);
  Expect([&] { layer_.Backward(dy, filled, gradients_); },  // NOLINT(bugprone-use-after-move)
         at + "workspace': expected one that a Forward filled with keep_for_backward, given one "
              "without");
  EXPECT_EQ(Values(layer_.Backward(dy, taken, scratch_)), dx_);
  const auto other = MakeLayer<Layer>({.model_dim = 20, .num_heads = 1});
  auto other_gradients = other.MakeGradients();
  Expect([&] { other.Backward(dy, workspace_, other_gradients); },
         at + "workspace': expected one that a layer of these sizes filled, [D, H, HV, K, V] = "
              "[20, 1, 1, 16, 24], given [20, 2, 2, 16, 24]");
  Expect([&] { layer_.Backward(dy, workspace_, other_gradients); },
         at + "gradients': expected gradients of this layer, [D, H, HV, K, V] = "
              "[20, 2, 2, 16, 24], given [20, 1, 1, 16, 24]");
  auto own = layer_;
  Expect([&] { own.Backward(dy, workspace_, own.parameters()); },
         at + "gradients': expected parameters of their own, as MakeGradients makes them, given "
              "those of the layer");
}

TEST_F(LayerCallErrorsTest, Step) {
  const std::string at = "kla::KlaLayer::Step: argument '";
  const ModelView<const float> x = x_.view();
  Expect(
      [&] {
        layer_.Step({x.data(), {2, 5, 21}}, state_, y_);
      },
      at + "x': expected [B, T, D] = [2, 5, 20], given [2, 5, 21]");
  Expect(
      [&] {
        layer_.Step(x, state_, Model(y_.view().data(), {2, 4, 20}));
      },
      at + "y': expected [B, T, D] = [2, 5, 20], given [2, 4, 20]");
  Expect(
      [&] {
        layer_.Step(x, state_, Model(nullptr, {2, 5, 20}));
      },
      at + "y': expected data, given a null pointer");
  Expect(
      [&] {
        layer_.Step(x, state_, Model(y_.view().data(), {2, 5, 20}, {100, 19, 1}));
      },
      at + "y': expected an output whose elements do not overlap each other, given strides "
           "smaller than the axes inside them");
  Expect([&] { layer_.Step(x, other_state_, y_); },
         at + "state': expected a state of this layer, [D, H, HV, K, V] = [20, 2, 2, 16, 24], "
              "given [20, 1, 1, 16, 24]");
  Expect([&] { layer_.Step(x, state_, y_, {0}); },
         at + "slots': expected one slot for each of N = 2 sequences, given 1");
  Expect(
      [&] {
        layer_.Step(x, state_, y_, {0, 3});
      },
      at + "slots': expected -1 or a slot below 3, given 3");
  Expect(
      [&] {
        layer_.Step(x, state_, y_, {2, 2});
      },
      at + "slots': expected every slot at most once, given slot 2 again at position 1");
}

}  // namespace
}  // namespace kla::test
