// SPDX-License-Identifier: Apache-2.0
// tests: gradients of every piece of the language-model example against finite differences.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

#include "examples/lm/cross_entropy.h"
#include "examples/lm/rms_norm.h"
#include "examples/lm/swiglu.h"
#include "examples/lm/tied_embedding.h"
#include "tests/examples/lm/gradient_check.h"

namespace lm::testing {
namespace {

TEST(RmsNormTest, GradientsMatchFiniteDifferences) {
  std::mt19937_64 random(1);
  RmsNorm<double> norm(7), gradient(7);
  TensorList<double> parameters, gradients;
  norm.AppendTensors("norm", parameters);
  gradient.AppendTensors("norm", gradients);
  Randomize(parameters, random);
  Matrix<double> x = RandomMatrix(5, 7, random), y;
  const Matrix<double> dy = RandomMatrix(5, 7, random);
  RmsNorm<double>::Workspace workspace;
  norm.Forward(x, y, workspace);
  Matrix<double> dx = Matrix<double>::Zero(5, 7);
  norm.Backward(dy, workspace, dx, gradient);
  const auto objective = [&] {
    RmsNorm<double>::Workspace scratch;
    norm.Forward(x, y, scratch);
    return Contract(y, dy);
  };
  ExpectGradients(parameters, gradients, objective);
  ExpectGradient("x", Entries(x), Entries(dx), objective);
}

TEST(RmsNormTest, RowsHaveUnitMeanSquare) {
  std::mt19937_64 random(2);
  RmsNorm<double> norm(64);
  norm.Initialize();
  Matrix<double> y;
  RmsNorm<double>::Workspace workspace;
  norm.Forward(100.0 * RandomMatrix(3, 64, random), y, workspace);
  // mean(y²) = m / (m + ε) with m about 3333: one, to within ε / m = 3e-9.
  for (Eigen::Index i = 0; i < 3; ++i) EXPECT_NEAR(y.row(i).squaredNorm() / 64.0, 1.0, 1e-8);
}

TEST(SwiGluTest, GradientsMatchFiniteDifferences) {
  std::mt19937_64 random(3);
  SwiGlu<double> network(6, 9), gradient(6, 9);
  TensorList<double> parameters, gradients;
  network.AppendTensors("ffn", parameters);
  gradient.AppendTensors("ffn", gradients);
  Randomize(parameters, random);
  Matrix<double> x = RandomMatrix(4, 6, random);
  const Matrix<double> residual = RandomMatrix(4, 6, random), dy = RandomMatrix(4, 6, random);
  SwiGlu<double>::Workspace workspace;
  Matrix<double> y = residual, dx;
  network.Forward(x, y, workspace);
  network.Backward(x, dy, workspace, dx, gradient);
  const auto objective = [&] {
    SwiGlu<double>::Workspace scratch;
    y = residual;
    network.Forward(x, y, scratch);
    return Contract(y, dy);
  };
  ExpectGradients(parameters, gradients, objective);
  ExpectGradient("x", Entries(x), Entries(dx), objective);
}

TEST(TiedEmbeddingTest, GradientSumsBothUsesOfTheTable) {
  std::mt19937_64 random(4);
  TiedEmbedding<double> embedding(5, 3), gradient(5, 3);
  embedding.Initialize(random);
  const std::vector<std::int32_t> tokens{4, 0, 2, 0};
  const Matrix<double> weights = RandomMatrix(4, 5, random);
  Matrix<double> x, logits, dx;
  embedding.Embed(tokens, x);
  embedding.ScoreBackward(x, weights, dx, gradient);
  embedding.EmbedBackward(tokens, dx, gradient);
  ExpectGradient("table", Entries(embedding.table), Entries(gradient.table), [&] {
    embedding.Embed(tokens, x);
    embedding.Score(x, logits);
    return Contract(logits, weights);
  });
}

TEST(TiedEmbeddingTest, RejectsTokensOutsideTheVocabulary) {
  TiedEmbedding<double> embedding(5, 3);
  Matrix<double> x;
  EXPECT_THROW(embedding.Embed(std::vector<std::int32_t>{1, 5}, x), std::invalid_argument);
  EXPECT_THROW(embedding.Embed(std::vector<std::int32_t>{-1}, x), std::invalid_argument);
}

TEST(CrossEntropyTest, GradientMatchesFiniteDifferences) {
  std::mt19937_64 random(5);
  Matrix<double> logits = 4.0 * RandomMatrix(3, 6, random);
  const std::vector<std::int32_t> targets{5, 0, 3};
  Matrix<double> gradient = logits;
  CrossEntropyInPlace<double>(targets, gradient);
  ExpectGradient("logits", Entries(logits), Entries(gradient), [&] {
    Matrix<double> scratch = logits;
    return CrossEntropyInPlace<double>(targets, scratch).nats;
  });
}

TEST(CrossEntropyTest, KnownValues) {
  Matrix<double> logits = Matrix<double>::Zero(1, 8);
  EXPECT_NEAR(CrossEntropyInPlace<double>(std::vector<std::int32_t>{3}, logits).bits_per_row(), 3.0,
              1e-15);
  Matrix<float> huge(2, 2);
  huge << 3e38f, -3e38f, -3e38f, 3e38f;  // no overflow: certain and right, certain and wrong
  const LossSum sum = CrossEntropyInPlace<float>(std::vector<std::int32_t>{0, 1}, huge);
  EXPECT_EQ(sum.nats, 0.0);
  EXPECT_EQ(sum.count, 2);
  EXPECT_EQ(sum.correct, 2);
  Matrix<double> wrong(1, 2);
  wrong << 50.0, 0.0;
  const LossSum loss = CrossEntropyInPlace<double>(std::vector<std::int32_t>{1}, wrong);
  EXPECT_NEAR(loss.nats, 50.0, 1e-12);
  EXPECT_EQ(loss.correct, 0);
}

TEST(CrossEntropyTest, ATieIsNotCorrect) {
  Matrix<double> logits = Matrix<double>::Zero(1, 8);
  EXPECT_EQ(CrossEntropyInPlace<double>(std::vector<std::int32_t>{3}, logits).correct, 0);
}

}  // namespace
}  // namespace lm::testing
