// SPDX-License-Identifier: Apache-2.0
// tests: the optimiser against its formulas, written out for one parameter, and the schedule.
#include "examples/lm/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "examples/lm/matrix.h"
#include "kla/core/executor.h"

namespace lm::testing {
namespace {

TEST(CosineScheduleTest, WarmsUpThenFallsToItsFloor) {
  const CosineSchedule schedule{.peak = 2.0, .floor = 0.1, .warmup = 4, .steps = 24};
  EXPECT_DOUBLE_EQ(schedule(0), 0.5);
  EXPECT_DOUBLE_EQ(schedule(3), 2.0);
  EXPECT_DOUBLE_EQ(schedule(4), 2.0);
  EXPECT_DOUBLE_EQ(schedule(14), 2.0 * (0.1 + 0.9 * 0.5));  // half way down the cosine
  EXPECT_NEAR(schedule(24), 0.2, 1e-15);
  EXPECT_NEAR(schedule(1000), 0.2, 1e-15);
  // What train.h relies on: the warm-up does not depend on the number of steps.
  CosineSchedule longer = schedule;
  longer.steps = 5000;
  for (std::int64_t step = 0; step < 4; ++step) EXPECT_EQ(longer(step), schedule(step));
}

// A matrix and a vector with the gradients of some shards.
struct Problem {
  explicit Problem(std::size_t shard_count) : matrix(200, 300), vector(5) {
    std::mt19937_64 random(1);
    FillUniform(matrix, 1.0, random);
    FillUniform(vector, 1.0, random);
    gradients.resize(shard_count);
    for (auto& [m, v] : gradients) {
      m.resize(200, 300);
      v.resize(5);
    }
    FillGradients(random);
  }

  void FillGradients(std::mt19937_64& random) {
    for (auto& [m, v] : gradients) {
      FillUniform(m, 0.1, random);
      FillUniform(v, 0.1, random);
    }
  }

  static TensorList<double> List(Matrix<double>& m, RowVector<double>& v) {
    TensorList<double> list;
    Append(list, "m", m);
    Append(list, "v", v);
    return list;
  }

  std::vector<TensorList<double>> Shards() {
    std::vector<TensorList<double>> shards;
    for (auto& [m, v] : gradients) shards.push_back(List(m, v));
    return shards;
  }

  Matrix<double> matrix;
  RowVector<double> vector;
  std::vector<std::pair<Matrix<double>, RowVector<double>>> gradients;
};

TEST(AdamWTest, FollowsItsFormulas) {
  const AdamWConfig config{
      .beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-3, .weight_decay = 0.5, .clip_norm = 2.0};
  Problem problem(3);
  AdamW<double> optimizer(config, Problem::List(problem.matrix, problem.vector));
  std::vector<TensorList<double>> shards = problem.Shards();
  std::mt19937_64 random(2);

  // The same by hand for one entry of each tensor.
  struct Entry {
    double w, m = 0.0, u = 0.0;
  } in_matrix{problem.matrix(123, 45)}, in_vector{problem.vector(3)};
  for (int t = 1; t <= 3; ++t) {
    Matrix<double> total = Matrix<double>::Zero(200, 300);
    RowVector<double> vector_total = RowVector<double>::Zero(5);
    for (const auto& [m, v] : problem.gradients) {
      total += m;
      vector_total += v;
    }
    const double norm = std::sqrt(total.squaredNorm() + vector_total.squaredNorm());
    ASSERT_GT(norm, 2.0);  // so that clipping takes part
    const double rate = 0.01 * t;
    const auto update = [&](Entry& e, double g, double decay) {
      g *= 2.0 / norm;
      e.m = 0.8 * e.m + 0.2 * g;
      e.u = 0.9 * e.u + 0.1 * g * g;
      const double step =
          e.m / (1 - std::pow(0.8, t)) / (std::sqrt(e.u / (1 - std::pow(0.9, t))) + 1e-3);
      e.w = e.w * (1 - rate * decay) - rate * step;
    };
    update(in_matrix, total(123, 45), 0.5);
    update(in_vector, vector_total(3), 0.0);  // vectors do not decay
    EXPECT_NEAR(optimizer.Step(shards, rate, kla::Serial{}), norm, 1e-12 * norm);
    EXPECT_NEAR(problem.matrix(123, 45), in_matrix.w, 1e-14);
    EXPECT_NEAR(problem.vector(3), in_vector.w, 1e-14);
    for (const auto& [m, v] : problem.gradients) {  // ready for the next step
      EXPECT_EQ(m.cwiseAbs().maxCoeff(), 0.0);
      EXPECT_EQ(v.cwiseAbs().maxCoeff(), 0.0);
    }
    problem.FillGradients(random);
  }
  EXPECT_EQ(optimizer.step(), 3);
}

TEST(AdamWTest, SmallGradientsAreNotScaled) {
  Problem clipped(1), free(1);
  for (auto* problem : {&clipped, &free}) problem->gradients[0].first *= 1e-3;
  for (auto* problem : {&clipped, &free}) problem->gradients[0].second *= 1e-3;
  AdamW<double> with({.clip_norm = 1.0}, Problem::List(clipped.matrix, clipped.vector));
  AdamW<double> without({.clip_norm = 0.0}, Problem::List(free.matrix, free.vector));
  auto shards = clipped.Shards(), free_shards = free.Shards();
  EXPECT_LT(with.Step(shards, 0.1, kla::Serial{}), 1.0);
  without.Step(free_shards, 0.1, kla::Serial{});
  EXPECT_EQ(clipped.matrix, free.matrix);
}

}  // namespace
}  // namespace lm::testing
