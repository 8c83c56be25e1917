// SPDX-License-Identifier: Apache-2.0
// layer: what a call was given, as far as its arrays depend on it, and what a workspace remembers.
#ifndef KLA_LAYER_CALL_H_
#define KLA_LAYER_CALL_H_

#include <utility>
#include <vector>

#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"
#include "kla/op/layer_sizes.h"

namespace kla::internal {

struct LayerCall {
  Index batch, tokens;  // of x [B, T, D]
  IndexList cu_seqlens = {};
  bool loads_state = false, stores_state = false;
  bool keeps = false;  // what Backward needs

  Index Rows() const { return batch * tokens; }
  Index Sequences() const { return SequenceCount(cu_seqlens, batch); }
};

// What a workspace remembers of a Forward that kept what Backward needs. Empty at first and when
// moved from.
template <class T>
class KeptForward {
 public:
  KeptForward() = default;
  KeptForward(const KeptForward&) = default;
  KeptForward(KeptForward&& other) noexcept { Swap(other); }
  KeptForward& operator=(KeptForward other) noexcept {
    Swap(other);
    return *this;
  }
  ~KeptForward() = default;

  void Reset() { kept_ = false; }
  void Set(const LayerSizes& sizes, const ModelView<const T>& x, const LayerCall& call) {
    offsets_.clear();
    for (Index n = 0; n < call.cu_seqlens.size(); ++n) offsets_.push_back(call.cu_seqlens[n]);
    sizes_ = sizes;
    x_ = x;
    call_ = call;
    call_.cu_seqlens = {};
    kept_ = true;
  }

  // The sizes of the layer, or null where nothing is kept.
  const LayerSizes* sizes() const { return kept_ ? &sizes_ : nullptr; }
  const ModelView<const T>& x() const { return x_; }  // the caller's
  // cu_seqlens are the workspace's.
  LayerCall call() const {
    LayerCall call = call_;
    if (!offsets_.empty()) call.cu_seqlens = offsets_;
    return call;
  }

 private:
  void Swap(KeptForward& other) noexcept {
    std::swap(kept_, other.kept_);
    std::swap(sizes_, other.sizes_);
    std::swap(x_, other.x_);
    std::swap(call_, other.call_);
    offsets_.swap(other.offsets_);
  }

  bool kept_ = false;
  LayerSizes sizes_{};
  ModelView<const T> x_;
  LayerCall call_{};
  std::vector<Index> offsets_;  // cu_seqlens; empty where sequences are not packed
};

}  // namespace kla::internal

#endif  // KLA_LAYER_CALL_H_
