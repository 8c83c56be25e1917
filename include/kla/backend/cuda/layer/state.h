// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: what sequences carry from token to token through a layer, over a platform
// (decode/state.h).
#ifndef KLA_BACKEND_CUDA_LAYER_STATE_H_
#define KLA_BACKEND_CUDA_LAYER_STATE_H_

#include <cstdint>
#include <string>

#include "kla/backend/cuda/decode/state.h"
#include "kla/backend/cuda/layer/step_kernel.h"
#include "kla/core/check.h"
#include "kla/core/shape.h"
#include "kla/op/layer_sizes.h"

namespace kla::internal::device {

// Memory that the products of a layer's Step may use on the way.
inline constexpr Index kStepProductBytes = Index{4} << 20;

// Elements from row to row of what the input projection makes: rows begin on 16 bytes.
inline Index ProjectedStride(const LayerSizes& sizes) {
  return (sizes.projected_width() + 7) / 8 * 8;
}

// The pool behind kla::LayerState: recurrent states, and the last three inputs of the convolution.
// Zero at first, the start of a sequence. Made by a layer, it brings the memory in which the
// layer's Step works, for up to `tokens` tokens of each slot, so that Step allocates none.
template <class Platform, HeadShape Shape, class T, class State>
class PooledLayerState {
  static_assert(Shape::kKeyDim != kDynamic && Shape::kValueDim != kDynamic,
                "kla: LayerStep is compiled for the dimensions of a head; use Dispatch "
                "(core/dispatch.h) where they are known at run time only");
  static_assert(kIsStored<T>, "kla: LayerStep takes float, bfloat16 and float16");

 public:
  using Recurrent = PooledState<Platform, Shape, State, 0>;
  using Executor = typename Platform::Executor;

  // For LayerStep.
  PooledLayerState(Index slots, Index key_heads, Index value_heads)
      : PooledLayerState({.model_dim = 0,
                          .key_heads = key_heads,
                          .value_heads = value_heads,
                          .key_dim = Shape::kKeyDim,
                          .value_dim = Shape::kValueDim},
                         slots) {}
  // With tokens > 0 also for Step of a layer of these sizes.
  PooledLayerState(const LayerSizes& sizes, Index slots, Index tokens = 0)
      : sizes_(Checked(sizes)),
        tokens_(tokens),
        recurrent_(slots, sizes.value_heads),
        windows_(slots * kWindowRows * sizes.conv_channels()),
        positions_(slots * sizes.value_heads),
        z_(slots * tokens * ProjectedStride(sizes)),
        rows_(z_ + slots * tokens * sizes.value_width()),
        product_(tokens > 0 ? kStepProductBytes : 0) {
    Reset();
  }

  const LayerSizes& sizes() const { return sizes_; }
  Index slots() const { return recurrent_.slots(); }
  Index tokens() const { return tokens_; }

  // The recurrent states: Load, Store, CheckSlots. Load starts no sequence: see LoadWindow.
  Recurrent& recurrent() { return recurrent_; }
  const Recurrent& recurrent() const { return recurrent_; }

  void Reset(const Executor& executor = {}) {
    recurrent_.Reset(executor);
    windows_.Zero(0, windows_.size(), Platform::Queue(executor));
    positions_.Zero(0, positions_.size(), Platform::Queue(executor));
  }
  void Reset(Index slot, const Executor& executor = {}) {
    recurrent_.Reset(slot, executor);
    const Index window = kWindowRows * sizes_.conv_channels();
    windows_.Zero(slot * window, window, Platform::Queue(executor));
    positions_.Zero(slot * sizes_.value_heads, sizes_.value_heads, Platform::Queue(executor));
  }

  // The window of a slot from and to host memory, [3, conv_channels], the oldest row first, as
  // KlaLayer's LayerState holds it. Both wait.
  void LoadWindow(Index slot, const T* rows, const Executor& executor = {}) {
    CheckSlot("LayerState::LoadWindow", slot);
    const Index channels = sizes_.conv_channels();
    Platform::CopyAndWait(rows, windows_.data() + (slot * kWindowRows + 1) * channels, 3 * channels,
                          executor);
    positions_.Zero(slot * sizes_.value_heads, sizes_.value_heads, Platform::Queue(executor));
  }
  void StoreWindow(Index slot, T* rows, const Executor& executor = {}) const {
    CheckSlot("LayerState::StoreWindow", slot);
    const Index channels = sizes_.conv_channels();
    std::int32_t position = 0;
    Platform::CopyAndWait(positions_.data() + slot * sizes_.value_heads, &position, 1, executor);
    for (int j = 0; j < 3; ++j) {
      const Index row = slot * kWindowRows + (position + 1 + j) % kWindowRows;
      Platform::CopyAndWait(windows_.data() + row * channels, rows + j * channels, channels,
                            executor);
    }
  }

  // Copies a slot, to fork a sequence at a shared prefix or to keep a checkpoint.
  void Copy(Index from, Index to, const Executor& executor = {}) {
    recurrent_.Copy(from, to, executor);
    const Index window = kWindowRows * sizes_.conv_channels(), heads = sizes_.value_heads;
    if (from == to) return;
    windows_.CopyWithin(from * window, to * window, window, Platform::Queue(executor));
    positions_.CopyWithin(from * heads, to * heads, heads, Platform::Queue(executor));
  }
  Index size_bytes() const {
    return recurrent_.size_bytes() + static_cast<Index>(windows_.Bytes() + positions_.Bytes());
  }

  // What kernels take.
  T* windows() const { return windows_.data(); }
  std::int32_t* positions() const { return positions_.data(); }

  // What the Step of a layer works in.
  T* projected() const { return rows_.data(); }  // [rows, ProjectedStride]
  T* z() const { return rows_.data() + z_; }     // [rows, HV V]
  const auto& product_memory() const { return product_; }

 private:
  template <class U>
  using Memory = typename Platform::template Memory<U>;

  static const LayerSizes& Checked(const LayerSizes& sizes) {
    KLA_CHECK(sizes.key_heads >= 1 && sizes.value_heads % sizes.key_heads == 0, "LayerState",
              "key_heads", "a divisor of value_heads = " + std::to_string(sizes.value_heads),
              std::to_string(sizes.key_heads));
    return sizes;
  }
  void CheckSlot(const char* operation, Index slot) const {
    KLA_CHECK(slot >= 0 && slot < slots(), operation, "slot",
              "a slot below " + std::to_string(slots()), std::to_string(slot));
  }

  LayerSizes sizes_;
  Index tokens_;
  Recurrent recurrent_;
  Memory<T> windows_;               // [slots, kWindowRows, conv_channels]: rings
  Memory<std::int32_t> positions_;  // [slots, HV]: where they are
  Index z_;
  Memory<T> rows_;
  Memory<unsigned char> product_;
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_STATE_H_
