// SPDX-License-Identifier: Apache-2.0
// tests/layer: the same bits for every executor and every run, and no growth of a reused workspace.
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "layer/layer_support.h"

namespace kla::test {
namespace {

// Everything that a training step and a decode step write.
struct Outcome {
  std::vector<float> y, dx, gradients, stepped;

  bool operator==(const Outcome& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(y, other.y) && same(dx, other.dx) && same(gradients, other.gradients) &&
           same(stepped, other.stepped);
  }
};

template <class Layer, class Exec>
Outcome TrainAndStep(const Layer& layer, Index batch, Index tokens, const Exec& executor,
                     LayerWorkspace<float>& workspace) {
  const Index width = layer.sizes().model_dim;
  const auto x = RandomModel<float>(batch, tokens, width);
  const auto dy = RandomModel<float>(batch, tokens, width, 3);
  const auto copy = [](const ModelView<const float>& view) {
    return std::vector<float>(
        view.data(), view.data() + view.template extent<Batch>() * view.template stride<Batch>());
  };
  auto state = layer.MakeState(batch);
  auto gradients = layer.MakeGradients();
  Outcome out;
  out.y = copy(layer.Forward(x.view(), workspace, {.final_state = &state}, executor));
  out.dx =
      copy(layer.Backward(dy.view(), workspace, gradients, GradientMode::kOverwrite, executor));
  out.gradients.assign(gradients.values().begin(), gradients.values().end());
  out.stepped.resize(out.y.size());
  layer.Step(x.view(), state, ModelView<float>(out.stepped.data(), {batch, tokens, width}), {},
             executor);
  return out;
}

template <class Layer>
void ExpectSameBits(const KlaLayerConfig& config, Index batch, Index tokens) {
  const auto layer = MakeLayer<Layer>(config);
  LayerWorkspace<float> serial_workspace;
  const Outcome serial = TrainAndStep(layer, batch, tokens, Serial{}, serial_workspace);
  for (const int threads : {1, 2, 7}) {
    LayerWorkspace<float> workspace;
    EXPECT_TRUE(TrainAndStep(layer, batch, tokens, OwnThreads{threads}, workspace) == serial)
        << threads;
#if defined(_OPENMP)
    EXPECT_TRUE(TrainAndStep(layer, batch, tokens, OpenMp{threads}, workspace) == serial)
        << threads;
#endif
  }
}

// Wide enough for several tiles of each matrix product, long enough for several blocks of rows.
TEST(LayerThreadsTest, SameBitsReference) {
  ExpectSameBits<KlaLayer<Reference, Shape<8, 12>>>({.model_dim = 96, .num_heads = 12}, 2, 150);
}
TEST(LayerThreadsTest, SameBitsSimd) {
  ExpectSameBits<KlaLayer<Simd, Shape<48, 96>>>({.model_dim = 256, .num_heads = 4}, 2, 150);
}

TEST(LayerThreadsTest, ReusedWorkspaceNeitherGrowsNorMatters) {
  using Layer = KlaLayer<Simd, Shape<16, 24>>;
  const auto layer = MakeLayer<Layer>({.model_dim = 40, .num_heads = 3});
  LayerWorkspace<float> fresh, reused;
  const Outcome expected = TrainAndStep(layer, 2, 70, Serial{}, fresh);
  TrainAndStep(layer, 2, 90, Serial{}, reused);
  const Index size = reused.size_bytes();
  const auto x = RandomModel<float>(2, 70, 40);
  const float* y = layer.Forward(x.view(), reused).data();
  EXPECT_TRUE(TrainAndStep(layer, 2, 70, Serial{}, reused) == expected);
  TrainAndStep(layer, 1, 120, Serial{}, reused);
  EXPECT_EQ(layer.Forward(x.view(), reused).data(), y);
  EXPECT_EQ(reused.size_bytes(), size);
  // A copy stands on its own.
  LayerWorkspace<float> copy = reused;
  reused = {};
  const auto dy = RandomModel<float>(2, 70, 40, 3);
  auto gradients = layer.MakeGradients();
  layer.Backward(dy.view(), copy, gradients);
  EXPECT_EQ(std::vector<float>(gradients.values().begin(), gradients.values().end()),
            expected.gradients);
}

TEST(LayerThreadsTest, InferenceKeepsLess) {
  using Layer = KlaLayer<Simd, Shape<16, 24>>;
  const auto layer = MakeLayer<Layer>({.model_dim = 40, .num_heads = 3});
  const auto x = RandomModel<float>(2, 200, 40);
  LayerWorkspace<float> training, inference;
  const auto kept = Values(layer.Forward(x.view(), training));
  EXPECT_EQ(Values(layer.Forward(x.view(), inference, {.keep_for_backward = false})), kept);
  EXPECT_LT(inference.size_bytes(), training.size_bytes());
}

}  // namespace
}  // namespace kla::test
