// SPDX-License-Identifier: Apache-2.0
// layer: the arrays that flow between the passes, wherever they lie, the views of them, and the
// arguments of the operations that are made of these views.
#ifndef KLA_LAYER_ARRAYS_H_
#define KLA_LAYER_ARRAYS_H_

#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"
#include "kla/layer/call.h"
#include "kla/layer/config.h"
#include "kla/layer/panels.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_step.h"
#include "kla/op/layer_sizes.h"

namespace kla::internal {

// rows = B T. Matrices are row-major and contiguous, `projected` and its gradient excepted, whose
// rows are padded. What a call or a machine does without is null.
template <class T>
struct LayerArrays {
  using Wide = Accumulator<T>;

  T* projected = nullptr;         // [rows, LayerViews::projected_stride]: q, k, v, gate, a, b
  T* windows = nullptr;           // [N, 3, conv_channels]; null: all zero
  T* mixed = nullptr;             // [rows, conv_channels]: q, k, v behind the convolution
  Wide* g = nullptr;              // [rows, HV]
  Wide* eta = nullptr;            // [rows, HV]
  Wide* initial_state = nullptr;  // [N, HV, K, V]
  Wide* final_state = nullptr;    // likewise
  Wide* chunk_states = nullptr;   // [chunks, HV, K, V]; null: ChunkBackward walks to them
  Index chunks = 0;
  T* o = nullptr;               // [rows, HV V], of the recurrence
  Wide* inverse_rms = nullptr;  // [rows, HV]; null: Backward works it out once more
  T* z = nullptr;               // [rows, HV V], behind the gated norm; o where nothing is kept
  T* y = nullptr;               // [rows, D]

  T* d_z = nullptr;             // [rows, HV V], becomes d_o
  T* d_mixed = nullptr;         // [rows, conv_channels]
  Wide* dg = nullptr;           // [rows, HV]
  Wide* deta = nullptr;         // [rows, HV]
  T* d_projected = nullptr;     // like projected
  T* dx = nullptr;              // [rows, D]
  Wide* small_parts = nullptr;  // sums over parts of the rows, of the gradients of convolution and
                                // gates
  Wide* norm_parts = nullptr;   // and of the norm's weight
};

// How the arrays of a call lie.
struct LayerViews {
  const KlaLayerConfig& config;
  const LayerSizes& sizes;
  LayerCall call;
  Index projected_stride;  // elements from row to row of `projected`

  template <class U>
  ModelView<U> Model(U* data) const {
    return {data, {call.batch, call.tokens, sizes.model_dim}};
  }
  // q, k and v share rows of conv_channels() columns; `mixed` is the first of them.
  template <class U>
  KeyView<U> Queries(U* mixed) const {
    return Keys(mixed);
  }
  template <class U>
  KeyView<U> MixedKeys(U* mixed) const {
    return Keys(mixed + sizes.key_width());
  }
  template <class U>
  ValueView<U> MixedValues(U* mixed) const {
    const Index row = sizes.conv_channels();
    return {mixed + 2 * sizes.key_width(),
            {call.batch, call.tokens, sizes.value_heads, sizes.value_dim},
            {call.tokens * row, row, sizes.value_dim, 1}};
  }
  template <class U>
  ValueView<U> Values(U* data) const {
    return {data, {call.batch, call.tokens, sizes.value_heads, sizes.value_dim}};
  }
  template <class U>
  GateView<U> Gate(U* data) const {
    return {data, {call.batch, call.tokens, sizes.value_heads}};
  }
  template <class U>
  StateView<U> States(U* data) const {
    return {data, {call.Sequences(), sizes.value_heads, sizes.key_dim, sizes.value_dim}};
  }
  template <class U>
  ChunkStateView<U> ChunkStates(U* data, Index chunks) const {
    return {data, {chunks, sizes.value_heads, sizes.key_dim, sizes.value_dim}};
  }

  // As the matrices that products take.
  template <class U>
  MatrixRef<U> ProjectedRows(U* projected, Index row, Index rows) const {
    return {projected + row * projected_stride, rows, sizes.projected_width(), projected_stride};
  }
  template <class U>
  MatrixRef<U> ValueRows(U* data, Index row, Index rows) const {
    const Index width = sizes.value_width();
    return {data + row * width, rows, width, width};
  }
  template <class U>
  MatrixRef<U> InputWeight(U* weight) const {  // W_in
    return {weight, sizes.projected_width(), sizes.model_dim, sizes.model_dim};
  }
  template <class U>
  MatrixRef<U> OutputWeight(U* weight) const {  // W_o
    return {weight, sizes.model_dim, sizes.value_width(), sizes.value_width()};
  }

  // mixed, g, eta, initial_state -> o, final_state, chunk_states
  template <class T>
  ChunkForwardArgs<T, Accumulator<T>> ForwardArgs(const LayerArrays<T>& a) const {
    using Wide = Accumulator<T>;
    ChunkForwardArgs<T, Wide> args = {.q = Queries<const T>(a.mixed),
                                      .k = MixedKeys<const T>(a.mixed),
                                      .v = MixedValues<const T>(a.mixed),
                                      .g = Gate<const Wide>(a.g),
                                      .eta = Gate<const Wide>(a.eta),
                                      .o = Values<T>(a.o),
                                      .cu_seqlens = call.cu_seqlens,
                                      .scale = config.scale,
                                      .epsilon = config.epsilon,
                                      .grouping = config.grouping};
    if (call.loads_state) args.initial_state = States(a.initial_state);
    if (call.stores_state) args.final_state = States(a.final_state);
    if (a.chunk_states != nullptr) args.chunk_states = ChunkStates(a.chunk_states, a.chunks);
    return args;
  }
  // mixed, g, eta, d_z, initial_state, chunk_states -> d_mixed, dg, deta
  template <class T>
  ChunkBackwardArgs<T, Accumulator<T>> BackwardArgs(const LayerArrays<T>& a) const {
    using Wide = Accumulator<T>;
    ChunkBackwardArgs<T, Wide> args = {.q = Queries<const T>(a.mixed),
                                       .k = MixedKeys<const T>(a.mixed),
                                       .v = MixedValues<const T>(a.mixed),
                                       .g = Gate<const Wide>(a.g),
                                       .eta = Gate<const Wide>(a.eta),
                                       .d_o = Values<const T>(a.d_z),
                                       .dq = Queries<T>(a.d_mixed),
                                       .dk = MixedKeys<T>(a.d_mixed),
                                       .dv = MixedValues<T>(a.d_mixed),
                                       .dg = Gate<Wide>(a.dg),
                                       .deta = Gate<Wide>(a.deta),
                                       .cu_seqlens = call.cu_seqlens,
                                       .scale = config.scale,
                                       .epsilon = config.epsilon,
                                       .grouping = config.grouping};
    if (call.loads_state) args.initial_state = States(a.initial_state);
    if (a.chunk_states != nullptr) args.chunk_states = ChunkStates(a.chunk_states, a.chunks);
    return args;
  }
  // mixed, g, eta -> o, on the states of these slots
  template <class T>
  DecodeStepArgs<T> StepArgs(const T* mixed, const Accumulator<T>* g, const Accumulator<T>* eta,
                             T* o, const IndexList& slots) const {
    return {.q = Queries(mixed),
            .k = MixedKeys(mixed),
            .v = MixedValues(mixed),
            .g = Gate(g),
            .eta = Gate(eta),
            .o = Values(o),
            .slots = slots,
            .scale = config.scale,
            .epsilon = config.epsilon,
            .grouping = config.grouping};
  }

 private:
  template <class U>
  KeyView<U> Keys(U* data) const {
    const Index row = sizes.conv_channels();
    return {data,
            {call.batch, call.tokens, sizes.key_heads, sizes.key_dim},
            {call.tokens * row, row, sizes.key_dim, 1}};
  }
};

}  // namespace kla::internal

#endif  // KLA_LAYER_ARRAYS_H_
