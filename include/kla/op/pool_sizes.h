// SPDX-License-Identifier: Apache-2.0
// op: the sizes of a state pool and the checks of what a caller asks of it, for the pools of every
// backend.
#ifndef KLA_OP_POOL_SIZES_H_
#define KLA_OP_POOL_SIZES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kla/core/aligned_allocator.h"
#include "kla/core/check.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"

namespace kla::internal {

// Slots x value heads of states [K, V]; all checks throw std::invalid_argument.
// Owner keeps the code of two pools' containers apart, as KLA_ALWAYS_INLINE explains.
template <HeadShape Shape, class Owner>
class PoolSizes {
 public:
  PoolSizes(Index slots, Index value_heads, Index key_dim, Index value_dim)
      : slots_(slots), value_heads_(value_heads), key_dim_(key_dim), value_dim_(value_dim) {
    KLA_CHECK(slots >= 0, "DecodeState", "slots", "a count >= 0", std::to_string(slots));
    KLA_CHECK(value_heads >= 1, "DecodeState", "value_heads", "at least one head",
              std::to_string(value_heads));
    CheckDim("key_dim", key_dim, Shape::kKeyDim);
    CheckDim("value_dim", value_dim, Shape::kValueDim);
    last_use_.resize(static_cast<std::size_t>(slots), 0);
  }

  Index slots() const { return slots_; }
  Index value_heads() const { return value_heads_; }
  Index key_dim() const { return key_dim_; }
  Index value_dim() const { return value_dim_; }

  // Slots of one call: in range or -1, no slot twice, `count` of them. Left out: slots 0 ... count
  // - 1. A list in device memory is not read: a kernel skips what is out of range.
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
    if (!slots.on_device()) CheckWritten(operation, slots);
  }

 protected:
  // Of a method that names one slot.
  void CheckSlot(const char* method, const char* argument, Index slot) const {
    CheckRange(Method{method}, argument, slot);
  }

  static void CheckHostList(const char* operation, const IndexList& slots) {
    KLA_CHECK(!slots.on_device(), operation, "slots", "a list in host memory",
              "a list in device memory");
  }

  // Of Store, which reads the pool, and, not const, of Load, which writes it: that one may not name
  // a slot twice.
  template <class U>
  void CheckTransfer(const char* method, const StateRef<U>& states, const IndexList& slots) const {
    const Method operation{method};
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
    KLA_CHECK(!slots.on_device(), operation, "slots", "a list in host memory",
              "a list in device memory");
    for (Index n = 0; n < slots.size(); ++n) {
      if (slots[n] != -1) CheckRange(operation, "slots", slots[n], "-1 or ");
    }
  }
  template <class U>
  void CheckTransfer(const char* method, const StateRef<U>& states, const IndexList& slots) {
    static_cast<const PoolSizes&>(*this).CheckTransfer(method, states, slots);
    CheckWritten(Method{method}, slots);
  }

 private:
  // The name of a method in an error message, put together when it is needed.
  struct Method {
    const char* name;
    operator std::string() const {  // NOLINT(google-explicit-constructor)
      return std::string("DecodeState::") + name;
    }
  };

  template <class Operation>
  void CheckRange(const Operation& operation, const char* argument, Index slot,
                  const char* alternative = "") const {
    KLA_CHECK(slot >= 0 && slot < slots_, operation, argument,
              std::string(alternative) + "a slot below " + std::to_string(slots_),
              std::to_string(slot));
  }

  // Each in range or -1, none twice.
  template <class Operation>
  void CheckWritten(const Operation& operation, const IndexList& slots) {
    ++call_;
    for (Index n = 0; n < slots.size(); ++n) {
      const Index slot = slots[n];
      if (slot == -1) continue;
      CheckRange(operation, "slots", slot, "-1 or ");
      auto& last_use = last_use_[static_cast<std::size_t>(slot)];
      KLA_CHECK(last_use != call_, operation, "slots", "every slot at most once",
                "slot " + std::to_string(slot) + " again at position " + std::to_string(n));
      last_use = call_;
    }
  }

  static void CheckDim(const char* name, Index given, Index fixed) {
    KLA_CHECK(
        fixed == kDynamic ? given >= 1 && given <= kMaxHeadDim : given == fixed, "DecodeState",
        name,
        fixed == kDynamic ? "between 1 and " + std::to_string(kMaxHeadDim) : std::to_string(fixed),
        std::to_string(given));
  }

  Index slots_, value_heads_, key_dim_, value_dim_;
  // The call that last named each slot.
  std::vector<std::uint64_t, CacheAlignedAllocator<std::uint64_t, Owner>> last_use_;
  std::uint64_t call_ = 0;
};

}  // namespace kla::internal

#endif  // KLA_OP_POOL_SIZES_H_
