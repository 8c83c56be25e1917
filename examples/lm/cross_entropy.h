// SPDX-License-Identifier: Apache-2.0
// Language-model example, loss: cross-entropy of a softmax and its gradient, in place.
#ifndef KLA_EXAMPLES_LM_CROSS_ENTROPY_H_
#define KLA_EXAMPLES_LM_CROSS_ENTROPY_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "examples/lm/matrix.h"

namespace lm {

// Sums over the labelled rows of some windows; adding two gives the sums over both.
struct LossSum {
  double nats = 0.0;         // Σ −ln p(target)
  std::int64_t count = 0;    // labelled rows
  std::int64_t correct = 0;  // rows whose target has a larger logit than every other token

  LossSum& operator+=(const LossSum& other) {
    nats += other.nats;
    count += other.count;
    correct += other.correct;
    return *this;
  }
  double nats_per_row() const { return nats / static_cast<double>(count); }
  double bits_per_row() const { return nats_per_row() / std::log(2.0); }
};

//   loss_i = ln Σ_j exp(z_ij) − z_i,target        dz_ij = p_ij − [j = target]
// Overwrites the logits z [rows, vocabulary] with dz. Row maxima are subtracted before exp, so no
// finite logit overflows. A row's loss is added up in double.
template <class T>
LossSum CrossEntropyInPlace(std::span<const std::int32_t> targets, Matrix<T>& logits) {
  LossSum sum;
  for (std::size_t r = 0; r < targets.size(); ++r) {
    const Eigen::Index target = targets[r];
    if (target < 0 || target >= logits.cols()) {
      throw std::invalid_argument("lm: target " + std::to_string(target) +
                                  " is outside the vocabulary of " + std::to_string(logits.cols()));
    }
    auto z = logits.row(static_cast<Eigen::Index>(r)).array();
    const T largest = z.maxCoeff();
    const T z_target = z(target) - largest;
    if (z_target == T(0) && (z == largest).count() == 1) ++sum.correct;
    z = (z - largest).exp();
    const T total = z.sum();
    sum.nats += std::log(static_cast<double>(total)) - static_cast<double>(z_target);
    z *= T(1) / total;
    z(target) -= T(1);
  }
  sum.count = static_cast<std::int64_t>(targets.size());
  return sum;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_CROSS_ENTROPY_H_
