// SPDX-License-Identifier: Apache-2.0
// layer/host: what a sequence carries from one call to the next.
#ifndef KLA_LAYER_HOST_STATE_H_
#define KLA_LAYER_HOST_STATE_H_

#include <algorithm>

#include "kla/layer/config.h"
#include "kla/layer/host/buffer.h"
#include "kla/layer/host/workspace.h"
#include "kla/math/convolution.h"
#include "kla/op/decode_state.h"
#include "kla/op/layer_step.h"

namespace kla {

// On backends whose arrays lie in host memory. Zero at first, which is the start of a sequence. Its
// size does not depend on how many tokens a sequence has seen.
template <class Backend, HeadShape Shape, class T, class State>
class LayerState {
 public:
  using Recurrent = DecodeState<Backend, Shape, State>;

  LayerState(const LayerSizes& sizes, Index slots)
      : sizes_(sizes), recurrent_(slots, sizes.value_heads, sizes.key_dim, sizes.value_dim) {
    windows_.Zero(slots * window_size());
  }

  const LayerSizes& sizes() const { return sizes_; }
  Index slots() const { return recurrent_.slots(); }
  Index size_bytes() const { return recurrent_.size_bytes() + windows_.size_bytes(); }

  // The recurrent states; their Load and Store convert from and to [N, HV, K, V].
  Recurrent& recurrent() { return recurrent_; }
  const Recurrent& recurrent() const { return recurrent_; }

  // The last three columns [ q | k | v ] in front of the convolution, oldest first:
  // [3, conv_channels].
  T* window(Index slot) { return windows_.data() + slot * window_size(); }
  const T* window(Index slot) const { return windows_.data() + slot * window_size(); }
  Index window_size() const { return (kConvWidth - 1) * sizes_.conv_channels(); }

  // Back to the start of a sequence, everywhere or in one slot.
  void Reset() {
    recurrent_.Reset();
    windows_.Zero(slots() * window_size());
  }
  void Reset(Index slot) {
    recurrent_.Reset(slot);
    std::fill_n(window(slot), window_size(), T(0));
  }

  // Copies a slot, to fork a sequence at a shared prefix or to keep a checkpoint.
  void Copy(Index from, Index to) {
    recurrent_.Copy(from, to);
    if (from != to) std::copy_n(window(from), window_size(), window(to));
  }

 private:
  template <class, HeadShape, StepSizePolicy, class, class>
  friend class KlaLayer;

  LayerSizes sizes_;
  Recurrent recurrent_;
  internal::Buffer<T> windows_;  // [slots, 3, conv_channels]
  LayerWorkspace<T> scratch_;    // of Step
};

}  // namespace kla

#endif  // KLA_LAYER_HOST_STATE_H_
