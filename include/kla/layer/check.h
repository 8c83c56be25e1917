// SPDX-License-Identifier: Apache-2.0
// layer: the checks of its arguments, on every machine. Each throws std::invalid_argument that
// names the operation, the argument, what was expected and what was given; nothing has been written
// by then.
#ifndef KLA_LAYER_CHECK_H_
#define KLA_LAYER_CHECK_H_

#include <string>

#include "kla/core/check.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/op/argument_check.h"
#include "kla/op/layer_sizes.h"
#include "kla/op/memory_region.h"

namespace kla::internal {

template <class Backend, HeadShape Shape>
class LayerCheck {
 public:
  LayerCheck(const char* operation, const LayerSizes& sizes)
      : operation_(operation), sizes_(sizes) {}

  // [B, T, D] with any B and T, or with those expected.
  template <class T>
  void Rows(const char* name, const ModelView<T>& view) const {
    Rows(name, view,
         {view.template extent<Batch>(), view.template extent<Time>(), sizes_.model_dim});
  }
  template <class T>
  void Rows(const char* name, const ModelView<T>& view,
            const typename ModelView<T>::Sizes& expected) const {
    KLA_CHECK(view.extents() == expected, operation_, name,
              "[B, T, D] = " + ShapeString(expected.data(), expected.size()),
              view.is_null() ? "a null view" : view.ShapeText());
    const bool empty = expected[0] == 0 || expected[1] == 0;
    KLA_CHECK(empty || !view.is_null(), operation_, name, "data", "a null pointer");
  }

  // An input, against `size` elements of a workspace that are about to be written.
  template <class T>
  void Outside(const char* name, const ModelView<const T>& view, const T* written,
               Index size) const {
    const View<const T, Extent<Model>> memory(written, {size});
    KLA_CHECK(!MayOverlap(RegionOf(view), RegionOf(memory)), operation_, name,
              "memory outside the workspace that is written", "a view into it");
  }

  template <class T>
  void Output(const char* name, const ModelView<T>& view,
              const typename ModelView<T>::Sizes& expected) const {
    Rows(name, view, expected);
    KLA_CHECK(RegionOf(view).empty || RegionOf(view).ElementsAreDistinct(), operation_, name,
              "an output whose elements do not overlap each other",
              "strides smaller than the axes inside them");
  }

  template <class T>
  void Offsets(const IndexList& cu_seqlens, const ModelView<const T>& x) const {
    ArgumentCheck<Backend, Shape>(operation_)
        .Offsets(cu_seqlens, x.template extent<Batch>(), x.template extent<Time>());
  }

  // A LayerState and the slots of it that are read, or written.
  template <class State>
  void ReadSlots(const char* name, const State& state, const IndexList& slots, Index count) const {
    StateSizes(name, state.sizes());
    ArgumentCheck<Backend, Shape>(operation_).ReadSlots(slots, state.slots(), count);
  }
  template <class State>
  void WrittenSlots(const char* name, State& state, const IndexList& slots, Index count) const {
    StateSizes(name, state.sizes());
    ArgumentCheck<Backend, Shape>(operation_).HostList("slots", slots);
    state.recurrent().CheckSlots(operation_, slots, count);
  }

  // The sizes of the layer whose Forward filled a workspace; null: none did.
  void Kept(const LayerSizes* kept) const {
    KLA_CHECK(kept != nullptr, operation_, "workspace",
              "one that a Forward filled with keep_for_backward", "one without");
    KLA_CHECK(*kept == sizes_, operation_, "workspace",
              "one that a layer of these sizes filled, [D, H, HV, K, V] = " + Text(sizes_),
              Text(*kept));
  }

  template <class G, class P>
  void Gradients(const G& gradients, const P& parameters) const {
    KLA_CHECK(static_cast<const void*>(&gradients) != &parameters, operation_, "gradients",
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

  const char* operation_;
  const LayerSizes& sizes_;
};

}  // namespace kla::internal

#endif  // KLA_LAYER_CHECK_H_
