// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: one token with deferred writes: the stored state is read and left as it is.
#ifndef KLA_BACKEND_CUDA_DECODE_DEFERRED_H_
#define KLA_BACKEND_CUDA_DECODE_DEFERRED_H_

#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/decode/state_tile.h"
#include "kla/core/scalar.h"
#include "kla/math/decay.h"

namespace kla::internal::device {

// What the pending tokens add to S^T k~ and S^T q^ of a new token. With
//   S = exp(G) S_stored + sum_i w_i k~_i delta_i^T,   w_i = exp(G - G_i)
// it is
//   S^T k~ = exp(G) S_stored^T k~ + sum_i recall_i delta_i,   recall_i = w_i (k~_i . k~)
// and the same for q^ with read_i, so that a pending token costs 2 K products for a thread block
// and 2 for each of its columns. Bringing the state up to date instead costs K for each column.
template <int kMost>
struct PendingProducts {
  float log_decay[kMost], recall[kMost], read[kMost];
  float stored_decay;  // exp(G)
};

// Pending tokens [row, row + count) of the pool into shared memory, from row `to` of its arrays on.
// Complete after WaitForCopies and a barrier.
template <class Body, class Block, class Pool>
KLA_BLOCK_FUNCTION void CopyPending(const Block& block, const Pool& pool, Index row, int count,
                                    int block_first, int to, typename Body::Shared& shared,
                                    float* log_decay) {
  constexpr int kThreads = Body::kThreads, kColumns = Body::kBlockColumns;
  constexpr int kPaddedKey = Body::Tiling::kPaddedKey, kQuads = kPaddedKey / 4;
  block.ForEachThread([&](int thread) {
    const float* keys = pool.keys + row * kPaddedKey;
    KLA_NO_UNROLL
    for (int i = thread; i < count * kQuads; i += kThreads) {
      CopyToShared<16>(keys + 4 * i, &shared.k[to + i / kQuads][i % kQuads * 4]);
    }
    const float* deltas = pool.deltas + row * pool.value_dim + block_first;
    KLA_NO_UNROLL
    for (int i = thread; i < count * kColumns; i += kThreads) {
      const int token = i / kColumns, column = i % kColumns;
      if (block_first + column < pool.value_dim) {
        CopyToShared<4>(deltas + token * pool.value_dim + column, &shared.v[to + token][column]);
      } else {
        shared.v[to + token][column] = 0.0f;
      }
    }
    if (thread < count) CopyToShared<4>(&pool.log_decay[row + thread], &log_decay[thread]);
  });
}

// One token of a sequence with fewer than Body::kSlab pending ones and room for another; `tile` and
// `rows` have been asked for. Row 0 of the shared arrays is the token's; the pending ones take the
// rows behind it.
template <class Block, class Body, class Tiles, class PrivateRows>
KLA_BLOCK_FUNCTION void StepBesidePending(const Block& block, const Body& body,
                                          const SequenceEntry& at, int head, int block_first,
                                          Index pool_head, const History& history, Tiles& tile,
                                          PrivateRows& rows, typename Body::Shared& shared) {
  using Tiling = typename Body::Tiling;
  constexpr int kThreads = Body::kThreads, kWarps = kThreads / 32, kRow = Body::kRow;
  constexpr int kPerWarp = (Body::kSlab + kWarps - 1) / kWarps;
  const auto& pool = body.pool;
  const int count = history.pending;
  const Index row = pool.RowAt(pool_head, history.bank);

  CopyPending<Body>(block, pool, row, count, block_first, 1, shared, shared.log_decay);
  body.Stage(block, at, 0, 1, head, block_first, rows, shared);
  WaitForCopies();
  block.Barrier();

  auto products = block.template MakePrivate<Sums<float, 2 * kPerWarp>>();
  block.ForEachThread([&](int thread) {
    KLA_UNROLL
    for (int own = 0; own < kPerWarp; ++own) {
      const int i = thread / 32 + own * kWarps;
      float recall = 0.0f, read = 0.0f;
      KLA_UNROLL
      for (int r = 0; r < kRow; ++r) {
        const int key = thread % 32 + 32 * r;
        if (i >= count || key >= Tiling::kPaddedKey) continue;
        recall += shared.k[1 + i][key] * shared.k[0][key];
        read += shared.k[1 + i][key] * shared.q[0][key];
      }
      products[thread].value[2 * own] = recall;
      products[thread].value[2 * own + 1] = read;
    }
  });
  block.template GroupSum<32>(products);
  block.ForEachThread([&](int thread) {
    // Thread `own` of a warp weights the warp's own-th token; the block's last thread has G.
    const int own = thread % 32, i = thread / 32 + own * kWarps;
    const bool weights = own < kPerWarp && i < count, is_last = thread == kThreads - 1;
    if (!weights && !is_last) return;
    double rest = 0;  // G - G_i
    KLA_NO_UNROLL
    for (int j = weights ? i + 1 : 0; j < count; ++j) {
      rest += ClampLogDecay(static_cast<double>(shared.log_decay[j]));
    }
    const float w = Decay(static_cast<float>(rest));
    KLA_UNROLL
    for (int p = 0; p < kPerWarp; ++p) {
      if (!weights || p != own) continue;
      shared.recall[i] = w * products[thread].value[2 * p];
      shared.read[i] = w * products[thread].value[2 * p + 1];
    }
    if (is_last) shared.stored_decay = w;
  });
  block.Barrier();

  body.template Step<true>(block, shared, at, 0, 0, head, block_first, row + count, count, tile);
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_DEFERRED_H_
