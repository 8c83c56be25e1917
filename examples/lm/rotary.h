// SPDX-License-Identifier: Apache-2.0
// Language-model example, mixers: rotary position encoding for softmax attention.
#ifndef KLA_EXAMPLES_LM_ROTARY_H_
#define KLA_EXAMPLES_LM_ROTARY_H_

#include <cmath>
#include <cstdint>

namespace lm {

// Turns each pair (x_j, x_{j + d/2}) of every head by sign · position · base^(−2j/d), in place;
// sign −1 undoes +1, which is also its gradient.  x [heads, d], d even.
// Su et al., RoFormer, 2021.
template <class T>
void RotateHeads(T* x, std::int64_t heads, std::int64_t head_dim, std::int64_t position,
                 double base, int sign) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t j = 0; j < half; ++j) {
    const double frequency =
        std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
    const double angle = static_cast<double>(position) * frequency;
    const T cosine = static_cast<T>(std::cos(angle));
    const T sine = static_cast<T>(sign * std::sin(angle));
    for (std::int64_t h = 0; h < heads; ++h) {
      T& first = x[h * head_dim + j];
      T& second = x[h * head_dim + j + half];
      const T turned = first * cosine - second * sine;
      second = first * sine + second * cosine;
      first = turned;
    }
  }
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_ROTARY_H_
