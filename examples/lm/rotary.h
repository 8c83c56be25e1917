// SPDX-License-Identifier: Apache-2.0
// Language-model example, mixers: rotary position encoding for softmax attention.
#ifndef KLA_EXAMPLES_LM_ROTARY_H_
#define KLA_EXAMPLES_LM_ROTARY_H_

#include <cmath>
#include <cstdint>

#include "examples/lm/matrix.h"

namespace lm {

// Turns the pairs (x_j, x_{j + d/2}) of every head at position p by the angle p · base^(−2j/d).
// Su et al., RoFormer, 2021.
template <class T>
class RotaryTable {
 public:
  // Makes ready for the positions first .. first + count − 1; free where nothing has changed.
  void Prepare(std::int64_t first, std::int64_t count, std::int64_t head_dim, double base) {
    if (first == first_ && count <= cosine_.rows()) return;
    first_ = first;
    cosine_.resize(count, head_dim / 2);
    sine_.resize(count, head_dim / 2);
    for (std::int64_t j = 0; j < head_dim / 2; ++j) {
      const double frequency =
          std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
      for (std::int64_t t = 0; t < count; ++t) {
        const double angle = static_cast<double>(first + t) * frequency;
        cosine_(t, j) = static_cast<T>(std::cos(angle));
        sine_(t, j) = static_cast<T>(std::sin(angle));
      }
    }
  }

  // x [heads, d] at position first + t, in place. Direction −1 undoes +1; it is also the gradient.
  void Rotate(T* x, std::int64_t heads, std::int64_t t, int direction) const {
    const std::int64_t half = cosine_.cols();
    const T* cosine = cosine_.data() + t * half;
    const T* sine = sine_.data() + t * half;
    const T sign = static_cast<T>(direction);
    for (std::int64_t h = 0; h < heads; ++h) {
      T* first = x + h * 2 * half;
      T* second = first + half;
      for (std::int64_t j = 0; j < half; ++j) {
        const T a = first[j], b = second[j], s = sign * sine[j];
        first[j] = a * cosine[j] - b * s;
        second[j] = a * s + b * cosine[j];
      }
    }
  }

 private:
  std::int64_t first_ = -1;
  Matrix<T> cosine_, sine_;  // [count, d / 2]
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_ROTARY_H_
