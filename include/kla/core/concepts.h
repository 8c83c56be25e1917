// SPDX-License-Identifier: Apache-2.0
// core: every public concept, in one place.
#ifndef KLA_CORE_CONCEPTS_H_
#define KLA_CORE_CONCEPTS_H_

#include <concepts>
#include <string_view>

#include "kla/core/scalar.h"

namespace kla {

// Derivatives of a step size: d beta / d eta and d beta / d |k|^2.
template <class R>
struct StepDerivatives {
  R eta;
  R norm2;
};

// Runs independent tasks (core/executor.h).
template <class E>
concept Executor = requires(const E& executor, void (*task)(Index)) {
  executor.ParallelFor(Index{1}, task);
  { executor.Concurrency() } -> std::convertible_to<Index>;
};

// How far a token moves the state (math/step_size.h has six, examples/03_step_size.cc adds one).
template <class S>
concept StepSizePolicy = requires(double eta, double norm2, double epsilon) {
  { S::kName } -> std::convertible_to<std::string_view>;
  { S::kNormalizeQuery } -> std::convertible_to<bool>;
  { S::kNormalizeKey } -> std::convertible_to<bool>;
  { S::Beta(eta, norm2, epsilon) } -> std::same_as<double>;
  { S::Derivatives(eta, norm2, epsilon) } -> std::same_as<StepDerivatives<double>>;
};

// A compile-time head shape (core/shape.h).
template <class S>
concept HeadShape = requires {
  { S::kKeyDim } -> std::convertible_to<Index>;
  { S::kValueDim } -> std::convertible_to<Index>;
  { S::kChunk } -> std::convertible_to<Index>;
};

}  // namespace kla

#endif  // KLA_CORE_CONCEPTS_H_
