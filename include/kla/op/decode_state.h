// SPDX-License-Identifier: Apache-2.0
// op: the pool of recurrent states that decoding reads and writes.
#ifndef KLA_OP_DECODE_STATE_H_
#define KLA_OP_DECODE_STATE_H_

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kla/core/aligned_allocator.h"
#include "kla/core/backend.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/op/pool_sizes.h"

namespace kla {

// How a backend keeps the state of one head in a DecodeState: Size elements of storage, all zero
// for the zero state. This default is row-major [K, V]; a backend specialises it. Outside, element
// (i, j) lies at [i * key_stride + j * value_stride].
template <class Backend, class Shape, class State>
struct StatePacking {
  static Index Size(Index key_dim, Index value_dim) { return key_dim * value_dim; }

  template <class U>
  static void Load(const U* given, Index key_stride, Index value_stride, Index key_dim,
                   Index value_dim, State* packed) {
    for (Index i = 0; i < key_dim; ++i) {
      for (Index j = 0; j < value_dim; ++j) {
        packed[i * value_dim + j] =
            internal::ConvertElement<State>(given[i * key_stride + j * value_stride]);
      }
    }
  }

  template <class U>
  static void Store(const State* packed, Index key_dim, Index value_dim, U* given, Index key_stride,
                    Index value_stride) {
    for (Index i = 0; i < key_dim; ++i) {
      for (Index j = 0; j < value_dim; ++j) {
        given[i * key_stride + j * value_stride] =
            internal::ConvertElement<U>(packed[i * value_dim + j]);
      }
    }
  }
};

// Slots x value heads of states [K, V], zero at first, held in the layout that the backend likes
// best: only Load and Store say what is inside. One sequence occupies one slot.
//   DecodeState<Simd, Shape<96, 192>> state(/*slots=*/64, /*value_heads=*/12);
// State is the storage type: float, bfloat16, float16, double or the scalar of a Reference run.
// Errors throw std::invalid_argument and change nothing. A pool serves one call at a time, even
// where calls name different slots; its executor spreads a call over threads.
template <class Backend, HeadShape Shape, class State = float>
class DecodeState : private internal::PoolSizes<Shape, Backend> {
  using Sizes = internal::PoolSizes<Shape, Backend>;

  static_assert(!std::is_same_v<Backend, Cuda>,
                "kla: for DecodeState<Cuda> include kla/cuda.cuh, in a source that nvcc compiles");

 public:
  using Packing = StatePacking<Backend, Shape, State>;

  DecodeState(Index slots, Index value_heads) requires(Shape::kKeyDim != kDynamic &&
                                                       Shape::kValueDim != kDynamic)
      : DecodeState(slots, value_heads, Shape::kKeyDim, Shape::kValueDim) {}

  DecodeState(Index slots, Index value_heads, Index key_dim, Index value_dim)
      : Sizes(slots, value_heads, key_dim, value_dim) {
    head_size_ = Packing::Size(key_dim, value_dim);
    data_.resize(static_cast<std::size_t>(slots * value_heads * head_size_), State(0));
  }

  Index slots() const { return Sizes::slots(); }
  Index value_heads() const { return Sizes::value_heads(); }
  Index key_dim() const { return Sizes::key_dim(); }
  Index value_dim() const { return Sizes::value_dim(); }
  Index size_bytes() const { return static_cast<Index>(data_.size() * sizeof(State)); }

  // The packed state of one head, for kernels.
  State* Head(Index slot, Index head) {
    return data_.data() + (slot * this->value_heads() + head) * head_size_;
  }
  const State* Head(Index slot, Index head) const {
    return data_.data() + (slot * this->value_heads() + head) * head_size_;
  }

  // All states become zero; or those of one slot.
  void Reset() { std::fill(data_.begin(), data_.end(), State(0)); }
  void Reset(Index slot) {
    Sizes::CheckSlot("Reset", "slot", slot);
    std::fill_n(Head(slot, 0), this->value_heads() * head_size_, State(0));
  }

  // Copies a slot, to fork a sequence at a shared prefix or to keep a checkpoint.
  void Copy(Index from, Index to) {
    Sizes::CheckSlot("Copy", "from", from);
    Sizes::CheckSlot("Copy", "to", to);
    if (from != to) std::copy_n(Head(from, 0), this->value_heads() * head_size_, Head(to, 0));
  }

  // From [N, HV, K, V] or [N, HV, V, K] into slots[n], or into slot n if slots is left out. A slot
  // of -1 is skipped; no other one may come twice. Values are converted to State with rounding
  // to nearest.
  template <class U>
  void Load(const StateRef<U>& states, const IndexList& slots = {}) {
    Sizes::CheckTransfer("Load", states, slots);
    ForEachHead(states, slots, [&](Index slot, Index head, const U* given) {
      Packing::Load(given, states.key_stride, states.value_stride, this->key_dim(),
                    this->value_dim(), Head(slot, head));
    });
  }
  template <class U, class... Extents>
  void Load(const View<U, Extents...>& states, const IndexList& slots = {}) {
    Load(StateRef<const U>(states), slots);
  }
  void Load(const StateRef<const State>& states, const IndexList& slots = {}) {
    Load<const State>(states, slots);
  }

  // The reverse: slots[n] into sequence n of [N, HV, K, V] or [N, HV, V, K]; several sequences may
  // name one slot. Sequences whose slot is -1 are left as they are.
  template <class U>
  void Store(const StateRef<U>& states, const IndexList& slots = {}) const {
    Sizes::CheckTransfer("Store", states, slots);
    ForEachHead(states, slots, [&](Index slot, Index head, U* given) {
      Packing::Store(Head(slot, head), this->key_dim(), this->value_dim(), given, states.key_stride,
                     states.value_stride);
    });
  }
  template <class U, class... Extents>
  void Store(const View<U, Extents...>& states, const IndexList& slots = {}) const {
    Store(StateRef<U>(states), slots);
  }
  void Store(const StateRef<State>& states, const IndexList& slots = {}) const {
    Store<State>(states, slots);
  }

  // See PoolSizes; lists in device memory are no use here.
  void CheckSlots(const char* operation, const IndexList& slots, Index count) {
    Sizes::CheckHostList(operation, slots);
    Sizes::CheckSlots(operation, slots, count);
  }

 private:
  template <class U, class F>
  void ForEachHead(const StateRef<U>& states, const IndexList& slots, const F& visit) const {
    for (Index n = 0; n < states.sequences; ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot == -1) continue;
      for (Index h = 0; h < this->value_heads(); ++h) visit(slot, h, states.Head(n, h));
    }
  }

  Index head_size_ = 0;
  std::vector<State, internal::CacheAlignedAllocator<State, Backend>> data_;
};

}  // namespace kla

#endif  // KLA_OP_DECODE_STATE_H_
