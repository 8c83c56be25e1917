// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: everything of a chunk that does not depend on the state, all chunks in
// parallel.
#ifndef KLA_BACKEND_CUDA_CHUNK_PREPARE_H_
#define KLA_BACKEND_CUDA_CHUNK_PREPARE_H_

#include "kla/backend/cuda/chunk/types.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// A block for each chunk and key head:
//   k^, q^ [C, K]                                       rows scaled to near 1
// and for each value head that reads them, from K^ K^T and Q^ K^T computed once:
//   A = StrictLower(b K~ K~^T * D)    T = (I + A)^-1    P = s Lower(Q~ K~^T * D)    [C, C]
//
// H200, bf16, 128/128, 16/64 heads, 1x32K: 1.2 GB, floor 0.29 ms; 0.55 ms, 1.9 x the floor. Bound
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
    LoadRows(block, k, span, head, keys);
    LoadRows(block, q, span, head, queries);
    block.CommitCopies();
    block.template WaitCopies<0>();
    block.Barrier();
    const auto from = [](const Panel& rows) {
      return [=](int row, int column, float(&x)[8]) {
        tile::LoadUnit(rows.data + rows.Offset(row, column), true, x);
      };
    };
    ChunkNorms& norms = shared.norms;
    Measure(block, from(keys), norms.key_norm2, norms.key_down, keys);
    Measure(block, from(queries), norms.query_norm2, norms.query_down, queries);
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
    Measure(block, key_rows, norms.key_norm2, norms.key_down);
    Measure(block, query_rows, norms.query_norm2, norms.query_down);
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

  template <class Block>
  KLA_TILE_FUNCTION void LoadRows(const Block& block, const tile::TokenRows<const T>& rows,
                                  const ChunkSpan& span, Index head, const Panel& to) const {
    constexpr int kUnits = kWidth / 8;
    const T* first = rows.At(span.batch, span.begin, head);
    block.template ForEach<kChunkRows * kUnits>([&](int i) {
      const int row = i / kUnits, column = i % kUnits * 8;
      const T* from = first + row * rows.time + column;
      if (row < span.count && rows.aligned) {
        block.CopyUnitAsync(to.data + to.Offset(row, column), from);
        return;
      }
      float x[8] = {};
      if (row < span.count) tile::LoadUnit(from, false, x);
      tile::StoreTerms(to, row, column, x);
    });
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

  KLA_TILE_FUNCTION static void StoreScaled(const Panel& to, int row, int column, float factor,
                                            float (&x)[8]) {
    KLA_TILE_UNROLL
    for (int e = 0; e < 8; ++e) x[e] *= factor;
    tile::StoreTerms(to, row, column, x);
  }

  // |x|^2 of each row and the power of two that brings it near 1; given tiles, also scales the
  // rows.
  template <class Block, class Load, class... To>
  KLA_TILE_FUNCTION void Measure(const Block& block, const Load& load, double* norm2, float* down,
                                 const To&... to) const {
    block.ForEachRow([&](int row, const auto& lanes) {
      float x[8], largest = 0, sum = 0;
      KLA_TILE_UNROLL
      for (int c = lanes.index * 8; c < C::kKeyDim; c += lanes.kCount * 8) {
        load(row, c, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) largest = fmaxf(largest, fabsf(x[e]));
      }
      const float factor = tile::PowerOfTwoNear1(lanes.Max(largest));
      KLA_TILE_UNROLL
      for (int c = lanes.index * 8; c < C::kKeyDim; c += lanes.kCount * 8) {
        load(row, c, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) {
          const float scaled = x[e] * factor;
          sum += scaled * scaled;
        }
        (StoreScaled(to, row, c, factor, x), ...);
      }
      sum = lanes.Sum(sum);
      if (lanes.index == 0) {
        const double up = tile::InverseOfPowerOfTwo(factor);
        norm2[row] = static_cast<double>(sum) * up * up;
        down[row] = factor;
      }
    });
  }

  // Every scalar of the chunk, for `count` value heads.
  template <class Block>
  KLA_TILE_FUNCTION void Scalars(const Block& block, Shared& shared, const ChunkSpan& span,
                                 int count) const {
    constexpr double kPerLog2 = 1.44269504088896340736;  // 1 / ln 2
    block.ForEach(count * kChunkRows, [&](int n) {
      const int slot = n / kChunkRows, i = n % kChunkRows;
      const double g_i = i < span.count ? static_cast<double>(shared.g[slot][i]) : 0.0;
      shared.log_decay[slot][i] = ClampLogDecay(g_i) * kPerLog2;
    });
    block.Barrier();
    block.CumulativeSums(shared.log_decay, count);
    block.Barrier();
    block.ForEach(count * kChunkRows, [&](int n) {
      const int slot = n / kChunkRows, i = n % kChunkRows;
      ChunkScalars& s = shared.scalars[slot];
      const bool inside = i < span.count;
      const ChunkNorms& norms = shared.norms;
      const auto unit = UnitKey<typename C::StepSize>(static_cast<double>(shared.eta[slot][i]),
                                                      norms.key_norm2[i], epsilon);
      const double query =
          C::StepSize::kNormalizeQuery ? InverseNorm(norms.query_norm2[i], epsilon) : 1.0;
      const double log = shared.log_decay[slot][i];
      const float b = inside ? static_cast<float>(unit.step) : 0.0f;
      s.step[i] = b;
      const double key_up = tile::InverseOfPowerOfTwo(norms.key_down[i]);
      // A zero key stays zero; r = eps^(-1/2) would only carry float16 out of its range.
      s.key[i] = norms.key_norm2[i] > 0.0 ? static_cast<float>(unit.key * key_up) : 0.0f;
      s.query[i] = static_cast<float>(query * tile::InverseOfPowerOfTwo(norms.query_down[i]));
      s.value[i] = static_cast<float>(unit.value);
      s.log_high[i] = static_cast<float>(log);
      s.log_low[i] = static_cast<float>(log - s.log_high[i]);
      const float gamma = tile::Exp2(s.log_high[i]) * tile::Exp2(s.log_low[i]);
      s.to_end[i] = tile::Exp2(static_cast<float>(shared.log_decay[slot][kChunkRows - 1] - log));
      s.walk.recall[i] = b * gamma * s.key[i];
      s.walk.given[i] = b * s.value[i];
      s.walk.out[i] = static_cast<float>(scale) * gamma * s.query[i];
      s.walk.write[i] = s.to_end[i] * s.key[i];
      s.walk.gamma[i] = gamma;
      s.gamma[i] = gamma;
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
    const float output_scale = static_cast<float>(scale);
    tile::ForEachLowerElement(
        [&](const tile::Place& at, float& a_ij, float& p_ij) {
          const int i = at.row, j = at.column;
          const float decay = DecayBetweenRows(s, i, j) * s.key[j];
          const float a_inside = a_ij * (decay * s.key[i]);
          const float p_inside = p_ij * (decay * s.query[i]) * output_scale;
          a_ij = i > j ? a_inside : 0.0f;
          p_ij = i >= j ? p_inside : 0.0f;
        },
        a, p);
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
