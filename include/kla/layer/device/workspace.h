// SPDX-License-Identifier: Apache-2.0
// layer/device: the memory in which Forward and Backward work on a device, and how their arrays lie
// in it.
#ifndef KLA_LAYER_DEVICE_WORKSPACE_H_
#define KLA_LAYER_DEVICE_WORKSPACE_H_

#include <algorithm>
#include <cstddef>

#include "kla/backend/cuda/chunk/plan.h"
#include "kla/backend/cuda/layer/gradient_kernels.h"
#include "kla/backend/cuda/layer/kernels.h"
#include "kla/core/concepts.h"
#include "kla/core/shape.h"
#include "kla/layer/arrays.h"
#include "kla/layer/call.h"
#include "kla/op/layer_sizes.h"

namespace kla::internal::device {

inline SmallGradients SmallOf(const LayerSizes& sizes) {
  return {sizes.conv_channels(), sizes.value_heads};
}

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
  KeptForward<T> kept_;
};

// A piece of memory that a product may use.
struct ProductMemory {
  static constexpr Index kBytes = Index{32} << 20;  // of Forward and Backward
  unsigned char* pointer = nullptr;
  Index bytes = 0;
  unsigned char* data() const { return pointer; }
  Index size() const { return bytes; }
};

// What the passes of a call share besides the arrays.
struct DeviceScratch {
  ProductMemory product;
  Index* offsets = nullptr;  // [N + 1] cu_seqlens; null where sequences are not packed
  unsigned char* chunk = nullptr;
  std::size_t chunk_bytes = 0;
};

// The arrays of a Forward and of its Backward in a workspace. The state that enters each chunk is
// not among them: ChunkBackward walks to it once more.
template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T>
struct DeviceArrays : LayerArrays<T> {
  DeviceArrays(const LayerViews& views, void* memory) {
    Carver carver(memory);
    const LayerSizes& s = views.sizes;
    const LayerCall& call = views.call;
    const Index rows = call.Rows(), count = call.Sequences();
    const Index states = count * s.state_size();
    this->y = carver.template Take<T>(rows * s.model_dim);
    this->projected = carver.template Take<T>(rows * views.projected_stride);
    this->mixed = carver.template Take<T>(rows * s.conv_channels());
    this->o = this->z = carver.template Take<T>(rows * s.value_width());
    this->g = carver.template Take<float>(rows * s.value_heads);
    this->eta = carver.template Take<float>(rows * s.value_heads);
    if (!call.cu_seqlens.is_null()) scratch.offsets = carver.template Take<Index>(count + 1);
    if (call.loads_state) {
      this->windows = carver.template Take<T>(count * kPast * s.conv_channels());
      this->initial_state = carver.template Take<float>(states);
    }
    if (call.stores_state) {
      const bool in_place = call.loads_state && !call.keeps;
      this->final_state = in_place ? this->initial_state : carver.template Take<float>(states);
    }
    scratch.product = {carver.template Take<unsigned char>(ProductMemory::kBytes),
                       ProductMemory::kBytes};
    if (call.keeps) TakeBackward(views, carver);
    // The chunk operations follow one another, so they share their memory.
    scratch.chunk_bytes =
        Platform::template ChunkForwardBytes<Shape, StepSize>(views.ForwardArgs(*this));
    if (call.keeps) {
      scratch.chunk_bytes = std::max(
          scratch.chunk_bytes,
          Platform::template ChunkBackwardBytes<Shape, StepSize>(views.BackwardArgs(*this)));
    }
    scratch.chunk = carver.template Take<unsigned char>(static_cast<Index>(scratch.chunk_bytes));
    bytes = carver.used();
  }

  DeviceScratch scratch;
  std::size_t bytes;

 private:
  void TakeBackward(const LayerViews& views, Carver& carver) {
    const LayerSizes& s = views.sizes;
    const Index rows = views.call.Rows(), parts = RowParts::Of(rows).Count();
    this->z = carver.template Take<T>(rows * s.value_width());
    this->dx = carver.template Take<T>(rows * s.model_dim);
    this->d_projected = carver.template Take<T>(rows * views.projected_stride);
    this->d_mixed = carver.template Take<T>(rows * s.conv_channels());
    this->d_z = carver.template Take<T>(rows * s.value_width());
    this->dg = carver.template Take<float>(rows * s.value_heads);
    this->deta = carver.template Take<float>(rows * s.value_heads);
    this->small_parts = carver.template Take<float>(parts * SmallOf(s).Stride());
    this->norm_parts = carver.template Take<float>(parts * s.value_width());
  }
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_WORKSPACE_H_
