// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: everything of a chunk that does not depend on the state, all chunks in
// parallel.
#ifndef KLA_BACKEND_CUDA_CHUNK_PREPARE_H_
#define KLA_BACKEND_CUDA_CHUNK_PREPARE_H_

#include "kla/backend/cuda/chunk/rows.h"
#include "kla/backend/cuda/chunk/types.h"

namespace kla::internal::device {

// A block for each chunk and key head:
//   k^, q^ [C, K]                                       rows scaled to near 1
// and for each value head that reads them, from K^ K^T and Q^ K^T computed once:
//   A = StrictLower(b K~ K~^T * D)    T = (I + A)^-1    P = s Lower(Q~ K~^T * D)    [C, C]
//
// H200, bf16, 128/128, 16/64 heads, 1x32K: 1.2 GB, floor 0.29 ms; 0.515 ms, 1.8 x the floor. Bound
// by the issue of instructions (12 warps a multiprocessor), most of them for A, P and the inverse.
template <class C>
struct PrepareChunks {
  static constexpr int kGroups = 1, kThreads = 128,
                       kBlocksPerSm = C::kTerms > 1       ? 1
                                      : C::kKeyDim <= 128 ? 3
                                                          : 2;
  using T = typename C::T;
  using E = typename C::E;
  using Square = tile::RegisterTile<kChunkRows>;
  // Rows that are one term as they are go to shared memory whole, all in flight at once. Others are
  // read where they lie, and become terms a panel of columns after the other.
  static constexpr bool kRowsAreTerms = std::is_same_v<T, E> && C::kTerms == 1;
  static constexpr int kWidth = kRowsAreTerms ? C::kKeyDim : C::KeyTile::kPanel;
  static constexpr int kBatch = 4;  // value heads whose scalars are made at once
  static constexpr bool kOwnOverlaps = C::kTerms == 1;  // room for B beside T
  using Panel = tile::Operand<E, C::kTerms, kChunkRows, kWidth>;
  struct Rows {  // until the products of rows are in registers
    alignas(1024) E keys[Panel::kSize];
    alignas(1024) E queries[Panel::kSize];
  };
  struct Squares {  // from then on
    alignas(1024) E inverse[C::SquareTile::kSize];
    alignas(1024) E scores[C::SquareTile::kSize];
    alignas(1024) E overlaps[kOwnOverlaps ? C::SquareTile::kSize : 8];
    tile::InverseScratch scratch;
  };
  struct Shared {
    union {
      Rows rows;
      Squares squares;
    };
    alignas(16) ChunkNorms norms;
    alignas(16) ChunkScalars scalars[kBatch];
    double log_decay[kBatch][kChunkRows];
    float g[kBatch][kChunkRows], eta[kBatch][kChunkRows];
  };

  ChunkMap map;
  HeadMap heads;
  tile::TokenRows<const T> q, k;
  GateRows g, eta;
  double scale, epsilon;
  Prepared<typename C::E> out;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const Index chunk = Quotient(block.index(), heads.key_heads);
    const Index head = block.index() - chunk * heads.key_heads;
    const ChunkSpan span = map.SpanOf(map.SequenceOf(chunk), chunk);
    const int group_size = static_cast<int>(heads.GroupSize());
    Square kk, qk;
    kk.Fill(0.0f);
    qk.Fill(0.0f);
    LoadGates(block, shared, span, head, 0);
    if constexpr (kRowsAreTerms) {
      WholeRows(block, shared, span, head, kk, qk);
    } else {
      Panels(block, shared, span, head, kk, qk);
    }
    block.StoreBulk(reinterpret_cast<float*>(out.norms + block.index()),
                    reinterpret_cast<const float*>(&shared.norms), sizeof(ChunkNorms));
    for (int i = 0; i < group_size; ++i) {
      if (i % kBatch == 0) {
        if (i > 0) {
          LoadGates(block, shared, span, head, i);
          block.CommitCopies();
          block.template WaitCopies<0>();
          block.WaitStores();
          block.Barrier();
        }
        Scalars(block, shared, span, group_size - i < kBatch ? group_size - i : kBatch);
      }
      const Index index = chunk * heads.value_heads + heads.ValueHeadOf(head, i);
      ValueHead(block, shared, shared.scalars[i % kBatch], index, kk, qk);
    }
    block.WaitStores();
  }

 private:
  template <class Block>
  KLA_TILE_FUNCTION void WholeRows(const Block& block, Shared& shared, const ChunkSpan& span,
                                   Index head, Square& kk, Square& qk) const {
    const Panel keys{shared.rows.keys}, queries{shared.rows.queries};
    LoadHeadRows(block, k, span, head, keys);
    LoadHeadRows(block, q, span, head, queries);
    block.CommitCopies();
    block.template WaitCopies<0>();
    block.Barrier();
    const auto from = [](const Panel& rows) {
      return [=](int row, int column, float(&x)[8]) {
        tile::LoadUnit(rows.data + rows.Offset(row, column), true, x);
      };
    };
    ChunkNorms& norms = shared.norms;
    MeasureRows<C::kKeyDim>(block, from(keys), norms.key_norm2, norms.key_down, keys);
    MeasureRows<C::kKeyDim>(block, from(queries), norms.query_norm2, norms.query_down, queries);
    block.Barrier();
    block.StoreBulk(out.keys + block.index() * keys.kSize, keys.data, keys.kBytes);
    block.StoreBulk(out.queries + block.index() * keys.kSize, queries.data, keys.kBytes);
    MultiplyTransposed(kk, tile::LoadOperand<kWidth>(keys), keys);
    MultiplyTransposed(qk, tile::LoadOperand<kWidth>(queries), keys);
    block.WaitStores();
    block.Barrier();
  }

  template <class Block>
  KLA_TILE_FUNCTION void Panels(const Block& block, Shared& shared, const ChunkSpan& span,
                                Index head, Square& kk, Square& qk) const {
    const Panel keys{shared.rows.keys}, queries{shared.rows.queries};
    const auto from = [&](const tile::TokenRows<const T>& rows) {
      const T* first = rows.At(span.batch, span.begin, head);
      return [=](int row, int column, float(&x)[8]) {
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) x[e] = 0.0f;
        if (row < span.count) tile::LoadUnit(first + row * rows.time + column, rows.aligned, x);
      };
    };
    const auto key_rows = from(k), query_rows = from(q);
    ChunkNorms& norms = shared.norms;
    MeasureRows<C::kKeyDim>(block, key_rows, norms.key_norm2, norms.key_down);
    MeasureRows<C::kKeyDim>(block, query_rows, norms.query_norm2, norms.query_down);
    block.CommitCopies();
    block.template WaitCopies<0>();
    block.Barrier();
    for (int column = 0; column < C::kKeyDim; column += kWidth) {
      block.template ForEach<kChunkRows*(kWidth / 8)>([&](int i) {
        const int row = i / (kWidth / 8), in_panel = i % (kWidth / 8) * 8;
        float x[8];
        key_rows(row, column + in_panel, x);
        StoreScaled(keys, row, in_panel, norms.key_down[row], x);
        query_rows(row, column + in_panel, x);
        StoreScaled(queries, row, in_panel, norms.query_down[row], x);
      });
      block.Barrier();
      for (int t = 0; t < C::kTerms; ++t) {
        const Index to =
            block.index() * C::KeyTile::kSize + t * C::KeyTile::kTermSize + column * kChunkRows;
        block.StoreBulk(out.keys + to, keys.data + t * keys.kTermSize, keys.kTermSize * 2);
        block.StoreBulk(out.queries + to, queries.data + t * keys.kTermSize, keys.kTermSize * 2);
      }
      MultiplyTransposed(kk, tile::LoadOperand<kWidth>(keys), keys);
      MultiplyTransposed(qk, tile::LoadOperand<kWidth>(queries), keys);
      block.WaitStores();
      block.Barrier();
    }
  }

  // g and eta of the value heads `first`, first + 1, ... of a key head.
  template <class Block>
  KLA_TILE_FUNCTION void LoadGates(const Block& block, Shared& shared, const ChunkSpan& span,
                                   Index head, int first) const {
    const int left = static_cast<int>(heads.GroupSize()) - first;
    block.ForEach((left < kBatch ? left : kBatch) * kChunkRows, [&](int i) {
      const int slot = i / kChunkRows, row = i % kChunkRows;
      const Index value_head = heads.ValueHeadOf(head, first + slot);
      const Index t = span.begin + (row < span.count ? row : 0);
      block.CopyWordAsync(&shared.g[slot][row], g.Row(span.batch, t, value_head));
      block.CopyWordAsync(&shared.eta[slot][row], eta.Row(span.batch, t, value_head));
    });
  }

  // Every scalar of the chunk, for `count` value heads.
  template <class Block>
  KLA_TILE_FUNCTION void Scalars(const Block& block, Shared& shared, const ChunkSpan& span,
                                 int count) const {
    block.ForEach(count * kChunkRows, [&](int n) {
      const int slot = n / kChunkRows, i = n % kChunkRows;
      shared.log_decay[slot][i] = Log2Decay(shared.g[slot][i], i < span.count);
    });
    block.Barrier();
    block.CumulativeSums(shared.log_decay, count);
    block.Barrier();
    block.ForEach(count * kChunkRows, [&](int n) {
      const int slot = n / kChunkRows, i = n % kChunkRows;
      ChunkScalars& s = shared.scalars[slot];
      const RowFactors row =
          SetScalars<typename C::StepSize>(shared.norms, i, i < span.count, shared.eta[slot][i],
                                           shared.log_decay[slot], scale, epsilon, s, s.walk);
      s.value[i] = row.value;
      s.to_end[i] = row.to_end;
      s.gamma[i] = row.gamma;
      s.g[i] = shared.g[slot][i];
      s.eta[i] = shared.eta[slot][i];
    });
    block.Barrier();
  }

  template <class Block>
  KLA_TILE_FUNCTION void ValueHead(const Block& block, Shared& shared, const ChunkScalars& s,
                                   Index index, const Square& kk, const Square& qk) const {
    using Tile = typename C::SquareTile;
    const Tile inverse{shared.squares.inverse}, scores{shared.squares.scores};
    const Tile overlaps{kOwnOverlaps ? shared.squares.overlaps : shared.squares.inverse};
    Square a = kk, p = qk;
    LowerSquares(s, static_cast<float>(scale), a, p);
    block.WaitStores();  // of the value head before
    block.Barrier();
    tile::StoreOperand(tile::ToOperand<E, C::kTerms>(p, tile::Identity{}), scores);
    if (out.overlaps != nullptr) {
      tile::StoreOperand(tile::ToOperand<E, C::kTerms>(a, tile::Identity{}), overlaps);
      if constexpr (!kOwnOverlaps) {
        block.Barrier();
        block.StoreBulk(out.overlaps + index * Tile::kSize, overlaps.data, Tile::kBytes);
        block.WaitStores();
        block.Barrier();
      }
    }
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.step[at.row]; }, a);
    tile::InvertUnitLower(block, a, shared.squares.scratch, inverse);
    block.Barrier();
    block.StoreBulk(out.inverse + index * Tile::kSize, inverse.data, Tile::kBytes);
    block.StoreBulk(out.scores + index * Tile::kSize, scores.data, Tile::kBytes);
    if (kOwnOverlaps && out.overlaps != nullptr) {
      block.StoreBulk(out.overlaps + index * Tile::kSize, overlaps.data, Tile::kBytes);
    }
    block.StoreBulk(reinterpret_cast<float*>(out.scalars + index),
                    reinterpret_cast<const float*>(&s), sizeof(ChunkScalars));
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_PREPARE_H_
