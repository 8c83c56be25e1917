// SPDX-License-Identifier: Apache-2.0
// layer: what sequences carry from call to call on a device, and the memory that calls work in.
#ifndef KLA_LAYER_DEVICE_STATE_H_
#define KLA_LAYER_DEVICE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "kla/backend/cuda/layer_step.h"
#include "kla/core/check.h"
#include "kla/layer/config.h"

namespace kla::device {

// Memory that products may use on the way, of Step and of Forward.
inline constexpr Index kStepProductBytes = Index{4} << 20;
inline constexpr Index kForwardProductBytes = Index{32} << 20;

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

  // Elements from row to row of `projected`: rows begin on 16 bytes.
  static Index ProjectedStride(const LayerSizes& sizes) {
    return (sizes.projected_width() + 7) / 8 * 8;
  }

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

// Device memory for Forward: its own, or the caller's. It does not grow.
template <class Platform>
class DeviceWorkspace {
 public:
  explicit DeviceWorkspace(std::size_t bytes) : owned_(static_cast<Index>(bytes)) {}
  // Memory of the caller's, aligned to 256 bytes.
  DeviceWorkspace(void* data, std::size_t bytes) : given_(data), given_bytes_(bytes) {}
  // Moved from, it is empty or still the caller's.
  DeviceWorkspace(DeviceWorkspace&&) = default;
  DeviceWorkspace& operator=(DeviceWorkspace&&) = default;

  void* data() const { return given_ != nullptr ? given_ : owned_.data(); }
  std::size_t bytes() const { return given_ != nullptr ? given_bytes_ : owned_.Bytes(); }

 private:
  typename Platform::template Memory<unsigned char> owned_;
  void* given_ = nullptr;
  std::size_t given_bytes_ = 0;
};

}  // namespace kla::device

#endif  // KLA_LAYER_DEVICE_STATE_H_
