// SPDX-License-Identifier: Apache-2.0
// layer/device: what sequences carry from call to call on a device, and the memory that Step works
// in.
#ifndef KLA_LAYER_DEVICE_STATE_H_
#define KLA_LAYER_DEVICE_STATE_H_

#include <cstdint>
#include <string>

#include "kla/backend/cuda/layer/step.h"
#include "kla/core/check.h"
#include "kla/layer/config.h"

namespace kla::internal::device {

// Memory that the products of Step may use on the way.
inline constexpr Index kStepProductBytes = Index{4} << 20;

// Elements from row to row of what the input projection makes: rows begin on 16 bytes.
inline Index ProjectedStride(const LayerSizes& sizes) {
  return (sizes.projected_width() + 7) / 8 * 8;
}

// What LayerState is on the host: a pool of slots, one sequence each, zero at first. It brings the
// memory in which Step works, for up to `tokens` tokens of each slot, so that Step allocates none.
template <class Platform, HeadShape Shape, class T, class State>
class DeviceLayerState : public PooledLayerState<Platform, Shape, T, State> {
 public:
  DeviceLayerState(const LayerSizes& sizes, Index slots, Index tokens)
      : PooledLayerState<Platform, Shape, T, State>(slots, sizes.key_heads, sizes.value_heads),
        sizes_(sizes),
        tokens_(CheckTokens(tokens)),
        z_(slots * tokens * ProjectedStride(sizes)),
        rows_(z_ + slots * tokens * sizes.value_width()),
        product_(kStepProductBytes) {}

  const LayerSizes& sizes() const { return sizes_; }
  Index tokens() const { return tokens_; }

  // For Step.
  T* projected() const { return rows_.data(); }  // [rows, ProjectedStride]
  T* z() const { return rows_.data() + z_; }     // [rows, HV V]
  const typename Platform::template Memory<unsigned char>& product_memory() const {
    return product_;
  }

 private:
  static Index CheckTokens(Index tokens) {
    KLA_CHECK(tokens >= 1, "KlaLayer::MakeState", "tokens", "at least 1", std::to_string(tokens));
    return tokens;
  }

  LayerSizes sizes_;
  Index tokens_;
  Index z_;
  typename Platform::template Memory<T> rows_;
  typename Platform::template Memory<unsigned char> product_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_STATE_H_
