// SPDX-License-Identifier: Apache-2.0
// math: the short causal convolution in front of q, k and v, one filter w of four taps per channel,
// the last of which meets the current token. Host and device.
//
//   p_t = sum_{j<4} w_j x_{t-3+j},   y_t = SiLU(p_t) = p_t sigmoid(p_t)
//
// x_{-3}, x_{-2}, x_{-1}, the window of a sequence, are its last three inputs before this call, or
// zero where it begins. Backward, from dy:
//   dp = dy SiLU'(p)
//   dx_t = sum_j w_j dp_{t+3-j}     over the tokens of the sequence
//   dw_j = sum_t dp_t x_{t-3+j}
//
// The loops are in layer/host/short_conv.h, backend/cuda/layer/kernels.h and gradient_kernels.h,
// and, for one token, backend/cuda/layer/step_kernel.h.
#ifndef KLA_MATH_CONVOLUTION_H_
#define KLA_MATH_CONVOLUTION_H_

#include "kla/core/scalar.h"

namespace kla {

// Tokens that the short convolution sees: the current one and three before it.
inline constexpr Index kConvWidth = 4;

namespace internal {

// p_t from the taps w, the window x_{t-3}, x_{t-2}, x_{t-1} and x_t.
template <class T>
KLA_HOST_DEVICE KLA_ALWAYS_INLINE T Convolve(const T (&w)[kConvWidth],
                                             const T (&window)[kConvWidth - 1], const T& x) {
  static_assert(kConvWidth == 4, "kla: Convolve adds up four taps; extend it with kConvWidth");
  return w[0] * window[0] + w[1] * window[1] + w[2] * window[2] + w[3] * x;
}

}  // namespace internal
}  // namespace kla

#endif  // KLA_MATH_CONVOLUTION_H_
