// SPDX-License-Identifier: Apache-2.0
// layer/host: what Forward keeps for Backward, and room for what both compute on the way.
#ifndef KLA_LAYER_HOST_WORKSPACE_H_
#define KLA_LAYER_HOST_WORKSPACE_H_

#include <vector>

#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/call.h"
#include "kla/layer/host/buffer.h"
#include "kla/layer/host/passes.h"
#include "kla/math/convolution.h"

namespace kla {

namespace internal {

// The memory of LayerArrays, and what lives with it.
template <class T>
struct LayerBuffers {
  KeptForward<T> kept;
  HostScratch<T> scratch;

  // Of Forward and Step.
  Buffer<T> projected, mixed, g, eta, o, inverse_rms, normed, y, chunk_states, initial_state,
      final_state, windows;
  // Of Backward.
  Buffer<T> d_projected, d_mixed, dg, deta, d_normed, dx, small_parts, norm_parts;
  // Of Step where it skips sequences: the rows of the others, [rows, D], and their slots.
  Buffer<T> gathered;
  std::vector<Index> slots;

  // Makes room for a Forward or Step; `chunks` is the number of chunk states that it keeps. What it
  // kept stays where it is as long as the call is the same.
  LayerArrays<T> Forward(const LayerViews& views, Index chunks) {
    const LayerSizes& s = views.sizes;
    const LayerCall& call = views.call;
    const Index rows = call.Rows(), states = call.Sequences() * s.state_size();
    LayerArrays<T> a;
    a.projected = projected.Resize(rows * views.projected_stride);
    a.mixed = mixed.Resize(rows * s.conv_channels());
    a.g = g.Resize(rows * s.value_heads);
    a.eta = eta.Resize(rows * s.value_heads);
    a.o = a.z = o.Resize(rows * s.value_width());
    a.inverse_rms = inverse_rms.Resize(rows * s.value_heads);
    if (call.loads_state) {
      a.initial_state = initial_state.Resize(states);
      a.windows = windows.Resize(call.Sequences() * (kConvWidth - 1) * s.conv_channels());
    }
    if (call.stores_state) a.final_state = final_state.Resize(states);
    if (call.keeps) {
      a.z = normed.Resize(rows * s.value_width());
      a.chunk_states = chunk_states.Resize(chunks * s.state_size());
      a.chunks = chunks;
    }
    a.y = y.Resize(rows * s.model_dim);
    return a;
  }

  // And for the Backward of a Forward, of so many blocks of rows.
  LayerArrays<T> Backward(const LayerViews& views, Index chunks, Index blocks, Index small_size) {
    const LayerSizes& s = views.sizes;
    const Index rows = views.call.Rows();
    LayerArrays<T> a = Forward(views, chunks);
    a.d_z = d_normed.Resize(rows * s.value_width());
    a.d_mixed = d_mixed.Resize(rows * s.conv_channels());
    a.dg = dg.Resize(rows * s.value_heads);
    a.deta = deta.Resize(rows * s.value_heads);
    a.d_projected = d_projected.Resize(rows * views.projected_stride);
    a.dx = dx.Resize(rows * s.model_dim);
    a.small_parts = small_parts.Resize(blocks * small_size);
    a.norm_parts = norm_parts.Resize(blocks * s.value_dim);
    return a;
  }
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
    for (const internal::Buffer<T>* buffer : {&b.projected,
                                              &b.mixed,
                                              &b.g,
                                              &b.eta,
                                              &b.o,
                                              &b.inverse_rms,
                                              &b.normed,
                                              &b.y,
                                              &b.chunk_states,
                                              &b.initial_state,
                                              &b.final_state,
                                              &b.windows,
                                              &b.d_projected,
                                              &b.d_mixed,
                                              &b.dg,
                                              &b.deta,
                                              &b.d_normed,
                                              &b.dx,
                                              &b.small_parts,
                                              &b.norm_parts,
                                              &b.gathered,
                                              &b.scratch.taps,
                                              &b.scratch.decay_rate,
                                              &b.scratch.zero_window}) {
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
