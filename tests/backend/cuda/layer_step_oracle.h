// SPDX-License-Identifier: Apache-2.0
// tests/backend: a layer between its projections, token by token, in double, from the equations.
#ifndef KLA_TESTS_BACKEND_CUDA_LAYER_STEP_ORACLE_H_
#define KLA_TESTS_BACKEND_CUDA_LAYER_STEP_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/math/recurrence.h"
#include "kla/op/problem.h"

namespace kla::test {

struct LayerSizesForTest {
  Index key_heads, value_heads, key_dim, value_dim;
  HeadGrouping grouping = HeadGrouping::kInterleaved;

  Index channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
  Index width() const { return channels() + value_heads * value_dim + 2 * value_heads; }
};

// The small weights, as the layer initialises them or thereabouts.
struct LayerStepWeights {
  LayerStepWeights(const LayerSizesForTest& sizes, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<float>& values, Index size, double mean, double deviation) {
      values.resize(static_cast<std::size_t>(size));
      for (float& value : values) value = static_cast<float>(mean + deviation * normal(random));
    };
    fill(conv, 4 * sizes.channels(), 0.0, 0.5);
    fill(a_log, sizes.value_heads, 0.5, 1.0);
    fill(dt_bias, sizes.value_heads, -4.0, 1.0);
    fill(step_bias, sizes.value_heads, 0.0, 1.0);
    fill(norm, sizes.value_dim, 1.0, 0.3);
  }
  std::vector<float> conv, a_log, dt_bias, step_bias, norm;
};

// One sequence.
template <class StepSize>
class LayerStepOracle {
 public:
  LayerStepOracle(const LayerSizesForTest& sizes, const LayerStepWeights& weights)
      : s_(sizes),
        w_(weights),
        states_(static_cast<std::size_t>(sizes.value_heads * sizes.key_dim * sizes.value_dim)),
        window_(static_cast<std::size_t>(3 * sizes.channels())) {}

  // row [width] -> z [HV V]
  std::vector<double> Step(const std::vector<double>& row) {
    const auto at = [](Index i) { return static_cast<std::size_t>(i); };
    const Index channels = s_.channels(), values = s_.value_heads * s_.value_dim;
    std::vector<double> x(at(channels));
    for (Index c = 0; c < channels; ++c) {
      double sum = double{w_.conv[at(4 * c + 3)]} * row[at(c)];
      for (Index j = 0; j < 3; ++j) {
        sum += double{w_.conv[at(4 * c + j)]} * window_[at(j * channels + c)];
      }
      x[at(c)] = sum / (1 + std::exp(-sum));
    }
    std::rotate(window_.begin(), window_.begin() + channels, window_.end());
    std::copy_n(row.begin(), channels, window_.end() - channels);

    std::vector<double> z(at(values));
    Problem problem{};
    problem.key_heads = s_.key_heads;
    problem.value_heads = s_.value_heads;
    problem.grouping = s_.grouping;
    for (Index h = 0; h < s_.value_heads; ++h) {
      const Index key_head = problem.KeyHeadOf(h), width = s_.key_heads * s_.key_dim;
      const double* q_row = &x[at(key_head * s_.key_dim)];
      const double* k_row = &x[at(width + key_head * s_.key_dim)];
      std::vector<double> q(q_row, q_row + s_.key_dim), k(k_row, k_row + s_.key_dim);
      if (StepSize::kNormalizeQuery) Normalize(q);
      if (StepSize::kNormalizeKey) Normalize(k);
      double norm2 = 0;
      for (const double e : k) norm2 += e * e;
      const double a = row[at(channels + values + h)] + double{w_.dt_bias[at(h)]};
      const double b = row[at(channels + values + s_.value_heads + h)];
      const double g = -std::exp(double{w_.a_log[at(h)]}) * std::log1p(std::exp(a));
      const double eta = 1 / (1 + std::exp(-(b + double{w_.step_bias[at(h)]})));
      std::vector<double> o(at(s_.value_dim));
      const internal::StateMatrix<double> state{&states_[at(h * s_.key_dim * s_.value_dim)],
                                                s_.key_dim, s_.value_dim, s_.value_dim, 1};
      internal::RecurrenceStep(state, q.data(), k.data(), &x[at(2 * width + h * s_.value_dim)], g,
                               StepSize::Beta(eta, norm2, 1e-6),
                               1 / std::sqrt(static_cast<double>(s_.key_dim)), o.data());
      double mean = 0;
      for (const double e : o) mean += e * e / static_cast<double>(s_.value_dim);
      for (Index j = 0; j < s_.value_dim; ++j) {
        const double u = row[at(channels + h * s_.value_dim + j)];
        z[at(h * s_.value_dim + j)] =
            o[at(j)] / std::sqrt(mean + 1e-5) * double{w_.norm[at(j)]} * u / (1 + std::exp(-u));
      }
    }
    return z;
  }

  const std::vector<double>& window() const { return window_; }  // [3, channels]

 private:
  static void Normalize(std::vector<double>& x) {
    double sum = 1e-6;
    for (const double e : x) sum += e * e;
    for (double& e : x) e /= std::sqrt(sum);
  }

  LayerSizesForTest s_;
  const LayerStepWeights& w_;
  std::vector<double> states_, window_;
};

}  // namespace kla::test

#endif  // KLA_TESTS_BACKEND_CUDA_LAYER_STEP_ORACLE_H_
