// SPDX-License-Identifier: Apache-2.0
// math: the norm behind the recurrence, per token and value head, with the weight w [V] shared by
// heads and u the output gate. o, u, z [V]:
//
//   r = (mean(o^2) + eps)^(-1/2),     h = r o,     z = h w SiLU(u)
//
// Backward, from dz:
//   dw += dz h SiLU(u),   du = dz h w SiLU'(u),   dh = dz w SiLU(u),   do = r (dh - h mean(dh h))
//
// RMSNorm: Zhang, Sennrich, Root Mean Square Layer Normalization, 2019.
// Computed by layer/host/gated_rms_norm.h (CPU), backend/cuda/layer/kernels.h and
// gradient_kernels.h (prefill and training on a GPU) and backend/cuda/layer/step_kernel.h (a token
// on a GPU).
#ifndef KLA_MATH_GATED_NORM_H_
#define KLA_MATH_GATED_NORM_H_

#include <cmath>

#include "kla/core/scalar.h"

namespace kla::internal {

// r, from mean(o^2).
template <class R>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE R InverseRms(const R& mean_square, const R& epsilon) {
  using std::sqrt;
  return R(1) / sqrt(R(mean_square + epsilon));
}

}  // namespace kla::internal

#endif  // KLA_MATH_GATED_NORM_H_
