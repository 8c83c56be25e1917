// SPDX-License-Identifier: Apache-2.0
// tests: softmax attention against its definition, its gradients, and its key-value cache.
#include "examples/lm/attention_mixer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <vector>

#include "examples/lm/mixer.h"
#include "tests/examples/lm/gradient_check.h"

namespace lm::testing {
namespace {

static_assert(Mixer<AttentionMixer<double>>);

struct Case {
  Window window;
  AttentionConfig config;
};

class AttentionMixerTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t kDim = 12;

  AttentionMixerTest() : mixer_(GetParam().config, kDim) {
    mixer_.AppendTensors("a", parameters_);
    Randomize(parameters_, random_);
    x_ = RandomMatrix(window_.rows(), kDim, random_);
  }

  Matrix<double> Forward() {
    Matrix<double> y;
    mixer_.Forward(x_, window_, y, workspace_, nullptr);
    return y;
  }

  Window window_ = GetParam().window;
  std::mt19937_64 random_{7};
  AttentionMixer<double> mixer_;
  TensorList<double> parameters_;
  AttentionMixer<double>::Workspace workspace_;
  Matrix<double> x_;
};

// The definition, one pair of tokens at a time.
Matrix<double> PlainAttention(const Matrix<double>& x, Window window, const AttentionConfig& config,
                              const TensorList<double>& parameters) {
  const Eigen::Index dim = x.cols(), d = dim / config.num_heads;
  const Eigen::Map<const Matrix<double>> in(parameters[0].values.data(), 3 * dim, dim);
  const Eigen::Map<const Matrix<double>> out(parameters[1].values.data(), dim, dim);
  Matrix<double> qkv = x * in.transpose(), o = Matrix<double>::Zero(x.rows(), dim);
  for (Eigen::Index b = 0; b < window.batch; ++b) {
    for (Eigen::Index h = 0; h < config.num_heads; ++h) {
      // Complex numbers turn pairs; the real part of a conjugate product is the dot product, and it
      // depends on the distance between the two tokens alone.
      const auto score = [&](Eigen::Index i, Eigen::Index j) {
        double sum = 0.0;
        for (Eigen::Index p = 0; p < d / 2; ++p) {
          const Eigen::Index q = h * d + p, k = dim + h * d + p;
          const double a = qkv(i, q), c = qkv(i, q + d / 2), e = qkv(j, k), f = qkv(j, k + d / 2);
          const double frequency =
              config.rotary_base > 0.0
                  ? std::pow(config.rotary_base,
                             -2.0 * static_cast<double>(p) / static_cast<double>(d))
                  : 0.0;
          const double angle = static_cast<double>(i - j) * frequency;
          sum += std::cos(angle) * (a * e + c * f) - std::sin(angle) * (c * e - a * f);
        }
        return sum / std::sqrt(static_cast<double>(d));
      };
      for (Eigen::Index t = 0; t < window.time; ++t) {
        const Eigen::Index i = b * window.time + t;
        double total = 0.0;
        for (Eigen::Index j = b * window.time; j <= i; ++j) total += std::exp(score(i, j));
        for (Eigen::Index j = b * window.time; j <= i; ++j) {
          o.row(i).segment(h * d, d) +=
              std::exp(score(i, j)) / total * qkv.row(j).segment(2 * dim + h * d, d);
        }
      }
    }
  }
  return o * out.transpose();
}

// Double precision, sums of at most 12 + 150 terms of order one: 1e-12 is a thousand roundings.
constexpr double kExact = 1e-12;

TEST_P(AttentionMixerTest, MatchesDefinition) {
  const Matrix<double> expected = PlainAttention(x_, window_, GetParam().config, parameters_);
  EXPECT_LT((Forward() - expected).cwiseAbs().maxCoeff(), kExact);
}

TEST_P(AttentionMixerTest, GradientsMatchFiniteDifferences) {
  AttentionMixer<double> gradient(GetParam().config, kDim);
  TensorList<double> gradients;
  gradient.AppendTensors("a", gradients);
  const Matrix<double> dy = RandomMatrix(window_.rows(), kDim, random_);
  Matrix<double> dx;
  Forward();
  mixer_.Backward(x_, dy, window_, workspace_, dx, gradient);
  const auto objective = [&] { return Contract(Forward(), dy); };
  ExpectGradients(parameters_, gradients, objective, 20);
  ExpectGradient("x", Entries(x_), Entries(dx), objective, 20);
}

TEST_P(AttentionMixerTest, StepsEqualForward) {
  const Matrix<double> expected = Forward();
  AttentionMixer<double>::State state = mixer_.MakeState(window_.batch);
  Matrix<double> x(window_.batch, kDim), y;
  for (std::int64_t t = 0; t < window_.time; ++t) {
    for (std::int64_t b = 0; b < window_.batch; ++b) x.row(b) = x_.row(b * window_.time + t);
    mixer_.Step(x, state, y);
    for (std::int64_t b = 0; b < window_.batch; ++b) {
      EXPECT_LT((y.row(b) - expected.row(b * window_.time + t)).cwiseAbs().maxCoeff(), kExact)
          << "token " << t;
    }
  }
}

TEST_P(AttentionMixerTest, ForwardContinuesFromItsState) {
  const Matrix<double> expected = Forward();
  const std::int64_t first = window_.time / 3;
  AttentionMixer<double>::State state = mixer_.MakeState(window_.batch);
  std::int64_t done = 0;
  for (const std::int64_t time : {first, window_.time - first}) {
    if (time == 0) continue;
    Matrix<double> x(window_.batch * time, kDim), y;
    for (std::int64_t b = 0; b < window_.batch; ++b) {
      x.middleRows(b * time, time) = x_.middleRows(b * window_.time + done, time);
    }
    mixer_.Forward(x, {.batch = window_.batch, .time = time}, y, workspace_, &state);
    for (std::int64_t b = 0; b < window_.batch; ++b) {
      EXPECT_LT((y.middleRows(b * time, time) - expected.middleRows(b * window_.time + done, time))
                    .cwiseAbs()
                    .maxCoeff(),
                kExact);
    }
    done += time;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Windows, AttentionMixerTest,
    ::testing::Values(Case{{.batch = 1, .time = 1}, {.num_heads = 2}},
                      Case{{.batch = 2, .time = 9}, {.num_heads = 3}},
                      Case{{.batch = 2, .time = 64}, {.num_heads = 2, .rotary_base = 0.0}},
                      Case{{.batch = 1, .time = 150}, {.num_heads = 1, .rotary_base = 100.0}}));

TEST(AttentionMixerErrors, RejectsHeadsThatDoNotDivide) {
  EXPECT_THROW(AttentionMixer<float>({.num_heads = 5}, 12), std::invalid_argument);
  EXPECT_THROW(AttentionMixer<float>({.num_heads = 4}, 12), std::invalid_argument);
  AttentionMixer<float> mixer({.num_heads = 2}, 12);
  AttentionMixer<float>::State state = mixer.MakeState(2);
  Matrix<float> y;
  EXPECT_THROW(mixer.Step(Matrix<float>::Zero(3, 12), state, y), std::invalid_argument);
}

}  // namespace
}  // namespace lm::testing
