// SPDX-License-Identifier: Apache-2.0
// backend/cuda: DecodeState in device memory, over the few things that it needs of a platform:
//   Memory<T>(size)               owned memory: data, size, Bytes, Zero, CopyWithin
//   Executor                      what calls take to say where they are queued
//   Queue(executor)               what Memory's functions take for the same
//   MakeLauncher(executor)        runs kernel bodies
//   CopyAndWait(from, to, count, executor)   between host and device
//   IsDevicePointer(pointer)
// The platform is DevicePlatform (decode_step.cuh) or, under the tests, the host.
#ifndef KLA_BACKEND_CUDA_DECODE_STATE_H_
#define KLA_BACKEND_CUDA_DECODE_STATE_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kla/backend/cuda/decode_launch.h"
#include "kla/backend/cuda/decode_pool.h"
#include "kla/backend/cuda/decode_transfer.h"
#include "kla/core/check.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/op/decode_state.h"

namespace kla::device {

// The interface of kla::DecodeState, with an executor as the last argument of what runs on the
// device: such calls are queued, and return. Load and Store wait only where `states` is in host
// memory. States in device memory may be float, bfloat16 or float16.
// kCapacity > 0: writes are deferred by up to so many tokens (see PoolView).
template <class Platform, HeadShape Shape, class State, int kCapacity>
class PooledState {
  static_assert(kIsStored<State>, "kla: a state on a device is float, bfloat16 or float16");
  static_assert(Shape::kKeyDim == kDynamic || kCapacity >= 0);

 public:
  using Executor = typename Platform::Executor;

  PooledState(Index slots, Index value_heads) requires(Shape::kKeyDim != kDynamic &&
                                                       Shape::kValueDim != kDynamic)
      : PooledState(slots, value_heads, Shape::kKeyDim, Shape::kValueDim) {}

  // Allocates device memory, and queues its clearing on the executor.
  PooledState(Index slots, Index value_heads, Index key_dim, Index value_dim,
              const Executor& executor = {})
      : slots_(slots), value_heads_(value_heads), key_dim_(key_dim), value_dim_(value_dim) {
    Check(slots >= 0, "DecodeState", "slots", "a count >= 0", slots);
    Check(value_heads >= 1, "DecodeState", "value_heads", "at least one head", value_heads);
    CheckDim("key_dim", key_dim, Shape::kKeyDim);
    CheckDim("value_dim", value_dim, Shape::kValueDim);
    WithKeyDim<Shape>(key_dim, [&](auto compiled) {
      padded_key_ = ColumnTiling<decltype(compiled)::value, State>::kPaddedKey;
    });
    const Index heads = slots * value_heads;
    states_ = Memory<State>(heads * value_dim * padded_key_);
    if (kCapacity > 0) {
      const Index rows = heads * 2 * kCapacity;
      keys_ = Memory<float>(rows * padded_key_);
      deltas_ = Memory<float>(rows * value_dim);
      log_decay_ = Memory<float>(rows);
      history_ = Memory<std::int32_t>(heads * view().CountsPerHead());
    }
    last_use_.resize(static_cast<std::size_t>(slots), 0);
    Reset(executor);
  }

  Index slots() const { return slots_; }
  Index value_heads() const { return value_heads_; }
  Index key_dim() const { return key_dim_; }
  Index value_dim() const { return value_dim_; }
  Index size_bytes() const {
    return static_cast<Index>(states_.Bytes() + keys_.Bytes() + deltas_.Bytes() +
                              log_decay_.Bytes() + history_.Bytes());
  }

  // What kernels take.
  PoolView<State> view() const {
    return {.states = states_.data(),
            .keys = keys_.data(),
            .deltas = deltas_.data(),
            .log_decay = log_decay_.data(),
            .history = history_.data(),
            .slots = slots_,
            .value_heads = static_cast<std::int32_t>(value_heads_),
            .key_dim = static_cast<std::int32_t>(key_dim_),
            .value_dim = static_cast<std::int32_t>(value_dim_),
            .capacity = kCapacity};
  }

  void Reset(const Executor& executor = {}) {
    states_.Zero(0, states_.size(), Platform::Queue(executor));
    history_.Zero(0, history_.size(), Platform::Queue(executor));
  }
  void Reset(Index slot, const Executor& executor = {}) {
    CheckSlot("Reset", "slot", slot);
    states_.Zero(slot * PerSlot(states_), PerSlot(states_), Platform::Queue(executor));
    ForgetPending(slot, executor);
  }

  void Copy(Index from, Index to, const Executor& executor = {}) {
    CheckSlot("Copy", "from", from);
    CheckSlot("Copy", "to", to);
    if (from == to) return;
    const auto copy = [&](const auto& memory) {
      const Index size = PerSlot(memory);
      memory.CopyWithin(from * size, to * size, size, Platform::Queue(executor));
    };
    copy(states_);
    copy(keys_);
    copy(deltas_);
    copy(log_decay_);
    copy(history_);
  }

  // From [N, HV, K, V] or [N, HV, V, K], in host or device memory, into slots[n].
  template <class U>
  void Load(const StateRef<U>& states, const IndexList& slots = {}, const Executor& executor = {}) {
    CheckTransfer("Load", states, slots);
    if (states.sequences == 0) return;
    if (Platform::IsDevicePointer(states.data)) {
      Transfer<TransferDirection::kLoad>(states, slots, executor);
      for (Index n = 0; n < states.sequences; ++n) {
        const Index slot = slots.is_null() ? n : slots[n];
        if (slot != -1) ForgetPending(slot, executor);
      }
      return;
    }
    std::vector<State> packed(static_cast<std::size_t>(PerSlot(states_)), State(0.0f));
    ForEachSlot(states, slots, [&](Index n, Index slot) {
      ForEachElement([&](Index head, Index i, Index j, Index at) {
        packed[static_cast<std::size_t>(at)] = internal::ConvertElement<State>(
            states.Head(n, head)[i * states.key_stride + j * states.value_stride]);
      });
      Platform::CopyAndWait(packed.data(), states_.data() + slot * PerSlot(states_),
                            PerSlot(states_), executor);
      ForgetPending(slot, executor);
    });
  }
  template <class U, class... Extents>
  void Load(const View<U, Extents...>& states, const IndexList& slots = {},
            const Executor& executor = {}) {
    Load(StateRef<const U>(states), slots, executor);
  }

  // The reverse: slots[n] into sequence n.
  template <class U>
  void Store(const StateRef<U>& states, const IndexList& slots = {},
             const Executor& executor = {}) const {
    CheckTransfer("Store", states, slots);
    if (states.sequences == 0) return;
    Flush(executor);
    if (Platform::IsDevicePointer(states.data)) {
      return Transfer<TransferDirection::kStore>(states, slots, executor);
    }
    std::vector<State> packed(static_cast<std::size_t>(PerSlot(states_)));
    ForEachSlot(states, slots, [&](Index n, Index slot) {
      Platform::CopyAndWait(states_.data() + slot * PerSlot(states_), packed.data(),
                            PerSlot(states_), executor);
      ForEachElement([&](Index head, Index i, Index j, Index at) {
        states.Head(n, head)[i * states.key_stride + j * states.value_stride] =
            internal::ConvertElement<U>(packed[static_cast<std::size_t>(at)]);
      });
    });
  }
  template <class U, class... Extents>
  void Store(const View<U, Extents...>& states, const IndexList& slots = {},
             const Executor& executor = {}) const {
    Store(StateRef<U>(states), slots, executor);
  }

  // Writes the tokens that are pending into the matrices. The states stay the same.
  void Flush(const Executor& executor = {}) const {
    if constexpr (kCapacity > 0) {
      WithKeyDim<Shape>(key_dim_, [&](auto compiled) {
        using Body = FlushBody<decltype(compiled)::value, State>;
        const Index splits = (value_dim_ + Body::kBlockColumns - 1) / Body::kBlockColumns;
        Platform::MakeLauncher(executor).Launch("DecodeState::Flush", Body{view()},
                                                slots_ * value_heads_ * splits);
      });
    }
  }

  // Takes back the last `tokens` tokens of a slot, which the last DecodeStep must have applied, in
  // one call: a draft that was not accepted. Nothing is copied.
  void Rollback(Index slot, Index tokens, const Executor& executor = {}) requires(kCapacity > 0) {
    CheckSlot("Rollback", "slot", slot);
    Check(tokens >= 0 && tokens <= kCapacity, "Rollback", "tokens",
          "0 to " + std::to_string(kCapacity), tokens);
    Platform::MakeLauncher(executor).Launch(
        "DecodeState::Rollback",
        RollbackBody<State>{view(), slot, static_cast<std::int32_t>(tokens)}, value_heads_);
  }

  // Slots of one call: in range or -1, no slot twice, `count` of them; lists in device memory are
  // not read here, and a slot that is out of range is skipped by the kernel.
  void CheckSlots(const char* operation, const IndexList& slots, Index count) {
    if (slots.is_null()) {
      return Check(count <= slots_, operation, "slots",
                   "at most " + std::to_string(slots_) + " sequences where slots are left out",
                   count);
    }
    Check(slots.size() == count, operation, "slots",
          "one slot for each of N = " + std::to_string(count) + " sequences", slots.size());
    if (slots.on_device()) return;
    ++call_;
    for (Index n = 0; n < count; ++n) {
      if (slots[n] == -1) continue;
      CheckListedSlot(operation, slots[n]);
      auto& last_use = last_use_[static_cast<std::size_t>(slots[n])];
      KLA_CHECK(last_use != call_, operation, "slots", "every slot at most once",
                "slot " + std::to_string(slots[n]) + " again at position " + std::to_string(n));
      last_use = call_;
    }
  }

 private:
  template <class T>
  using Memory = typename Platform::template Memory<T>;

  static void Check(bool holds, const char* operation, const char* argument,
                    const std::string& expected, Index given) {
    KLA_CHECK(holds, operation, argument, expected, std::to_string(given));
  }
  static void CheckDim(const char* name, Index given, Index fixed) {
    Check(
        fixed == kDynamic ? given >= 1 && given <= kMaxHeadDim : given == fixed, "DecodeState",
        name,
        fixed == kDynamic ? "between 1 and " + std::to_string(kMaxHeadDim) : std::to_string(fixed),
        given);
  }
  void CheckSlot(const char* operation, const char* argument, Index slot) const {
    Check(slot >= 0 && slot < slots_, operation, argument, "a slot below " + std::to_string(slots_),
          slot);
  }
  void CheckListedSlot(const char* operation, Index slot) const {
    Check(slot >= 0 && slot < slots_, operation, "slots",
          "-1 or a slot below " + std::to_string(slots_), slot);
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
    KLA_CHECK(!slots.on_device(), operation, "slots", "a list in host memory",
              "a list in device memory");
    Check(slots.is_null() ? states.sequences <= slots_ : slots.size() == states.sequences,
          operation, "slots",
          slots.is_null()
              ? "at most " + std::to_string(slots_) + " sequences"
              : "one slot for each of N = " + std::to_string(states.sequences) + " sequences",
          slots.is_null() ? states.sequences : slots.size());
    for (Index n = 0; n < slots.size(); ++n) {
      if (slots[n] != -1) CheckListedSlot(operation, slots[n]);
    }
  }

  template <class T>
  Index PerSlot(const T& memory) const {
    return slots_ == 0 ? 0 : memory.size() / slots_;
  }
  void ForgetPending(Index slot, const Executor& executor) const {
    history_.Zero(slot * PerSlot(history_), PerSlot(history_), Platform::Queue(executor));
  }

  template <class U, class F>
  static void ForEachSlot(const StateRef<U>& states, const IndexList& slots, const F& visit) {
    for (Index n = 0; n < states.sequences; ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot != -1) visit(n, slot);
    }
  }
  // visit(head, i, j, position in a slot)
  template <class F>
  void ForEachElement(const F& visit) const {
    for (Index head = 0; head < value_heads_; ++head) {
      for (Index j = 0; j < value_dim_; ++j) {
        for (Index i = 0; i < key_dim_; ++i) {
          visit(head, i, j, (head * value_dim_ + j) * padded_key_ + i);
        }
      }
    }
  }

  template <TransferDirection kDirection, class U>
  void Transfer(const StateRef<U>& states, const IndexList& slots, const Executor& executor) const {
    ForEachRun(slots, {}, 0, states.sequences, [&](const auto& sequences, Index count) {
      using Sequences = std::remove_cvref_t<decltype(sequences)>;
      Platform::MakeLauncher(executor).Launch(
          "DecodeState::Load or Store",
          TransferBody<kDirection, Sequences, U, State>{states, view(), padded_key_, sequences},
          count * value_heads_);
    });
  }

  Index slots_, value_heads_, key_dim_, value_dim_, padded_key_ = 0;
  Memory<State> states_;
  Memory<float> keys_, deltas_, log_decay_;  // see PoolView
  Memory<std::int32_t> history_;
  std::vector<std::uint64_t> last_use_;  // the call that last named each slot
  std::uint64_t call_ = 0;
};

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_DECODE_STATE_H_
