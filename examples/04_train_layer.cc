// SPDX-License-Identifier: Apache-2.0
// Trains one layer to remember. Each sequence shows pairs of a key and a value, tied together at
// random, then repeats the keys in another order; the layer has to answer with the values. It can
// only do so by writing the pairs into its state and reading them back. Trained in chunks with
// Adam, then run token by token. Exit status 0 if it answers new sequences correctly.
#include <kla/kla.h>
#include <kla/layer.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

using Layer = kla::KlaLayer<kla::DefaultBackend, kla::Shape</*key*/ 16, /*value*/ 32>>;
constexpr kla::Index kSymbols = 16, kWidth = 2 * kSymbols;  // a token: a key and a value, one-hot
constexpr kla::Index kPairs = 8, kTokens = 2 * kPairs, kBatch = 32, kSteps = 300;

// x [B, T, D], and the value that each token of the second half asks for.
struct Batch {
  std::vector<float> x = std::vector<float>(kBatch * kTokens * kWidth);
  std::vector<kla::Index> answers;
  kla::ModelView<const float> view() const { return {x.data(), {kBatch, kTokens, kWidth}}; }

  explicit Batch(std::mt19937_64& random) {
    std::array<kla::Index, kSymbols> keys, values;
    std::iota(keys.begin(), keys.end(), 0);
    values = keys;
    for (kla::Index b = 0; b < kBatch; ++b) {
      std::shuffle(keys.begin(), keys.end(), random);
      std::shuffle(values.begin(), values.end(), random);
      std::array<std::size_t, kPairs> order;  // in which the pairs are asked for
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      float* token = x.data() + b * kTokens * kWidth;
      for (std::size_t i = 0; i < kPairs; ++i, token += kWidth) {
        token[keys[i]] = token[kSymbols + values[i]] = 1;
      }
      for (const std::size_t i : order) {
        token[keys[i]] = 1;
        token += kWidth;
        answers.push_back(values[i]);
      }
    }
  }
};

struct Score {
  float loss = 0;      // mean cross-entropy; ln 16 = 2.77 for a guess
  float accuracy = 0;  // share of right answers
};

// y [B, T, D], of which the value columns of the second half count, as logits. Writes dloss / dy.
Score Evaluate(const kla::ModelView<const float>& y, const Batch& batch, std::vector<float>& dy) {
  Score score;
  dy.assign(batch.x.size(), 0);
  const auto count = static_cast<float>(batch.answers.size());
  for (std::size_t i = 0; i < batch.answers.size(); ++i) {
    const kla::Index b = static_cast<kla::Index>(i) / kPairs;
    const kla::Index t = kPairs + static_cast<kla::Index>(i) % kPairs;
    const float* logits = y.Row(b, t) + kSymbols;
    float* gradient = dy.data() + (b * kTokens + t) * kWidth + kSymbols;
    float sum = 0;
    for (kla::Index c = 0; c < kSymbols; ++c) sum += std::exp(logits[c]);
    for (kla::Index c = 0; c < kSymbols; ++c) gradient[c] = std::exp(logits[c]) / sum / count;
    const kla::Index answer = batch.answers[i];
    gradient[answer] -= 1 / count;
    score.loss += (std::log(sum) - logits[answer]) / count;
    const float* best = std::max_element(logits, logits + kSymbols);
    if (best == logits + answer) score.accuracy += 1 / count;
  }
  return score;
}

// Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.
struct Adam {
  std::vector<float> mean, square;
  float t = 0;

  void Update(Layer& layer, const Layer::Parameters& gradients) {
    const auto values = layer.parameters().values();
    mean.resize(values.size());
    square.resize(values.size());
    t += 1;
    const float rate = 0.01f, mean_share = 1 - std::pow(0.9f, t),
                square_share = 1 - std::pow(0.95f, t);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float g = gradients.values()[i];
      mean[i] += 0.1f * (g - mean[i]);
      square[i] += 0.05f * (g * g - square[i]);
      values[i] -= rate * (mean[i] / mean_share) / (std::sqrt(square[i] / square_share) + 1e-8f);
    }
  }
};

int main() {
  std::mt19937_64 random(1);
  Layer layer({.model_dim = kWidth, .num_heads = 2});
  layer.Initialize(random);
  std::printf("%zu parameters in %zu tensors, such as %s\n", layer.parameters().values().size(),
              layer.parameters().tensors().size(), layer.parameters().tensors()[0].name.c_str());

  kla::LayerWorkspace<float> workspace;
  Layer::Parameters gradients = layer.MakeGradients();
  Adam adam;
  std::vector<float> dy;
  for (kla::Index step = 0; step <= kSteps; ++step) {
    const Batch batch(random);
    const Score score = Evaluate(layer.Forward(batch.view(), workspace), batch, dy);
    layer.Backward({dy.data(), {kBatch, kTokens, kWidth}}, workspace, gradients);
    adam.Update(layer, gradients);
    if (step % 50 == 0) {
      std::printf("step %3d  loss %.3f  right %3.0f %%\n", static_cast<int>(step), score.loss,
                  100 * score.accuracy);
    }
  }

  // New sequences, one token a call: the state is all that the layer keeps of them.
  const Batch fresh(random);
  Layer::State state = layer.MakeState(/*slots=*/kBatch);
  std::vector<float> y(fresh.x.size());
  for (kla::Index t = 0; t < kTokens; ++t) {
    const std::array<kla::Index, 3> extents = {kBatch, 1, kWidth};
    const std::array<kla::Index, 3> strides = {kTokens * kWidth, kWidth, 1};
    layer.Step({fresh.x.data() + t * kWidth, extents, strides}, state,
               {y.data() + t * kWidth, extents, strides});
  }
  const Score score = Evaluate({y.data(), {kBatch, kTokens, kWidth}}, fresh, dy);
  std::printf("new sequences, token by token: right %.0f %%\n", 100 * score.accuracy);
  return score.accuracy > 0.95f ? 0 : 1;
}
