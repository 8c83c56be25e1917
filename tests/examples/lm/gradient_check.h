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

// The fourth-order central difference
//   f'(x) ≈ (8 (f(x+h) − f(x−h)) − (f(x+2h) − f(x−2h))) / 12h
// errs by O(h⁴) plus round-off of about |f| ε_double / h. With h = 1e-3 and |f| of order 1 to 100,
// both stay below 1e-9; the tolerance leaves room for fifth derivatives of a few hundred.
// `objective` must read `values` anew at each call. At most `limit` entries, evenly spread.
template <class Objective>
void ExpectGradient(const std::string& what, std::span<double> values,
                    std::span<const double> gradient, Objective objective, std::size_t limit = 60) {
  constexpr double kStep = 1e-3, kTolerance = 2e-8;
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
    const double inner = at(kept + kStep) - at(kept - kStep);
    const double outer = at(kept + 2 * kStep) - at(kept - 2 * kStep);
    values[i] = kept;
    const double expected = (8 * inner - outer) / (12 * kStep);
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
