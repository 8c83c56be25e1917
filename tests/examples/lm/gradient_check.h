// SPDX-License-Identifier: Apache-2.0
// tests: finite differences against the hand-written gradients of the language-model example.
#ifndef KLA_TESTS_EXAMPLES_LM_GRADIENT_CHECK_H_
#define KLA_TESTS_EXAMPLES_LM_GRADIENT_CHECK_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"

namespace lm::testing {

inline Matrix<double> RandomMatrix(Eigen::Index rows, Eigen::Index cols, std::mt19937_64& random) {
  Matrix<double> m(rows, cols);
  FillUniform(m, 1.0, random);
  return m;
}

// Gives every parameter a random value, so that no term of a gradient is hidden by a zero or a one.
inline void Randomize(TensorList<double> list, std::mt19937_64& random, double bound = 0.5) {
  for (TensorRef<double>& tensor : list) {
    for (double& value : tensor.values) value = bound * (2.0 * UniformUnit(random) - 1.0);
  }
}

// The sixth-order central difference, with f_m = f(x + mh) − f(x − mh),
//   f'(x) ≈ (45 f_1 − 9 f_2 + f_3) / 60h
// errs by h⁶ f⁽⁷⁾ / 140 plus round-off of about |f| ε_double / h. With h = 2e-4 and |f| of order 1
// to 100 the second is below 1e-9, and so is the first as long as f⁽⁷⁾ stays below 2e15: the L2
// norms of short random vectors need such room. `objective` must read `values` anew at each call.
// At most about `limit` entries are looked at, evenly spread.
template <class Objective>
void ExpectGradient(const std::string& what, std::span<double> values,
                    std::span<const double> gradient, Objective objective, std::size_t limit = 60) {
  constexpr double kStep = 2e-4, kTolerance = 1e-8;
  ASSERT_EQ(values.size(), gradient.size()) << what;
  double largest = 0.0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  const std::size_t stride = std::max<std::size_t>(1, values.size() / limit);
  for (std::size_t i = 0; i < values.size(); i += stride) {
    const double kept = values[i];
    const auto at = [&](double x) {
      values[i] = x;
      return static_cast<double>(objective());
    };
    const auto difference = [&](double m) { return at(kept + m * kStep) - at(kept - m * kStep); };
    const double expected = (45 * difference(1) - 9 * difference(2) + difference(3)) / (60 * kStep);
    values[i] = kept;
    EXPECT_NEAR(gradient[i], expected, kTolerance * std::max(1.0, largest))
        << what << " entry " << i;
  }
}

template <class Objective>
void ExpectGradients(TensorList<double> parameters, const TensorList<double>& gradients,
                     Objective objective, std::size_t limit = 60) {
  ASSERT_EQ(parameters.size(), gradients.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    ASSERT_EQ(parameters[i].name, gradients[i].name);
    ASSERT_EQ(parameters[i].shape, gradients[i].shape) << parameters[i].name;
    ExpectGradient(parameters[i].name, parameters[i].values, gradients[i].values, objective, limit);
  }
}

inline std::span<double> Entries(Matrix<double>& m) {
  return {m.data(), static_cast<std::size_t>(m.size())};
}

// Σ y ∘ weights: a scalar whose gradient with respect to y is `weights`.
inline double Contract(const Matrix<double>& y, const Matrix<double>& weights) {
  return y.cwiseProduct(weights).sum();
}

}  // namespace lm::testing

#endif  // KLA_TESTS_EXAMPLES_LM_GRADIENT_CHECK_H_
