// SPDX-License-Identifier: Apache-2.0
// layer/host: what Forward keeps for Backward, and room for what both compute on the way.
#ifndef KLA_LAYER_HOST_WORKSPACE_H_
#define KLA_LAYER_HOST_WORKSPACE_H_

#include <optional>
#include <vector>

#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/host/buffer.h"
#include "kla/layer/host/token_rows.h"

namespace kla {

namespace internal {

// rows = B T. Matrices are row-major and contiguous, `projected` and its gradient excepted, whose
// rows begin on a cache line.
template <class T>
struct LayerBuffers {
  std::optional<LayerSizes> sizes;  // of the layer that filled it
  bool keeps = false;               // Forward was asked to keep what Backward needs
  bool kept = false;                // and has done so: Backward may follow
  ModelView<const T> x;             // the caller's
  TokenRows tokens;
  Index chunk_length = 0;      // of the backend's kernels
  std::vector<Index> offsets;  // cu_seqlens, copied; empty where sequences are not packed
  bool has_state = false;      // the sequences began with initial_state and windows

  Index projected_stride = 0;
  Buffer<T> projected;              // [rows, projected_stride]: q, k, v, gate, a, b
  Buffer<T> mixed;                  // [rows, conv_channels]: q, k, v behind the convolution
  Buffer<T> g, eta;                 // [rows, HV]
  Buffer<T> o;                      // [rows, HV V], of the recurrence
  Buffer<T> inverse_rms;            // [rows, HV]
  Buffer<T> normed;                 // [rows, HV V], behind the gated norm
  Buffer<T> y;                      // [rows, D]
  Buffer<T> chunk_states;           // [NT, HV, K, V]
  Buffer<T> initial_state;          // [N, HV, K, V]
  Buffer<T> final_state;            // [N, HV, K, V]
  Buffer<T> windows;                // [N, 3, conv_channels]
  Buffer<T> taps;                   // [4, conv_channels]
  Buffer<T> decay_rate;             // [HV]
  Buffer<T> gathered;               // [active rows, D], of Step where it skips sequences
  std::vector<const T*> window_of;  // [N]
  std::vector<Index> slots;         // of the active sequences of Step

  Buffer<T> d_projected;  // [rows, projected_stride]
  Buffer<T> d_mixed;      // [rows, conv_channels]
  Buffer<T> dg, deta;     // [rows, HV]
  Buffer<T> d_normed;     // [rows, HV V], becomes d_o
  Buffer<T> dx;           // [rows, D]
  Buffer<T> d_small;      // [blocks, small parameters]: parts of their gradients
};

}  // namespace internal

// Owned by the caller, one for each Forward whose Backward is still to come. It grows at the first
// call and is reused without allocation as long as sizes do not grow. What Forward and Backward
// return lies in it.
template <class T>
class LayerWorkspace {
 public:
  Index size_bytes() const {
    const auto& b = buffers_;
    Index sum = 0;
    for (const internal::Buffer<T>* buffer :
         {&b.projected,   &b.mixed,   &b.g,    &b.eta,          &b.o,
          &b.inverse_rms, &b.normed,  &b.y,    &b.chunk_states, &b.initial_state,
          &b.final_state, &b.windows, &b.taps, &b.decay_rate,   &b.gathered,
          &b.d_projected, &b.d_mixed, &b.dg,   &b.deta,         &b.d_normed,
          &b.dx,          &b.d_small}) {
      sum += buffer->size_bytes();
    }
    return sum;
  }

 private:
  template <class, HeadShape, StepSizePolicy, class, class>
  friend class KlaLayer;

  internal::LayerBuffers<T> buffers_;
};

}  // namespace kla

#endif  // KLA_LAYER_HOST_WORKSPACE_H_
