// SPDX-License-Identifier: Apache-2.0
// layer/host: the arrays between the passes, as the matrices and views that each of them takes.
#ifndef KLA_LAYER_HOST_ARRAYS_H_
#define KLA_LAYER_HOST_ARRAYS_H_

#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/host/dense.h"
#include "kla/layer/host/gated_rms_norm.h"
#include "kla/layer/host/short_conv.h"
#include "kla/layer/host/token_gates.h"
#include "kla/layer/host/workspace.h"
#include "kla/layer/panels.h"
#include "kla/layer/parameters.h"
#include "kla/op/problem.h"

namespace kla::internal {

template <class T>
class LayerArrays {
 public:
  using Parameters = KlaParameters<T>;

  LayerArrays(const KlaLayerConfig& config, const Parameters& parameters, LayerBuffers<T>& buffers)
      : config_(config), parameters_(parameters), sizes_(parameters.sizes()), b_(buffers) {}

  // [B, T, D] in the workspace.
  ModelView<T> ModelOutput(Buffer<T>& buffer) const {
    return ModelView<T>(buffer.Resize(b_.tokens.rows * sizes_.model_dim), b_.x.extents());
  }

  Index BatchSize() const { return b_.x.template extent<Batch>(); }
  Index TokenCount() const { return b_.x.template extent<Time>(); }
  Index WindowSize() const { return ShortConv<T>::kPast * sizes_.conv_channels(); }
  IndexList Offsets() const { return b_.offsets.empty() ? IndexList() : IndexList(b_.offsets); }
  Index ChunkStates() const {
    return ChunkCount(Offsets(), BatchSize(), TokenCount(), b_.chunk_length);
  }

  // What came before each sequence: its window where states were loaded, else the one zero window.
  void PointAtWindows() const {
    b_.window_of.clear();
    for (std::size_t n = 0; n < b_.tokens.sequences.size(); ++n) {
      const Index at = b_.has_state ? static_cast<Index>(n) * WindowSize() : 0;
      b_.window_of.push_back(b_.windows.data() + at);
    }
  }

  T* ProjectedRow(Index row) const { return b_.projected.data() + row * b_.projected_stride; }
  T* DProjectedRow(Index row) const { return b_.d_projected.data() + row * b_.projected_stride; }

  // The part of a block in the small gradients; from the tensor at `tensor` on.
  T* SmallPart(const Parameters& gradients, Index block) const {
    return b_.d_small.data() + block * gradients.small_size();
  }
  T* SmallPart(const Parameters& gradients, Index block, const T* tensor) const {
    return SmallPart(gradients, block) +
           (tensor - gradients.values().data() - gradients.small_begin());
  }

  MatrixRef<const T> InputWeight() const {
    return {parameters_.input_weight(), sizes_.projected_width(), sizes_.model_dim,
            sizes_.model_dim};
  }
  MatrixRef<const T> OutputWeight() const {
    return {parameters_.output_weight(), sizes_.model_dim, sizes_.value_width(),
            sizes_.value_width()};
  }
  template <class U>
  MatrixRef<U> ValueRows(U* data, Index row, Index rows) const {
    const Index width = sizes_.value_width();
    return {data + row * width, rows, width, width};
  }

  // Views for the operations. q, k and v share rows of conv_channels() columns.
  template <class U>
  KeyView<U> Keys(U* data) const {
    const Index row = sizes_.conv_channels();
    return KeyView<U>(data, {BatchSize(), TokenCount(), sizes_.key_heads, sizes_.key_dim},
                      {TokenCount() * row, row, sizes_.key_dim, 1});
  }
  template <class U>
  ValueView<U> MixedValues(U* data) const {
    const Index row = sizes_.conv_channels();
    return ValueView<U>(data + 2 * sizes_.key_width(),
                        {BatchSize(), TokenCount(), sizes_.value_heads, sizes_.value_dim},
                        {TokenCount() * row, row, sizes_.value_dim, 1});
  }
  template <class U>
  ValueView<U> Values(U* data) const {
    return ValueView<U>(data, {BatchSize(), TokenCount(), sizes_.value_heads, sizes_.value_dim});
  }
  template <class U>
  GateView<U> Gate(U* data) const {
    return GateView<U>(data, {BatchSize(), TokenCount(), sizes_.value_heads});
  }
  template <class U>
  StateView<U> States(U* data) const {
    return StateView<U>(data, {static_cast<Index>(b_.tokens.sequences.size()), sizes_.value_heads,
                               sizes_.key_dim, sizes_.value_dim});
  }
  ChunkStateView<T> ChunkStateArray() const {
    return ChunkStateView<T>(b_.chunk_states.data(),
                             {ChunkStates(), sizes_.value_heads, sizes_.key_dim, sizes_.value_dim});
  }

  ShortConv<T> Conv() const {
    return ShortConv<T>(b_.tokens, sizes_.conv_channels(), b_.projected.data(), b_.projected_stride,
                        b_.taps.data(), b_.window_of);
  }
  TokenGates<T> Gates() const {
    return {sizes_.value_heads, parameters_.a_log(), parameters_.dt_bias(), parameters_.step_bias(),
            b_.decay_rate.data()};
  }
  GatedRmsNorm<T> Norm() const {
    return {sizes_.value_heads, sizes_.value_dim, T(config_.norm_epsilon),
            parameters_.norm_weight()};
  }

 private:
  const KlaLayerConfig& config_;
  const Parameters& parameters_;
  const LayerSizes& sizes_;
  LayerBuffers<T>& b_;
};

// What the passes of Forward, Step and Backward see of a layer and its workspace.
template <class T>
class LayerPasses {
 public:
  using Parameters = KlaParameters<T>;

  LayerPasses(const KlaLayerConfig& config, const Parameters& parameters, LayerBuffers<T>& buffers)
      : config_(config),
        parameters_(parameters),
        sizes_(parameters.sizes()),
        b_(buffers),
        arrays_(config, parameters, buffers) {}

 protected:
  const KlaLayerConfig& config_;
  const Parameters& parameters_;
  const LayerSizes& sizes_;
  LayerBuffers<T>& b_;
  LayerArrays<T> arrays_;
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_ARRAYS_H_
