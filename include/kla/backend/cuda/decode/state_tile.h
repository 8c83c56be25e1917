// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: columns of a state in registers, and the tokens that a stored state lags
// behind.
#ifndef KLA_BACKEND_CUDA_DECODE_STATE_TILE_H_
#define KLA_BACKEND_CUDA_DECODE_STATE_TILE_H_

#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/block/vector.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/core/scalar.h"
#include "kla/math/decay.h"

namespace kla::internal::device {

// kColumns columns of a state in the registers of each group of lanes: the group's first column is
// `first`, its columns are neighbours.
template <class Tiling, int kColumns, class State>
struct StateTile {
  float s[kColumns][Tiling::kPerLane];

  // Columns from value_dim on do not exist: they hold zeros and are not written.
  KLA_BLOCK_FUNCTION void Load(const State* head, int first, int value_dim, int lane) {
    const State* from = head + Index{first} * Tiling::kPaddedKey + Tiling::KeyOf(lane, 0);
    KLA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const bool exists = first + c < value_dim;
      KLA_UNROLL
      for (int v = 0; v < Tiling::kVectors; ++v) {
        float* to = &s[c][v * Tiling::kVector];
        if (exists) {
          LoadGlobalVector(from + (c * Tiling::kPaddedKey + Tiling::KeyOf(0, v)), to);
        } else {
          KLA_UNROLL
          for (int e = 0; e < Tiling::kVector; ++e) to[e] = 0.0f;
        }
      }
    }
  }

  KLA_BLOCK_FUNCTION void Store(State* head, int first, int value_dim, int lane) const {
    State* to = head + Index{first} * Tiling::kPaddedKey + Tiling::KeyOf(lane, 0);
    KLA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      if (first + c >= value_dim) continue;
      KLA_UNROLL
      for (int v = 0; v < Tiling::kVectors; ++v) {
        StoreGlobalVector(&s[c][v * Tiling::kVector],
                          to + (c * Tiling::kPaddedKey + Tiling::KeyOf(0, v)));
      }
    }
  }

  KLA_BLOCK_FUNCTION void Scale(float a) {
    KLA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      KLA_UNROLL
      for (int i = 0; i < Tiling::kPerLane; ++i) s[c][i] *= a;
    }
  }

  // S <- a S + k delta^T, k [K'] in shared or global memory.
  KLA_BLOCK_FUNCTION void Update(float a, const float* k, const float (&delta)[kColumns],
                                 int lane) {
    KLA_UNROLL
    for (int v = 0; v < Tiling::kPerLane / 4; ++v) {
      float key[4];
      LoadVector(k + Quad(lane, v), key);
      KLA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        KLA_UNROLL
        for (int e = 0; e < 4; ++e) s[c][4 * v + e] = a * s[c][4 * v + e] + key[e] * delta[c];
      }
    }
  }

  // This lane's part of S^T k and S^T q: sums.value[c] and sums.value[kColumns + c].
  KLA_BLOCK_FUNCTION void Recall(const float* k, const float* q, int lane,
                                 Sums<float, 2 * kColumns>& sums) const {
    KLA_UNROLL
    for (int c = 0; c < 2 * kColumns; ++c) sums.value[c] = 0.0f;
    KLA_UNROLL
    for (int v = 0; v < Tiling::kPerLane / 4; ++v) {
      float key[4], query[4];
      LoadVector(k + Quad(lane, v), key);
      LoadVector(q + Quad(lane, v), query);
      KLA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        KLA_UNROLL
        for (int e = 0; e < 4; ++e) {
          sums.value[c] += s[c][4 * v + e] * key[e];
          sums.value[kColumns + c] += s[c][4 * v + e] * query[e];
        }
      }
    }
  }

 private:
  // Where the v-th four elements of a lane lie along K.
  KLA_BLOCK_FUNCTION static constexpr int Quad(int lane, int v) {
    return Tiling::KeyOf(lane, 4 * v / Tiling::kVector, 4 * v % Tiling::kVector);
  }
};

// Brings a stored state up to date with its pending tokens:
//   S <- exp(G) S + sum_i exp(G - G_i) k~_i delta_i^T
template <class Tiling, int kColumns, class State>
KLA_BLOCK_FUNCTION void Replay(const PoolView<State>& pool, Index head, const History& history,
                               int first, int lane, StateTile<Tiling, kColumns, State>& tile) {
  const Index row = pool.RowAt(head, history.bank);
  const float* g = pool.log_decay + row;
  const float* keys = pool.keys + row * Tiling::kPaddedKey;
  const float* deltas = pool.deltas + row * pool.value_dim;
  double total = 0;  // G
  KLA_NO_UNROLL
  for (int i = 0; i < history.pending; ++i) total += ClampLogDecay(static_cast<double>(g[i]));
  tile.Scale(Decay(static_cast<float>(total)));
  double rest = 0;  // G - G_i
  KLA_NO_UNROLL
  for (int i = history.pending - 1; i >= 0; --i) {
    const float w = Decay(static_cast<float>(rest));
    float weighted[kColumns];
    KLA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const bool exists = first + c < pool.value_dim;
      weighted[c] = exists ? w * deltas[i * pool.value_dim + first + c] : 0.0f;
    }
    tile.Update(1.0f, keys + i * Tiling::kPaddedKey, weighted, lane);
    rest += ClampLogDecay(static_cast<double>(g[i]));
  }
}

// The history of the columns [first, first + columns) of a head, once it is known to be read.
template <class Block, class State>
KLA_BLOCK_FUNCTION void SetHistory(const Block& block, const PoolView<State>& pool, Index head,
                                   int first, int columns, const History& history) {
  block.ForEachThread([&](int thread) {
    const Index at = first / kCountedColumns + thread;
    if (thread < columns / kCountedColumns && at < pool.CountsPerHead()) {
      pool.history[head * pool.CountsPerHead() + at] = history.Pack();
    }
  });
}

template <class State>
KLA_BLOCK_FUNCTION History GetHistory(const PoolView<State>& pool, Index head, int first) {
  return History::Unpack(pool.history[head * pool.CountsPerHead() + first / kCountedColumns]);
}

// Writes the pending tokens of every slot into its matrix.
template <Index kKeyDim, class State>
struct FlushBody {
  using Tiling = ColumnTiling<kKeyDim, State>;
  using Tile = StateTile<Tiling, 1, State>;
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSm = 4;
  static constexpr int kBlockColumns = kThreads / Tiling::kLanes;
  struct Shared {};

  PoolView<State> pool;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const auto splits =
        static_cast<std::uint32_t>((pool.value_dim + kBlockColumns - 1) / kBlockColumns);
    const auto block_first = static_cast<int>(index % splits) * kBlockColumns;
    const Index head = index / splits;
    const History history = GetHistory(pool, head, block_first);
    if (history.pending == 0) return;
    State* state = pool.states + head * pool.value_dim * Tiling::kPaddedKey;
    block.ForEachThread([&](int thread) {
      const int first = block_first + thread / Tiling::kLanes, lane = thread % Tiling::kLanes;
      Tile tile;
      tile.Load(state, first, pool.value_dim, lane);
      Replay(pool, head, history, first, lane, tile);
      tile.Store(state, first, pool.value_dim, lane);
    });
    block.Barrier();  // every thread has read the history
    SetHistory(block, pool, head, block_first, kBlockColumns, {history.bank, 0});
  }
};

// Takes back the last `tokens` tokens of a slot, all of them still pending.
template <class State>
struct RollbackBody {
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSm = 1;
  struct Shared {};

  PoolView<State> pool;
  Index slot;
  std::int32_t tokens;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t head) const {
    block.ForEachThread([&](int thread) {
      std::int32_t* words =
          pool.history + pool.HeadAt(slot, static_cast<int>(head)) * pool.CountsPerHead();
      for (Index i = thread; i < pool.CountsPerHead(); i += kThreads) {
        History history = History::Unpack(words[i]);
        history.pending = history.pending > tokens ? history.pending - tokens : 0;
        words[i] = history.Pack();
      }
    });
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_STATE_TILE_H_
