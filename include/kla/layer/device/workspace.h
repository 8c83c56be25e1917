// SPDX-License-Identifier: Apache-2.0
// layer/device: the memory in which Forward and Backward work on a device, and how their arrays lie
// in it.
#ifndef KLA_LAYER_DEVICE_WORKSPACE_H_
#define KLA_LAYER_DEVICE_WORKSPACE_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "kla/backend/cuda/chunk/plan.h"
#include "kla/backend/cuda/layer/gradient_kernels.h"
#include "kla/backend/cuda/layer/kernels.h"
#include "kla/backend/cuda/layer/state.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"

namespace kla::internal::device {

// A Forward, as far as its arrays depend on it.
struct LayerCall {
  Index batch, tokens;
  IndexList cu_seqlens;
  bool loads_state, stores_state;
  bool keeps;  // what Backward needs

  Index Rows() const { return batch * tokens; }
  Index Sequences() const { return SequenceCount(cu_seqlens, batch); }
};

// What a workspace remembers on the host of a Forward that kept what Backward needs.
template <class T>
struct KeptForward {
  KeptForward(const LayerSizes& layer_sizes, const ModelView<const T>& input, const LayerCall& of)
      : sizes(layer_sizes), x(input), call(of) {
    for (Index n = 0; n < of.cu_seqlens.size(); ++n) offsets.push_back(of.cu_seqlens[n]);
    if (!of.cu_seqlens.is_null()) call.cu_seqlens = offsets;
  }
  KeptForward(const KeptForward&) = delete;  // call refers to offsets
  KeptForward& operator=(const KeptForward&) = delete;

  LayerSizes sizes;
  ModelView<const T> x;  // the caller's
  std::vector<Index> offsets;
  LayerCall call;
};

// Device memory for Forward and Backward: its own, or the caller's. It does not grow.
template <class Platform, class T>
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
  template <class, HeadShape, StepSizePolicy, class, class>
  friend class DeviceLayer;

  typename Platform::template Memory<unsigned char> owned_;
  void* given_ = nullptr;
  std::size_t given_bytes_ = 0;
  std::unique_ptr<const KeptForward<T>> kept_;  // null: no Backward may follow
};

// A piece of memory that a product may use.
struct ProductMemory {
  static constexpr Index kBytes = Index{32} << 20;
  unsigned char* pointer;
  unsigned char* data() const { return pointer; }
  Index size() const { return kBytes; }
};

// The arrays of a Forward and of its Backward, rows = B T. The state that enters each chunk is not
// among them: ChunkBackward walks to it once more.
template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T>
class DeviceArrays {
 public:
  DeviceArrays(const KlaLayerConfig& layer_config, const LayerSizes& layer_sizes,
               const LayerCall& of, void* memory)
      : call(of), sizes(layer_sizes), config(layer_config) {
    Carver carver(memory);
    const Index rows = call.Rows(), count = call.Sequences();
    const Index states = count * sizes.state_size();
    y = carver.template Take<T>(rows * sizes.model_dim);
    projected = carver.template Take<T>(rows * ProjectedStride(sizes));
    mixed = carver.template Take<T>(rows * sizes.conv_channels());
    o = carver.template Take<T>(rows * sizes.value_width());
    g = carver.template Take<float>(rows * sizes.value_heads);
    eta = carver.template Take<float>(rows * sizes.value_heads);
    if (!call.cu_seqlens.is_null()) offsets = carver.template Take<Index>(count + 1);
    if (call.loads_state) {
      windows = carver.template Take<T>(count * kPast * sizes.conv_channels());
      initial_state = carver.template Take<float>(states);
    }
    if (call.stores_state) {
      const bool in_place = call.loads_state && !call.keeps;
      final_state = in_place ? initial_state : carver.template Take<float>(states);
    }
    product.pointer = carver.template Take<unsigned char>(ProductMemory::kBytes);
    z = o;
    if (call.keeps) TakeBackward(carver);
    // The chunk operations follow one another, so they share their memory.
    chunk_bytes = Platform::template ChunkForwardBytes<Shape, StepSize>(ForwardArgs());
    if (call.keeps) {
      chunk_bytes = std::max(
          chunk_bytes, Platform::template ChunkBackwardBytes<Shape, StepSize>(BackwardArgs()));
    }
    chunk = carver.template Take<unsigned char>(static_cast<Index>(chunk_bytes));
    bytes = carver.used();
  }

  ChunkForwardArgs<T, float> ForwardArgs() const {
    ChunkForwardArgs<T, float> args = {.q = Keys<const T>(mixed),
                                       .k = Keys<const T>(mixed + sizes.key_width()),
                                       .v = MixedValues<const T>(mixed),
                                       .g = Gate<const float>(g),
                                       .eta = Gate<const float>(eta),
                                       .o = Values<T>(o),
                                       .cu_seqlens = call.cu_seqlens,
                                       .scale = config.scale,
                                       .epsilon = config.epsilon,
                                       .grouping = config.grouping};
    if (call.loads_state) args.initial_state = States(initial_state);
    if (call.stores_state) args.final_state = States(final_state);
    return args;
  }
  ChunkBackwardArgs<T, float> BackwardArgs() const {
    ChunkBackwardArgs<T, float> args = {.q = Keys<const T>(mixed),
                                        .k = Keys<const T>(mixed + sizes.key_width()),
                                        .v = MixedValues<const T>(mixed),
                                        .g = Gate<const float>(g),
                                        .eta = Gate<const float>(eta),
                                        .d_o = Values<const T>(d_z),
                                        .dq = Keys<T>(d_mixed),
                                        .dk = Keys<T>(d_mixed + sizes.key_width()),
                                        .dv = MixedValues<T>(d_mixed),
                                        .dg = Gate<float>(dg),
                                        .deta = Gate<float>(deta),
                                        .cu_seqlens = call.cu_seqlens,
                                        .scale = config.scale,
                                        .epsilon = config.epsilon,
                                        .grouping = config.grouping};
    if (call.loads_state) args.initial_state = States(initial_state);
    return args;
  }
  StateView<float> States(float* data) const {
    return {data, {call.Sequences(), sizes.value_heads, sizes.key_dim, sizes.value_dim}};
  }
  ModelView<T> Model(T* data) const { return {data, {call.batch, call.tokens, sizes.model_dim}}; }
  SequenceRows Sequences() const { return {offsets, call.tokens, call.Sequences()}; }
  RowParts Parts() const { return RowParts::Of(call.Rows()); }
  SmallGradients Small() const { return {sizes.conv_channels(), sizes.value_heads}; }

  const LayerCall call;
  const LayerSizes& sizes;
  const KlaLayerConfig& config;

  T* y;                            // [rows, D]
  T* projected;                    // [rows, ProjectedStride]: q, k, v, gate, a, b
  T* mixed;                        // [rows, conv_channels]: q, k, v behind the convolution
  T* o;                            // [rows, HV V], of the recurrence
  T* z;                            // [rows, HV V], behind the gated norm; o where nothing is kept
  float *g, *eta;                  // [rows, HV]
  Index* offsets = nullptr;        // [N + 1]
  T* windows = nullptr;            // [N, 3, conv_channels]
  float* initial_state = nullptr;  // [N, HV, K, V]
  float* final_state = nullptr;    // likewise
  ProductMemory product;
  unsigned char* chunk;
  std::size_t chunk_bytes, bytes;

  T* dx = nullptr;                       // [rows, D]
  T* d_projected = nullptr;              // [rows, ProjectedStride]
  T* d_mixed = nullptr;                  // [rows, conv_channels]
  T* d_z = nullptr;                      // [rows, HV V], becomes d_o
  float *dg = nullptr, *deta = nullptr;  // [rows, HV]
  float* small_sums = nullptr;           // [parts, SmallGradients]
  float* norm_sums = nullptr;            // [parts, HV, V]

 private:
  void TakeBackward(Carver& carver) {
    const Index rows = call.Rows();
    z = carver.template Take<T>(rows * sizes.value_width());
    dx = carver.template Take<T>(rows * sizes.model_dim);
    d_projected = carver.template Take<T>(rows * ProjectedStride(sizes));
    d_mixed = carver.template Take<T>(rows * sizes.conv_channels());
    d_z = carver.template Take<T>(rows * sizes.value_width());
    dg = carver.template Take<float>(rows * sizes.value_heads);
    deta = carver.template Take<float>(rows * sizes.value_heads);
    small_sums = carver.template Take<float>(Parts().Count() * Small().Stride());
    norm_sums = carver.template Take<float>(Parts().Count() * sizes.value_width());
  }

  // q, k and v share rows of conv_channels() columns.
  template <class U>
  KeyView<U> Keys(U* data) const {
    const Index row = sizes.conv_channels();
    return {data,
            {call.batch, call.tokens, sizes.key_heads, sizes.key_dim},
            {call.tokens * row, row, sizes.key_dim, 1}};
  }
  template <class U>
  ValueView<U> MixedValues(U* data) const {
    const Index row = sizes.conv_channels();
    return {data + 2 * sizes.key_width(),
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
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_WORKSPACE_H_
