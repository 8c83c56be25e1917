// SPDX-License-Identifier: Apache-2.0
// op: the pool of recurrent states that decoding reads and writes.
#ifndef KLA_OP_DECODE_STATE_H_
#define KLA_OP_DECODE_STATE_H_

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "kla/core/check.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"

namespace kla {

namespace internal {

// Between storage types, rounded to nearest; from double to 16 bits by way of float.
template <class To, class From>
To ConvertElement(const From& value) {
  return static_cast<To>(static_cast<Accumulator<To>>(static_cast<Accumulator<From>>(value)));
}

}  // namespace internal

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

namespace internal {

// Cache-line aligned, so that every head of a pool whose packed size is a multiple of 64 bytes is.
// Owner keeps the code of two backends' containers apart, as KLA_ALWAYS_INLINE explains.
template <class T, class Owner = void>
struct CacheAlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  CacheAlignedAllocator() = default;
  template <class U>
  CacheAlignedAllocator(const CacheAlignedAllocator<U, Owner>&) {}  // NOLINT
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const CacheAlignedAllocator&) const { return true; }
};

}  // namespace internal

// Slots x value heads of states [K, V], zero at first, held in the layout that the backend likes
// best: only Load and Store say what is inside. One sequence occupies one slot.
//   DecodeState<Simd, Shape<96, 192>> state(/*slots=*/64, /*value_heads=*/12);
// State is the storage type: float, bfloat16, float16, double or the scalar of a Reference run.
template <class Backend, HeadShape Shape, class State = float>
class DecodeState {
 public:
  using Packing = StatePacking<Backend, Shape, State>;

  DecodeState(Index slots, Index value_heads) requires(Shape::kKeyDim != kDynamic &&
                                                       Shape::kValueDim != kDynamic)
      : DecodeState(slots, value_heads, Shape::kKeyDim, Shape::kValueDim) {}

  DecodeState(Index slots, Index value_heads, Index key_dim, Index value_dim)
      : slots_(slots), value_heads_(value_heads), key_dim_(key_dim), value_dim_(value_dim) {
    KLA_CHECK(slots >= 0, "DecodeState", "slots", "a count >= 0", std::to_string(slots));
    KLA_CHECK(value_heads >= 1, "DecodeState", "value_heads", "at least one head",
              std::to_string(value_heads));
    CheckDim("key_dim", key_dim, Shape::kKeyDim);
    CheckDim("value_dim", value_dim, Shape::kValueDim);
    head_size_ = Packing::Size(key_dim, value_dim);
    data_.resize(static_cast<std::size_t>(slots * value_heads * head_size_), State(0));
    last_use_.resize(static_cast<std::size_t>(slots), 0);
  }

  Index slots() const { return slots_; }
  Index value_heads() const { return value_heads_; }
  Index key_dim() const { return key_dim_; }
  Index value_dim() const { return value_dim_; }
  Index size_bytes() const { return static_cast<Index>(data_.size() * sizeof(State)); }

  // The packed state of one head, for kernels.
  State* Head(Index slot, Index head) {
    return data_.data() + (slot * value_heads_ + head) * head_size_;
  }
  const State* Head(Index slot, Index head) const {
    return data_.data() + (slot * value_heads_ + head) * head_size_;
  }

  // All states become zero; or those of one slot.
  void Reset() { std::fill(data_.begin(), data_.end(), State(0)); }
  void Reset(Index slot) {
    CheckSlot("Reset", "slot", slot);
    std::fill_n(Head(slot, 0), value_heads_ * head_size_, State(0));
  }

  // Copies a slot, to fork a sequence at a shared prefix or to keep a checkpoint.
  void Copy(Index from, Index to) {
    CheckSlot("Copy", "from", from);
    CheckSlot("Copy", "to", to);
    if (from != to) std::copy_n(Head(from, 0), value_heads_ * head_size_, Head(to, 0));
  }

  // From [N, HV, K, V] or [N, HV, V, K] into slots[n], or into slot n if slots is left out. A slot
  // of -1 is skipped. Values are converted to State with rounding to nearest.
  template <class U>
  void Load(const StateRef<U>& states, const IndexList& slots = {}) {
    CheckTransfer("Load", states, slots);
    ForEachHead(states, slots, [&](Index slot, Index head, const U* given) {
      Packing::Load(given, states.key_stride, states.value_stride, key_dim_, value_dim_,
                    Head(slot, head));
    });
  }
  template <class U, class... Extents>
  void Load(const View<U, Extents...>& states, const IndexList& slots = {}) {
    Load(StateRef<const U>(states), slots);
  }

  // The reverse: slots[n] into sequence n of [N, HV, K, V] or [N, HV, V, K]. Sequences whose slot
  // is -1 are left as they are.
  template <class U>
  void Store(const StateRef<U>& states, const IndexList& slots = {}) const {
    CheckTransfer("Store", states, slots);
    ForEachHead(states, slots, [&](Index slot, Index head, U* given) {
      Packing::Store(Head(slot, head), key_dim_, value_dim_, given, states.key_stride,
                     states.value_stride);
    });
  }
  template <class U, class... Extents>
  void Store(const View<U, Extents...>& states, const IndexList& slots = {}) const {
    Store(StateRef<U>(states), slots);
  }

  // Slots of one call: in range or -1, no slot twice, `count` of them. Left out: slots 0 ... count
  // - 1.
  void CheckSlots(const char* operation, const IndexList& slots, Index count) {
    if (slots.is_null()) {
      KLA_CHECK(count <= slots_, operation, "slots",
                "at most " + std::to_string(slots_) + " sequences where slots are left out",
                std::to_string(count));
      return;
    }
    KLA_CHECK(slots.size() == count, operation, "slots",
              "one slot for each of N = " + std::to_string(count) + " sequences",
              std::to_string(slots.size()));
    CheckHostList(operation, slots);
    ++call_;
    for (Index n = 0; n < count; ++n) {
      const Index slot = slots[n];
      if (slot == -1) continue;
      CheckSlot(operation, "slots", slot, "-1 or ");
      auto& last_use = last_use_[static_cast<std::size_t>(slot)];
      KLA_CHECK(last_use != call_, operation, "slots", "every slot at most once",
                "slot " + std::to_string(slot) + " again at position " + std::to_string(n));
      last_use = call_;
    }
  }

 private:
  void CheckDim(const char* name, Index given, Index fixed) const {
    KLA_CHECK(
        fixed == kDynamic ? given >= 1 && given <= kMaxHeadDim : given == fixed, "DecodeState",
        name,
        fixed == kDynamic ? "between 1 and " + std::to_string(kMaxHeadDim) : std::to_string(fixed),
        std::to_string(given));
  }

  void CheckSlot(const char* operation, const char* argument, Index slot,
                 const char* alternative = "") const {
    KLA_CHECK(slot >= 0 && slot < slots_, operation, argument,
              std::string(alternative) + "a slot below " + std::to_string(slots_),
              std::to_string(slot));
  }

  static void CheckHostList(const char* operation, const IndexList& slots) {
    KLA_CHECK(!slots.on_device(), operation, "slots", "a list in host memory",
              "a list in device memory");
  }

  template <class U>
  void CheckTransfer(const char* operation, const StateRef<U>& states,
                     const IndexList& slots) const {
    KLA_CHECK(!states.is_null() || states.sequences == 0, operation, "states", "data",
              "a null pointer");
    KLA_CHECK(states.heads == value_heads_ && states.key_dim == key_dim_ &&
                  states.value_dim == value_dim_,
              operation, "states",
              "HV = " + std::to_string(value_heads_) + ", K = " + std::to_string(key_dim_) +
                  ", V = " + std::to_string(value_dim_),
              states.ShapeText());
    KLA_CHECK(slots.is_null() ? states.sequences <= slots_ : slots.size() == states.sequences,
              operation, "slots",
              slots.is_null()
                  ? "at most " + std::to_string(slots_) + " sequences"
                  : "one slot for each of N = " + std::to_string(states.sequences) + " sequences",
              std::to_string(slots.is_null() ? states.sequences : slots.size()));
    CheckHostList(operation, slots);
    for (Index n = 0; n < slots.size(); ++n) {
      if (slots[n] != -1) CheckSlot(operation, "slots", slots[n], "-1 or ");
    }
  }

  template <class U, class F>
  void ForEachHead(const StateRef<U>& states, const IndexList& slots, const F& visit) const {
    for (Index n = 0; n < states.sequences; ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot == -1) continue;
      for (Index h = 0; h < value_heads_; ++h) visit(slot, h, states.Head(n, h));
    }
  }

  Index slots_, value_heads_, key_dim_, value_dim_, head_size_ = 0;
  std::vector<State, internal::CacheAlignedAllocator<State, Backend>> data_;
  // The call that last named each slot.
  std::vector<std::uint64_t, internal::CacheAlignedAllocator<std::uint64_t, Backend>> last_use_;
  std::uint64_t call_ = 0;
};

}  // namespace kla

#endif  // KLA_OP_DECODE_STATE_H_
