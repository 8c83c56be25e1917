// SPDX-License-Identifier: Apache-2.0
// layer: the checks of its arguments. Each throws std::invalid_argument that names the operation,
// the argument, what was expected and what was given; nothing has been written by then.
#ifndef KLA_LAYER_CHECK_H_
#define KLA_LAYER_CHECK_H_

#include <string>

#include "kla/core/check.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/host/state.h"
#include "kla/layer/host/workspace.h"
#include "kla/layer/parameters.h"
#include "kla/op/argument_check.h"
#include "kla/op/memory_region.h"

namespace kla::internal {

template <class Backend, HeadShape Shape>
class LayerCheck {
 public:
  LayerCheck(const char* operation, const LayerSizes& sizes)
      : operation_(operation), sizes_(sizes) {}

  // [B, T, D] with any B and T, and not in the workspace that is about to be written.
  template <class T>
  void Input(const char* name, const ModelView<const T>& view,
             const LayerBuffers<T>& buffers) const {
    Input(name, view, buffers,
          {view.template extent<Batch>(), view.template extent<Time>(), sizes_.model_dim});
  }
  template <class T>
  void Input(const char* name, const ModelView<const T>& view, const LayerBuffers<T>& buffers,
             const typename ModelView<const T>::Sizes& expected) const {
    Array(name, view, expected);
    for (const Buffer<T>* buffer : {&buffers.y, &buffers.dx}) {
      const Index size = buffer->size_bytes() / static_cast<Index>(sizeof(T));
      const View<const T, Extent<Model>> memory(buffer->data(), {size});
      KLA_CHECK(!MayOverlap(RegionOf(view), RegionOf(memory)), operation_, name,
                "memory outside the workspace that is written", "a view into it");
    }
  }

  template <class T>
  void Output(const char* name, const ModelView<T>& view,
              const typename ModelView<T>::Sizes& expected) const {
    Array(name, view, expected);
    KLA_CHECK(RegionOf(view).empty || RegionOf(view).ElementsAreDistinct(), operation_, name,
              "an output whose elements do not overlap each other",
              "strides smaller than the axes inside them");
  }

  template <class T>
  void Offsets(const IndexList& cu_seqlens, const ModelView<const T>& x) const {
    ArgumentCheck<Backend, Shape>(operation_)
        .Offsets(cu_seqlens, x.template extent<Batch>(), x.template extent<Time>());
  }

  template <class T, class State>
  void ReadSlots(const char* name, const LayerState<Backend, Shape, T, State>& state,
                 const IndexList& slots, Index count) const {
    StateSizes(name, state.sizes());
    ArgumentCheck<Backend, Shape>(operation_).ReadSlots(slots, state.slots(), count);
  }

  template <class T, class State>
  void WrittenSlots(const char* name, LayerState<Backend, Shape, T, State>& state,
                    const IndexList& slots, Index count) const {
    StateSizes(name, state.sizes());
    state.recurrent().CheckSlots(operation_, slots, count);
  }

  template <class T>
  void Kept(const LayerBuffers<T>& buffers) const {
    const bool moved_from = buffers.y.size_bytes() == 0;
    KLA_CHECK(buffers.kept && !moved_from, operation_, "workspace",
              "one that a Forward filled with keep_for_backward", "one without");
    KLA_CHECK(*buffers.sizes == sizes_, operation_, "workspace",
              "one that a layer of these sizes filled, [D, H, HV, K, V] = " + Text(sizes_),
              Text(*buffers.sizes));
  }

  template <class T>
  void Gradients(const KlaParameters<T>& gradients, const KlaParameters<T>& parameters) const {
    KLA_CHECK(&gradients != &parameters, operation_, "gradients",
              "parameters of their own, as MakeGradients makes them", "those of the layer");
    KLA_CHECK(gradients.sizes() == sizes_, operation_, "gradients",
              "gradients of this layer, [D, H, HV, K, V] = " + Text(sizes_),
              Text(gradients.sizes()));
  }

 private:
  static std::string Text(const LayerSizes& sizes) {
    const Index values[] = {sizes.model_dim, sizes.key_heads, sizes.value_heads, sizes.key_dim,
                            sizes.value_dim};
    return ShapeString(values, 5);
  }

  void StateSizes(const char* name, const LayerSizes& given) const {
    KLA_CHECK(given == sizes_, operation_, name,
              "a state of this layer, [D, H, HV, K, V] = " + Text(sizes_), Text(given));
  }

  template <class V>
  void Array(const char* name, const V& view, const typename V::Sizes& expected) const {
    KLA_CHECK(view.extents() == expected, operation_, name,
              "[B, T, D] = " + ShapeString(expected.data(), expected.size()),
              view.is_null() ? "a null view" : view.ShapeText());
    const bool empty = expected[0] == 0 || expected[1] == 0;
    KLA_CHECK(empty || !view.is_null(), operation_, name, "data", "a null pointer");
  }

  const char* operation_;
  const LayerSizes& sizes_;
};

}  // namespace kla::internal

#endif  // KLA_LAYER_CHECK_H_
