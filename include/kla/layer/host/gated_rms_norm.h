// SPDX-License-Identifier: Apache-2.0
// layer/host: the gated norm behind the recurrence (math/gated_norm.h), token by token.
#ifndef KLA_LAYER_HOST_GATED_RMS_NORM_H_
#define KLA_LAYER_HOST_GATED_RMS_NORM_H_

#include "kla/core/shape.h"
#include "kla/layer/host/buffer.h"
#include "kla/math/gated_norm.h"

namespace kla::internal {

template <class T>
struct GatedRmsNorm {
  Index heads;      // HV
  Index value_dim;  // V
  T epsilon;
  const T* weight;  // [V]

  // One token: o, u, z [HV, V]; r [HV] is kept for Backward.
  void Forward(const T* o, const T* u, T* z, T* r) const {
    const auto w = AsArray(weight, value_dim);
    for (Index h = 0; h < heads; ++h, o += value_dim, u += value_dim, z += value_dim) {
      const auto out = AsArray(o, value_dim);
      const auto gate = AsArray(u, value_dim);
      r[h] = InverseRms(T(out.square().sum() / T(static_cast<double>(value_dim))), epsilon);
      AsArray(z, value_dim) = out * r[h] * w * gate * SigmoidOf(gate);
    }
  }

  // One token: dz [HV, V] becomes do, du [HV, V] is written, dw [V] is added to.
  void Backward(const T* o, const T* u, const T* r, T* dz, T* du, T* dw) const {
    const auto w = AsArray(weight, value_dim);
    alignas(64) T h_storage[kMaxHeadDim], s_storage[kMaxHeadDim];
    auto h = AsArray(h_storage, value_dim), s = AsArray(s_storage, value_dim);
    for (Index head = 0; head < heads; ++head) {
      const Index at = head * value_dim;
      const auto gate = AsArray(u + at, value_dim);
      auto d = AsArray(dz + at, value_dim);
      h = AsArray(o + at, value_dim) * r[head];
      s = SigmoidOf(gate);
      AsArray(du + at, value_dim) = d * h * w * s * (T(1) + gate * (T(1) - s));
      s *= gate;  // SiLU(u)
      AsArray(dw, value_dim) += d * h * s;
      d *= w * s;  // dh
      const T along = (d * h).sum() / static_cast<T>(value_dim);
      d = r[head] * (d - along * h);
    }
  }
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_GATED_RMS_NORM_H_
