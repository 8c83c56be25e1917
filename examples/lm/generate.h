// SPDX-License-Identifier: Apache-2.0
// Language-model example, decoding: samples bytes one by one from the recurrent form.
#ifndef KLA_EXAMPLES_LM_GENERATE_H_
#define KLA_EXAMPLES_LM_GENERATE_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "examples/lm/matrix.h"
#include "examples/lm/text_corpus.h"

namespace lm {

// Draws from softmax(logits / temperature); temperature 0 takes the largest, the first of equals.
template <class Row>
std::int32_t SampleToken(const Row& logits, double temperature, std::mt19937_64& random) {
  Eigen::Index best = 0;
  const double largest = static_cast<double>(logits.maxCoeff(&best));
  if (temperature == 0.0) return static_cast<std::int32_t>(best);
  std::vector<double> weights(static_cast<std::size_t>(logits.size()));
  double total = 0.0;
  for (Eigen::Index i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((static_cast<double>(logits(i)) - largest) / temperature);
    weights[static_cast<std::size_t>(i)] = weight;
    total += weight;
  }
  double left = UniformUnit(random) * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0.0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(best);  // rounding used up the last weight
}

// `count` bytes that follow `prompt`, itself taken as the beginning of a document. The prompt is
// read in chunked form, the rest is decoded in recurrent form: a fixed cost a byte. The same model,
// prompt and seed give the same bytes.
template <class Model>
std::string GenerateBytes(const Model& model, std::string_view prompt, std::int64_t count,
                          double temperature, std::uint64_t seed) {
  if (!(temperature >= 0.0))
    throw std::invalid_argument("lm: the temperature must not be negative");
  std::mt19937_64 random(seed);
  typename Model::State state = model.MakeState(1);
  std::vector<std::int32_t> tokens{static_cast<unsigned char>(kDocumentStart)};
  for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  std::int32_t last = tokens.back();
  tokens.pop_back();
  if (!tokens.empty()) {
    typename Model::Workspace workspace;
    const Window window{.batch = 1, .time = static_cast<std::int64_t>(tokens.size())};
    model.Prefill(tokens, window, workspace, state);
  }
  std::string text;
  Matrix<typename Model::Scalar> logits;
  for (std::int64_t i = 0; i < count; ++i) {
    model.Step(std::vector<std::int32_t>{last}, state, logits);
    last = SampleToken(logits.row(0), temperature, random);
    text += static_cast<char>(static_cast<unsigned char>(last));
  }
  return text;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_GENERATE_H_
