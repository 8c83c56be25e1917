// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: DecodeState in device memory, over the few things that it needs of a
// platform:
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

#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/decode/transfer.h"
#include "kla/core/check.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/op/decode_state.h"
#include "kla/op/pool_sizes.h"

namespace kla::internal::device {

// The interface of kla::DecodeState, with an executor as the last argument of what runs on the
// device: such calls are queued, and return. Load and Store wait only where `states` is in host
// memory. States in device memory may be float, bfloat16 or float16.
// kCapacity > 0: writes are deferred by up to so many tokens (see PoolView).
template <class Platform, HeadShape Shape, class State, int kCapacity>
class PooledState
    : public internal::PoolSizes<Shape, PooledState<Platform, Shape, State, kCapacity>> {
  using Sizes = internal::PoolSizes<Shape, PooledState>;
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
      : Sizes(slots, value_heads, key_dim, value_dim) {
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
    Reset(executor);
  }

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
            .slots = this->slots(),
            .value_heads = static_cast<std::int32_t>(this->value_heads()),
            .key_dim = static_cast<std::int32_t>(this->key_dim()),
            .value_dim = static_cast<std::int32_t>(this->value_dim()),
            .capacity = kCapacity};
  }

  void Reset(const Executor& executor = {}) {
    states_.Zero(0, states_.size(), Platform::Queue(executor));
    history_.Zero(0, history_.size(), Platform::Queue(executor));
  }
  void Reset(Index slot, const Executor& executor = {}) {
    Sizes::CheckSlot("Reset", "slot", slot);
    states_.Zero(slot * PerSlot(states_), PerSlot(states_), Platform::Queue(executor));
    ForgetPending(slot, executor);
  }

  void Copy(Index from, Index to, const Executor& executor = {}) {
    Sizes::CheckSlot("Copy", "from", from);
    Sizes::CheckSlot("Copy", "to", to);
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
    Sizes::CheckTransfer("Load", states, slots);
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
  void Load(const StateRef<const State>& states, const IndexList& slots = {},
            const Executor& executor = {}) {
    Load<const State>(states, slots, executor);
  }

  // The reverse: slots[n] into sequence n.
  template <class U>
  void Store(const StateRef<U>& states, const IndexList& slots = {},
             const Executor& executor = {}) const {
    Sizes::CheckTransfer("Store", states, slots);
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
  void Store(const StateRef<State>& states, const IndexList& slots = {},
             const Executor& executor = {}) const {
    Store<State>(states, slots, executor);
  }

  // Writes the tokens that are pending into the matrices. The states stay the same.
  void Flush(const Executor& executor = {}) const {
    if constexpr (kCapacity > 0) {
      WithKeyDim<Shape>(this->key_dim(), [&](auto compiled) {
        using Body = FlushBody<decltype(compiled)::value, State>;
        const Index splits = (this->value_dim() + Body::kBlockColumns - 1) / Body::kBlockColumns;
        Platform::MakeLauncher(executor).Launch("DecodeState::Flush", Body{view()},
                                                this->slots() * this->value_heads() * splits);
      });
    }
  }

  // Takes back the last `tokens` tokens of a slot, which the last DecodeStep must have applied, in
  // one call: a draft that was not accepted. Nothing is copied.
  void Rollback(Index slot, Index tokens, const Executor& executor = {}) requires(kCapacity > 0) {
    Sizes::CheckSlot("Rollback", "slot", slot);
    KLA_CHECK(tokens >= 0 && tokens <= kCapacity, "Rollback", "tokens",
              "0 to " + std::to_string(kCapacity), std::to_string(tokens));
    Platform::MakeLauncher(executor).Launch(
        "DecodeState::Rollback",
        RollbackBody<State>{view(), slot, static_cast<std::int32_t>(tokens)}, this->value_heads());
  }

 private:
  template <class T>
  using Memory = typename Platform::template Memory<T>;

  template <class T>
  Index PerSlot(const T& memory) const {
    return this->slots() == 0 ? 0 : memory.size() / this->slots();
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
    for (Index head = 0; head < this->value_heads(); ++head) {
      for (Index j = 0; j < this->value_dim(); ++j) {
        for (Index i = 0; i < this->key_dim(); ++i) {
          visit(head, i, j, (head * this->value_dim() + j) * padded_key_ + i);
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
          count * this->value_heads());
    });
  }

  Index padded_key_ = 0;
  Memory<State> states_;
  Memory<float> keys_, deltas_, log_decay_;  // see PoolView
  Memory<std::int32_t> history_;
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_STATE_H_
