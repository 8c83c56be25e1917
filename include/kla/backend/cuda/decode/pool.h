// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: how states lie in device memory, and how threads share a column of one.
#ifndef KLA_BACKEND_CUDA_DECODE_POOL_H_
#define KLA_BACKEND_CUDA_DECODE_POOL_H_

#include <cstdint>

#include "kla/backend/cuda/block/vector.h"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// A state [K, V] is stored by columns, [V, K'], K' being K rounded up to whole vectors for every
// lane. Columns are independent in the recurrence: kLanes neighbouring threads hold one, summing
// over K with log2(kLanes) shuffles, and no thread block needs another.
//   lane l holds the elements (v kLanes + l) kVector + e of its column,  v < kVectors, e < kVector
// so that each load of the lanes covers kLanes * 16 contiguous bytes: 128 for eight lanes, which
// is a cache line. At K = 64, 96, 128 and 256 nothing is padded and [slots, HV, V, K'] is the
// layout [N, HV, V, K] of a TransposedStateView.
template <Index kKeyDim, class State>
struct ColumnTiling {
  static constexpr int kKey = static_cast<int>(kKeyDim);
  static constexpr int kVector = kVectorLength<State>;
  static constexpr int kLanes = kKey > 384                                     ? 32
                                : kKey > 192                                   ? 16
                                : kVector == 8 && kKey <= 96 && kKey % 64 != 0 ? 4
                                                                               : 8;
  static constexpr int kPaddedKey =
      (kKey + kLanes * kVector - 1) / (kLanes * kVector) * (kLanes * kVector);
  static constexpr int kPerLane = kPaddedKey / kLanes;
  static constexpr int kVectors = kPerLane / kVector;

  // Where element e of vector v of a lane lies in the column.
  KLA_HOST_DEVICE static constexpr int KeyOf(int lane, int v, int e = 0) {
    return (v * kLanes + lane) * kVector + e;
  }
};

// K' where K is known at run time only: that of the smallest of these that has room for it.
inline constexpr Index kDynamicKeyDims[] = {64, 128, 256, 1024};

// The key dimension that kernels are compiled for.
constexpr Index CompiledKeyDim(Index key_dim, bool is_static) {
  if (is_static) return key_dim;
  for (const Index candidate : kDynamicKeyDims) {
    if (key_dim <= candidate) return candidate;
  }
  return 0;
}

// Columns whose pending tokens are counted together (see below).
inline constexpr int kCountedColumns = 4;

// The pool as kernels see it.
//
// With deferred writes, a state is the stored matrix and up to `capacity` tokens that came after:
//   S = exp(G) S_stored + sum_i exp(G - G_i) k~_i delta_i^T,   G_i = g_0 + ... + g_i,  G = G_last
// Each launch replays them in registers; only every `capacity` tokens is the matrix written. The
// rows of these tokens lie in two banks: a thread block that has written its columns begins the
// other bank while its neighbours may still read the first. The idea of deferring: ReplaySSM.
template <class State>
struct PoolView {
  State* states = nullptr;          // [slots, HV, V, K']
  float* keys = nullptr;            // [slots, HV, 2, capacity, K']   k~
  float* deltas = nullptr;          // [slots, HV, 2, capacity, V]
  float* log_decay = nullptr;       // [slots, HV, 2, capacity]       g
  std::int32_t* history = nullptr;  // [slots, HV, ceil(V / kCountedColumns)]: see History
  Index slots = 0;
  std::int32_t value_heads = 0, key_dim = 0, value_dim = 0, capacity = 0;

  KLA_HOST_DEVICE Index HeadAt(Index slot, int head) const { return slot * value_heads + head; }
  KLA_HOST_DEVICE Index CountsPerHead() const {
    return (value_dim + kCountedColumns - 1) / kCountedColumns;
  }
  // The first row of a bank in keys, deltas and log_decay.
  KLA_HOST_DEVICE Index RowAt(Index head, int bank) const { return (head * 2 + bank) * capacity; }
};

// Which bank a column's pending tokens are in, and how many: kept for every kCountedColumns
// columns, so that thread blocks own theirs, and the same for all columns between launches.
struct History {
  int bank = 0, pending = 0;

  KLA_HOST_DEVICE static History Unpack(std::int32_t word) { return {word & 1, word >> 1}; }
  KLA_HOST_DEVICE std::int32_t Pack() const { return pending << 1 | bank; }
};

// Where a sequence lies in [B, T, ...] arrays, and its slot.
struct SequenceEntry {
  Index batch, begin, length, slot;
};

// Indices in device memory, int32 or int64, or none.
struct DeviceIndices {
  const std::int32_t* narrow = nullptr;
  const std::int64_t* wide = nullptr;

  KLA_HOST_DEVICE bool is_null() const { return narrow == nullptr && wide == nullptr; }
  KLA_HOST_DEVICE Index operator[](Index i) const {
    return narrow != nullptr ? Index{narrow[i]} : Index{wide[i]};
  }
};

// Sequences of equal length, or with lists that lie in device memory and are read by the kernel: a
// captured graph may change them between replays.
struct UniformSequences {
  Index first = 0, tokens = 0;
  DeviceIndices slots, offsets;

  KLA_BLOCK_FUNCTION SequenceEntry At(Index i) const {
    const Index n = first + i;
    const Index slot = slots.is_null() ? n : slots[n];
    if (offsets.is_null()) return {n, 0, tokens, slot};
    return {0, offsets[n], offsets[n + 1] - offsets[n], slot};
  }
};

// Lists in host memory travel in the parameters of the kernel: no copy and no allocation, and a
// graph captures them with their values. Longer lists are cut into several launches.
struct ListedSequences {
  static constexpr Index kCapacity = 256;  // 3 KB; parameters of a kernel may take 4

  Index first = 0, tokens = 0;
  bool packed = false;
  std::int64_t begin[kCapacity + 1];
  std::int32_t slot[kCapacity];

  KLA_BLOCK_FUNCTION SequenceEntry At(Index i) const {
    if (packed) return {0, begin[i], begin[i + 1] - begin[i], slot[i]};
    return {first + i, 0, tokens, slot[i]};
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_POOL_H_
