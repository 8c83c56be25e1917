// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: states between a pool and arrays of the caller, both in device memory.
#ifndef KLA_BACKEND_CUDA_DECODE_TRANSFER_H_
#define KLA_BACKEND_CUDA_DECODE_TRANSFER_H_

#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/core/layout.h"

namespace kla::internal::device {

enum class TransferDirection { kLoad, kStore };

// One head of one sequence to its place in the pool, or back: elements (i, j) of [N, HV, K, V] or
// [N, HV, V, K], converted with rounding to nearest.
template <TransferDirection kDirection, class Sequences, class U, class State>
struct TransferBody {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksPerSm = 1;
  struct Shared {};

  StateRef<U> given;
  PoolView<State> pool;
  Index padded_key;
  Sequences sequences;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const auto heads = static_cast<std::uint32_t>(pool.value_heads);
    const std::uint32_t n = index / heads;
    const auto head = static_cast<int>(index % heads);
    const SequenceEntry entry = sequences.At(n);
    if (entry.slot < 0) return;
    U* outside = given.Head(SequenceOf(n), head);
    State* inside = pool.states + pool.HeadAt(entry.slot, head) * pool.value_dim * padded_key;
    block.ForEachThread([&](int thread) {
      for (Index at = thread; at < Index{pool.key_dim} * pool.value_dim; at += kThreads) {
        const Index i = at % pool.key_dim, j = at / pool.key_dim;
        U& there = outside[i * given.key_stride + j * given.value_stride];
        State& here = inside[j * padded_key + i];
        if constexpr (kDirection == TransferDirection::kLoad) {
          here = static_cast<State>(static_cast<float>(there));
        } else {
          there = static_cast<U>(static_cast<float>(here));
        }
      }
    });
  }

 private:
  KLA_BLOCK_FUNCTION Index SequenceOf(std::uint32_t n) const { return sequences.first + n; }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_TRANSFER_H_
