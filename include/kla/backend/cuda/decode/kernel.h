// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: the body of DecodeStep.
#ifndef KLA_BACKEND_CUDA_DECODE_KERNEL_H_
#define KLA_BACKEND_CUDA_DECODE_KERNEL_H_

#include <cstdint>
#include <type_traits>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/decode/deferred.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/decode/state_tile.h"
#include "kla/core/heads.h"
#include "kla/core/scalar.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// Distances between elements of [B, T, heads, ...] arrays.
struct TokenStrides {
  Index batch, token, head;
  KLA_HOST_DEVICE Index At(Index b, Index t, Index h) const {
    return b * batch + t * token + h * head;
  }
};

// The arguments of DecodeStep, device pointers.
template <class T>
struct DecodeInputs {
  const T* q;
  const T* k;
  const T* v;
  const float* g;
  const float* eta;
  T* o;
  TokenStrides q_at, k_at, v_at, g_at, eta_at, o_at;
  HeadGroups<std::int32_t> groups;
  float scale;
  double epsilon;
};

// T tokens of one sequence and value head, kBlockColumns columns of its state:
//   S <- a S + b k~ (v~ - a S^T k~)^T,   o = scale S^T q^                       (math/unit_key.h)
// with S^T k~ and S^T q^ in one pass over the tile, since
//   o = scale (a S_before^T q^ + (k~ . q^) delta),   delta = b (v~ - a S_before^T k~).
// q, k [K]  v, o [V]  S [K, V] read once and written once, 16 bytes at a time, in between in
// registers; q^, k~ and the scalars of each token are made by one warp, in double, and shared.
// Bytes: 2 KV of state (KV and the pending tokens where writes are deferred); 6KV flops a token.
//
// One H200, 2026-11-23, bf16 inputs, f32 state, K = V = 128, 16 heads, batch 256: 541 MB, 128 us at
// the 4230 GB/s of a copy measured in the same run (bench/bench_cuda.cu).
//   206 us  62 %   plain assignments: the compiler stored 4 bytes at a time
//   142 us  90 %   16-byte stores by intrinsic; q and k loaded ahead of the tile, so that norms are
//                  taken while it is in flight; 128 registers, 4 blocks on a multiprocessor instead
//                  of 3. Tiles of 1, 2, 4 columns: 59 %, 80 %, 90 %.
// K = 96, V = 192, 12 heads: 89 %. Batch 1, replayed graph: 3.1 us, tiles of one column. 4 and 16
// tokens: 197 and 458 us: arithmetic, not bytes. In bf16, the state takes 102 us, 63 %.
template <class StepSize, Index kKeyDim, int kColumns, bool kDeferred, class Sequences, class T,
          class State>
struct DecodeBody {
  using Tiling = ColumnTiling<kKeyDim, State>;
  using Tile = StateTile<Tiling, kColumns, State>;
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerSm = 4;  // bounds the registers to 128, which suffice
  static constexpr bool kStepsBesidePending = kDeferred;  // takes more registers: block/launch.cuh
  static constexpr int kBlockColumns = kThreads / Tiling::kLanes * kColumns;
  static constexpr int kSlab = Tiling::kPaddedKey <= 256 ? 16 : 4;  // tokens staged at a time
  static constexpr int kRow = (Tiling::kPaddedKey + 31) / 32;  // of a key row, per thread of a warp
  static_assert(kColumns <= Tiling::kLanes, "kla: each lane writes at most one column of o");

  struct Nothing {};
  struct Shared : std::conditional_t<kDeferred, PendingProducts<kSlab>, Nothing> {
    alignas(16) float q[kSlab][Tiling::kPaddedKey];  // q^
    alignas(16) float k[kSlab][Tiling::kPaddedKey];  // k~
    float v[kSlab][kBlockColumns];
    float decay[kSlab], step[kSlab], value_scale[kSlab], query_key[kSlab];
  };

  DecodeInputs<T> in;
  PoolView<State> pool;
  Sequences sequences;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    const auto value_dim = static_cast<std::uint32_t>(pool.value_dim);
    const std::uint32_t splits = (value_dim + kBlockColumns - 1) / kBlockColumns;
    const auto block_first = static_cast<int>(index % splits) * kBlockColumns;
    const std::uint32_t rest = index / splits;
    const auto head = static_cast<int>(rest % static_cast<std::uint32_t>(pool.value_heads));
    const SequenceEntry at = sequences.At(rest / static_cast<std::uint32_t>(pool.value_heads));
    if (at.slot < 0 || at.slot >= pool.slots || at.length <= 0) return;

    const Index pool_head = pool.HeadAt(at.slot, head);
    State* state = pool.states + pool_head * pool.value_dim * Tiling::kPaddedKey;
    // The loads of the first tokens go ahead of those of the tile, so that their norms are taken
    // while the tile is in flight.
    auto tile = block.template MakePrivate<Tile>();
    auto rows = block.template MakePrivate<Rows>();
    History history;
    if constexpr (kDeferred) history = GetHistory(pool, pool_head, block_first);
    block.ForEachThread([&](int thread) {
      LoadRows(at, 0, head, thread, rows[thread]);
      tile[thread].Load(state, FirstColumn(block_first, thread), pool.value_dim, Lane(thread));
    });
    if constexpr (kDeferred) {
      if (at.length == 1 && history.pending < pool.capacity && history.pending < kSlab) {
        StepBesidePending(block, *this, at, head, block_first, pool_head, history, tile, rows,
                          shared);
        if (block_first == 0) {
          Remember(block, shared, at, 0, 1, head,
                   pool.RowAt(pool_head, history.bank) + history.pending);
        }
        ++history.pending;
        SetHistory(block, pool, pool_head, block_first, kBlockColumns, history);
        return;
      }
    }
    // Calls of more tokens than there is room to remember write the state at once.
    const auto length = static_cast<int>(at.length);
    const bool remembers = kDeferred && length <= pool.capacity;
    if constexpr (kDeferred) {
      ReplayPending(block, pool_head, history, block_first, shared, tile);
      if (remembers && history.pending + length > pool.capacity) {
        StoreTile(block, state, block_first, tile);
        history = {1 - history.bank, 0};
      }
    }
    const Index row = kDeferred ? pool.RowAt(pool_head, history.bank) + history.pending : 0;
    KLA_NO_UNROLL
    for (int first = 0; first < length; first += kSlab) {
      const int count = length - first < kSlab ? length - first : kSlab;
      if (first > 0) block.Barrier();  // the slab before has been used
      Stage(block, at, first, count, head, block_first, rows, shared);
      block.Barrier();
      KLA_NO_UNROLL
      for (int token = 0; token < count; ++token) {
        Step<false>(block, shared, at, first + token, token, head, block_first,
                    remembers ? row + first + token : -1, 0, tile);
      }
      if (remembers && block_first == 0) Remember(block, shared, at, first, count, head, row);
    }
    if constexpr (kDeferred) {
      if (remembers) {
        history.pending += length;
      } else {
        history.pending = 0;
      }
      SetHistory(block, pool, pool_head, block_first, kBlockColumns, history);
    }
    if (!remembers) StoreTile(block, state, block_first, tile);
  }

  KLA_BLOCK_FUNCTION static int Lane(int thread) { return thread % Tiling::kLanes; }
  KLA_BLOCK_FUNCTION static int FirstColumn(int block_first, int thread) {
    return block_first + thread / Tiling::kLanes * kColumns;
  }

  // The parts of a step, of which StepBesidePending takes some.
  static constexpr int kWarps = kThreads / 32;

  // A row of q and of k, spread over a warp, and the token's gates.
  struct Rows {
    float q[kRow], k[kRow];
    float g, eta;
  };

  // Tokens [first, first + count) into shared memory, a warp each; the rows of tokens first to
  // first + kWarps - 1 have been loaded if these are the first of all.
  template <class Block, class PrivateRows>
  KLA_BLOCK_FUNCTION void Stage(const Block& block, const SequenceEntry& at, int first, int count,
                                int head, int block_first, PrivateRows& rows,
                                Shared& shared) const {
    block.ForEachThread([&](int thread) {
      KLA_NO_UNROLL  // from the last thread: the first warp is busy with the first token
          for (int i = kThreads - 1 - thread; i < count * kBlockColumns; i += kThreads) {
        const int token = i / kBlockColumns, column = i % kBlockColumns;
        const bool exists = block_first + column < pool.value_dim;
        const T* row = in.v + in.v_at.At(at.batch, at.begin + first + token, head) + block_first;
        shared.v[token][column] = exists ? static_cast<float>(row[column]) : 0.0f;
      }
    });
    KLA_NO_UNROLL
    for (int base = 0; base < count; base += kWarps) {
      auto sums = block.template MakePrivate<Sums<double, 3>>();  // |q|^2, |k|^2, q . k
      block.ForEachThread([&](int thread) {
        if (first + base > 0) LoadRows(at, first + base, head, thread, rows[thread]);
        SumRows(rows[thread], sums[thread]);
      });
      block.template GroupSum<32>(sums);
      block.ForEachThread([&](int thread) {
        const int token = base + thread / 32;
        if (token < count) StoreRows(rows[thread], sums[thread], thread % 32, token, shared);
      });
    }
  }

  // The rows of the token base + warp of a sequence, zeros beyond its end.
  KLA_BLOCK_FUNCTION void LoadRows(const SequenceEntry& at, int base, int head, int thread,
                                   Rows& rows) const {
    const int token = base + thread / 32;
    const bool exists = token < static_cast<int>(at.length);
    const int key_head = in.groups.KeyHeadOf(head), lane = thread % 32;
    const T* q = in.q + in.q_at.At(at.batch, at.begin + token, key_head);
    const T* k = in.k + in.k_at.At(at.batch, at.begin + token, key_head);
    KLA_UNROLL
    for (int r = 0; r < kRow; ++r) {
      const int key = lane + 32 * r;
      const bool inside = exists && key < pool.key_dim;
      rows.q[r] = inside ? static_cast<float>(q[key]) : 0.0f;
      rows.k[r] = inside ? static_cast<float>(k[key]) : 0.0f;
    }
    rows.g = exists ? in.g[in.g_at.At(at.batch, at.begin + token, head)] : 0.0f;
    rows.eta = exists ? in.eta[in.eta_at.At(at.batch, at.begin + token, head)] : 0.0f;
  }

  KLA_BLOCK_FUNCTION static void SumRows(const Rows& rows, Sums<double, 3>& sums) {
    for (double& sum : sums.value) sum = 0;
    KLA_UNROLL
    for (int r = 0; r < kRow; ++r) {
      const auto q = static_cast<double>(rows.q[r]), k = static_cast<double>(rows.k[r]);
      sums.value[0] += q * q;
      sums.value[1] += k * k;
      sums.value[2] += q * k;
    }
  }

  KLA_BLOCK_FUNCTION void StoreRows(const Rows& rows, const Sums<double, 3>& sums, int lane,
                                    int token, Shared& shared) const {
    const auto scales = UnitKey<StepSize>(static_cast<double>(rows.eta), sums.value[1], in.epsilon);
    const double query = StepSize::kNormalizeQuery ? InverseNorm(sums.value[0], in.epsilon) : 1.0;
    KLA_UNROLL
    for (int r = 0; r < kRow; ++r) {
      const int key = lane + 32 * r;
      if (key >= Tiling::kPaddedKey) continue;
      shared.q[token][key] = static_cast<float>(query * static_cast<double>(rows.q[r]));
      shared.k[token][key] = static_cast<float>(scales.key * static_cast<double>(rows.k[r]));
    }
    if (lane == 0) {
      shared.decay[token] = Decay(rows.g);
      shared.step[token] = static_cast<float>(scales.step);
      shared.value_scale[token] = static_cast<float>(scales.value);
      shared.query_key[token] = static_cast<float>(query * scales.key * sums.value[2]);
    }
  }

  // One token, from shared memory; its delta is remembered in `row`, unless that is -1. The tile is
  // brought up to date, or (kBesidePending) is the stored state, which stays as it is while
  // `pending` tokens add their part.
  template <bool kBesidePending, class Block, class Tiles>
  KLA_BLOCK_FUNCTION void Step(const Block& block, const Shared& shared, const SequenceEntry& at,
                               int t, int token, int head, int block_first, Index row, int pending,
                               Tiles& tile) const {
    auto sums = block.template MakePrivate<Sums<float, 2 * kColumns>>();
    block.ForEachThread([&](int thread) {
      tile[thread].Recall(shared.k[token], shared.q[token], Lane(thread), sums[thread]);
      if constexpr (kBesidePending) {
        for (float& sum : sums[thread].value) sum *= shared.stored_decay;
        KLA_NO_UNROLL
        for (int i = Lane(thread); i < pending; i += Tiling::kLanes) {
          KLA_UNROLL
          for (int c = 0; c < kColumns; ++c) {
            const float delta = shared.v[1 + i][FirstColumn(0, thread) + c];
            sums[thread].value[c] += shared.recall[i] * delta;
            sums[thread].value[kColumns + c] += shared.read[i] * delta;
          }
        }
      }
    });
    block.template GroupSum<Tiling::kLanes>(sums);
    const float a = shared.decay[token], b = shared.step[token];
    const float query_key = shared.query_key[token], value_scale = shared.value_scale[token];
    T* o = in.o + in.o_at.At(at.batch, at.begin + t, head);
    block.ForEachThread([&](int thread) {
      const int lane = Lane(thread), first = FirstColumn(block_first, thread);
      const float* v = &shared.v[token][first - block_first];
      const float* recalled = sums[thread].value;  // S^T k~, then S^T q^
      float delta[kColumns];
      float out = 0, own_delta = 0;  // of the column that this lane writes
      KLA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        delta[c] = b * (value_scale * v[c] - a * recalled[c]);
        const float read = in.scale * (a * recalled[kColumns + c] + query_key * delta[c]);
        if (lane == c) {
          out = read;
          own_delta = delta[c];
        }
      }
      if constexpr (!kBesidePending) tile[thread].Update(a, shared.k[token], delta, lane);
      if (lane < kColumns && first + lane < pool.value_dim) {
        o[first + lane] = static_cast<T>(out);
        if constexpr (kDeferred) {
          if (row >= 0) pool.deltas[row * pool.value_dim + first + lane] = own_delta;
        }
      }
    });
  }

  // Brings the tile up to date with its pending tokens, a slab of them at a time from shared
  // memory:
  //   S <- exp(G) S + sum_i exp(G - G_i) k~_i delta_i^T,   G the decay of the slab
  template <class Block, class Tiles>
  KLA_BLOCK_FUNCTION void ReplayPending(const Block& block, Index pool_head, const History& history,
                                        int block_first, Shared& shared, Tiles& tile) const {
    KLA_NO_UNROLL
    for (int first = 0; first < history.pending; first += kSlab) {
      const int count = history.pending - first < kSlab ? history.pending - first : kSlab;
      const Index row = pool.RowAt(pool_head, history.bank) + first;
      CopyPending<DecodeBody>(block, pool, row, count, block_first, 0, shared, shared.step);
      WaitForCopies();
      block.Barrier();
      block.ForEachThread([&](int thread) {
        if (thread >= count) return;
        double rest = 0;  // G - G_i
        for (int i = thread + 1; i < count; ++i) {
          rest += ClampLogDecay(static_cast<double>(shared.step[i]));
        }
        shared.decay[thread] = Decay(static_cast<float>(rest));
        rest += ClampLogDecay(static_cast<double>(shared.step[0]));
        if (thread == 0) shared.value_scale[0] = Decay(static_cast<float>(rest));
      });
      block.Barrier();
      block.ForEachThread([&](int thread) {
        const int own = FirstColumn(0, thread);
        tile[thread].Scale(shared.value_scale[0]);
        KLA_NO_UNROLL
        for (int i = 0; i < count; ++i) {
          float weighted[kColumns];
          KLA_UNROLL
          for (int c = 0; c < kColumns; ++c) weighted[c] = shared.decay[i] * shared.v[i][own + c];
          tile[thread].Update(1.0f, shared.k[i], weighted, Lane(thread));
        }
      });
      block.Barrier();  // before the next slab, or the tokens of this call, take the room
    }
  }

  // k~ and g of tokens [first, first + count), for later replays.
  template <class Block>
  KLA_BLOCK_FUNCTION void Remember(const Block& block, const Shared& shared,
                                   const SequenceEntry& at, int first, int count, int head,
                                   Index row) const {
    block.ForEachThread([&](int thread) {
      KLA_NO_UNROLL
      for (int i = thread; i < count * Tiling::kPaddedKey; i += kThreads) {
        pool.keys[(row + first) * Tiling::kPaddedKey + i] =
            shared.k[i / Tiling::kPaddedKey][i % Tiling::kPaddedKey];
      }
      if (thread < count) {
        const Index token = at.begin + first + thread;
        pool.log_decay[row + first + thread] = in.g[in.g_at.At(at.batch, token, head)];
      }
    });
  }

  template <class Block, class Tiles>
  KLA_BLOCK_FUNCTION void StoreTile(const Block& block, State* state, int block_first,
                                    Tiles& tile) const {
    block.ForEachThread([&](int thread) {
      tile[thread].Store(state, FirstColumn(block_first, thread), pool.value_dim, Lane(thread));
    });
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_KERNEL_H_
