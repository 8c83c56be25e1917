// SPDX-License-Identifier: Apache-2.0
// build: a user's layer: three tokens at once, then one by one, and a backward pass.
#include <kla/layer.h>

#include <cmath>
#include <random>
#include <vector>

bool LayerAgrees() {
  using Layer = kla::KlaLayer<kla::Simd, kla::Shape<16, 32>>;
  constexpr kla::Index kTokens = 3, kWidth = 64;
  std::mt19937_64 random(1);
  Layer layer({.model_dim = kWidth, .num_heads = 2});
  layer.Initialize(random);
  std::vector<float> x(kTokens * kWidth), y(x.size()), dy(x.size(), 1.0f);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));

  kla::LayerWorkspace<float> workspace;
  const kla::ModelView<const float> all =
      layer.Forward({x.data(), {1, kTokens, kWidth}}, workspace);
  Layer::State state = layer.MakeState(/*slots=*/1);
  double difference = 0, size = 0;
  for (kla::Index t = 0; t < kTokens; ++t) {
    layer.Step({x.data() + t * kWidth, {1, 1, kWidth}}, state,
               {y.data() + t * kWidth, {1, 1, kWidth}});
    for (kla::Index i = 0; i < kWidth; ++i) {
      const double step = static_cast<double>(y[static_cast<std::size_t>(t * kWidth + i)]);
      difference += std::pow(static_cast<double>(all(0, t, i)) - step, 2);
      size += step * step;
    }
  }
  Layer::Parameters gradients = layer.MakeGradients();
  layer.Backward({dy.data(), {1, kTokens, kWidth}}, workspace, gradients);
  double norm = 0;
  for (const float x_i : gradients.values()) norm += static_cast<double>(x_i * x_i);
  return size > 0 && std::sqrt(difference / size) < 1e-4 && norm > 0 && std::isfinite(norm);
}
