// SPDX-License-Identifier: Apache-2.0
// backend/cuda: everything of a chunk that does not depend on the state, all chunks in parallel.
#ifndef KLA_BACKEND_CUDA_CHUNK_PREPARE_H_
#define KLA_BACKEND_CUDA_CHUNK_PREPARE_H_

#include "kla/backend/cuda/chunk_types.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::device {

// A block for each chunk and key head:
//   k^, q^ [C, K]                                       rows scaled to near 1
// and for each value head that reads them, from K^ K^T and Q^ K^T computed once:
//   A = StrictLower(b K~ K~^T * D)    T = (I + A)^-1    P = s Lower(Q~ K~^T * D)    [C, C]
template <class C>
struct PrepareChunks {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = C::kTerms == 1 ? 3 : 1;
  using T = typename C::T;
  using E = typename C::E;
  using Square = tile::RegisterTile<kChunkRows>;
  static constexpr int kGateHeads = 8;  // whose gates are fetched at once
  struct Rows {                         // until the products of rows are in registers
    alignas(1024) E keys[C::KeyTile::kSize];
    alignas(1024) E queries[C::KeyTile::kSize];
  };
  struct Squares {  // from then on
    alignas(1024) E inverse[C::SquareTile::kSize];
    alignas(1024) E scores[C::SquareTile::kSize];
    tile::InverseScratch scratch;
  };
  struct Shared {
    union {
      Rows rows;
      Squares squares;
    };
    ChunkNorms norms;
    ChunkScalars scalars;
    double log_decay[kChunkRows];
    float g[kGateHeads][kChunkRows], eta[kGateHeads][kChunkRows];
  };

  ChunkMap map;
  HeadMap heads;
  tile::TokenRows<const T> q, k;
  GateRows g, eta;
  double scale, epsilon;
  Prepared<typename C::E> out;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const Index chunk = block.index() / heads.key_heads, head = block.index() % heads.key_heads;
    const ChunkSpan span = map.SpanOf(map.SequenceOf(chunk), chunk);
    const typename C::KeyTile keys{shared.rows.keys}, queries{shared.rows.queries};
    LoadRows(block, k, span, head, keys);
    LoadRows(block, q, span, head, queries);
    LoadGates(block, shared, span, head, 0);
    block.CommitCopies();
    block.template WaitCopies<0>();
    block.Barrier();
    ScaleRows(block, k, span, head, keys, shared.norms.key_norm2, shared.norms.key_down);
    ScaleRows(block, q, span, head, queries, shared.norms.query_norm2, shared.norms.query_down);
    block.Barrier();
    block.Copy(out.keys + block.index() * keys.kSize, keys.data, keys.kBytes);
    block.Copy(out.queries + block.index() * keys.kSize, queries.data, keys.kBytes);
    block.Copy(reinterpret_cast<float*>(out.norms + block.index()),
               reinterpret_cast<const float*>(&shared.norms), sizeof(ChunkNorms));

    Square kk, qk;
    kk.Fill(0.0f);
    qk.Fill(0.0f);
    MultiplyTransposed(kk, tile::LoadOperand<C::kKeyDim>(keys), keys);
    MultiplyTransposed(qk, tile::LoadOperand<C::kKeyDim>(queries), keys);
    block.Barrier();
    for (Index i = 0; i < heads.GroupSize(); ++i) {
      if (i > 0 && i % kGateHeads == 0) {
        LoadGates(block, shared, span, head, i);
        block.CommitCopies();
        block.template WaitCopies<0>();
        block.Barrier();
      }
      ValueHead(block, shared, span, chunk, heads.ValueHeadOf(head, i),
                static_cast<int>(i % kGateHeads), kk, qk);
    }
  }

 private:
  // Rows that are one term as they are go to shared memory first, all in flight at once; others are
  // read where they lie.
  static constexpr bool kRowsAreTerms = std::is_same_v<T, E> && C::kTerms == 1;

  template <class Block>
  KLA_TILE_FUNCTION void LoadRows(const Block& block, const tile::TokenRows<const T>& rows,
                                  const ChunkSpan& span, Index head,
                                  const typename C::KeyTile& to) const {
    if constexpr (kRowsAreTerms) {
      constexpr int kUnits = C::kKeyDim / 8;
      const T* first = rows.At(span.batch, span.begin, head);
      block.ForEach(kChunkRows * kUnits, [&](int i) {
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
  }

  // g and eta of the value heads `first`, first + 1, ... of a key head.
  template <class Block>
  KLA_TILE_FUNCTION void LoadGates(const Block& block, Shared& shared, const ChunkSpan& span,
                                   Index head, Index first) const {
    const Index left = heads.GroupSize() - first;
    const int count = left < kGateHeads ? static_cast<int>(left) : kGateHeads;
    block.ForEach(count * kChunkRows, [&](int i) {
      const int slot = i / kChunkRows, row = i % kChunkRows;
      const Index value_head = heads.ValueHeadOf(head, first + slot);
      const Index t = span.begin + (row < span.count ? row : 0);
      block.CopyWordAsync(&shared.g[slot][row], g.Row(span.batch, t, value_head));
      block.CopyWordAsync(&shared.eta[slot][row], eta.Row(span.batch, t, value_head));
    });
  }

  template <class Block>
  KLA_TILE_FUNCTION void ScaleRows(const Block& block, const tile::TokenRows<const T>& rows,
                                   const ChunkSpan& span, Index head, const typename C::KeyTile& to,
                                   double* norm2, float* down) const {
    block.ForEachRow([&](int row, const auto& lanes) {
      const bool inside = row < span.count;
      const T* from = rows.At(span.batch, span.begin + (inside ? row : 0), head);
      const auto load = [&](int column, float(&x)[8]) {
        if constexpr (kRowsAreTerms) {
          tile::LoadUnit(to.data + to.Offset(row, column), true, x);
        } else {
          if (inside) tile::LoadUnit(from + column, rows.aligned, x);
        }
      };
      float x[8] = {}, largest = 0, sum = 0;
      KLA_TILE_UNROLL
      for (int c = lanes.index * 8; c < C::kKeyDim; c += lanes.kCount * 8) {
        load(c, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) largest = fmaxf(largest, fabsf(x[e]));
      }
      const float factor = tile::PowerOfTwoNear1(lanes.Max(largest));
      KLA_TILE_UNROLL
      for (int c = lanes.index * 8; c < C::kKeyDim; c += lanes.kCount * 8) {
        load(c, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) {
          x[e] *= factor;
          sum += x[e] * x[e];
        }
        tile::StoreTerms(to, row, c, x);
      }
      sum = lanes.Sum(sum);
      if (lanes.index == 0) {
        norm2[row] = static_cast<double>(sum) / factor / factor;
        down[row] = factor;
      }
    });
  }

  // s.log_decay, then every scalar of the chunk.
  template <class Block>
  KLA_TILE_FUNCTION void Scalars(const Block& block, Shared& shared, const ChunkSpan& span,
                                 int slot) const {
    constexpr double kPerLog2 = 1.44269504088896340736;  // 1 / ln 2
    ChunkScalars& s = shared.scalars;
    block.ForEach(kChunkRows, [&](int i) {
      const double g_i = i < span.count ? static_cast<double>(shared.g[slot][i]) : 0.0;
      shared.log_decay[i] = ClampLogDecay(g_i) * kPerLog2;
    });
    block.Barrier();
    block.CumulativeSum(shared.log_decay);
    block.Barrier();
    block.ForEach(kChunkRows, [&](int i) {
      const bool inside = i < span.count;
      const ChunkNorms& norms = shared.norms;
      const auto unit = UnitKey<typename C::StepSize>(static_cast<double>(shared.eta[slot][i]),
                                                      norms.key_norm2[i], epsilon);
      const double query =
          C::StepSize::kNormalizeQuery ? InverseNorm(norms.query_norm2[i], epsilon) : 1.0;
      const double log = shared.log_decay[i];
      const float b = inside ? static_cast<float>(unit.step) : 0.0f;
      s.step[i] = b;
      // A zero key stays zero; r = eps^(-1/2) would only carry float16 out of its range.
      s.key[i] = norms.key_norm2[i] > 0.0 ? static_cast<float>(unit.key / norms.key_down[i]) : 0.0f;
      s.query[i] = static_cast<float>(query / norms.query_down[i]);
      s.value[i] = static_cast<float>(unit.value);
      s.log_high[i] = static_cast<float>(log);
      s.log_low[i] = static_cast<float>(log - s.log_high[i]);
      const float gamma = tile::Exp2(s.log_high[i]) * tile::Exp2(s.log_low[i]);
      s.to_end[i] = tile::Exp2(static_cast<float>(shared.log_decay[kChunkRows - 1] - log));
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
  KLA_TILE_FUNCTION void ValueHead(const Block& block, Shared& shared, const ChunkSpan& span,
                                   Index chunk, Index value_head, int slot, const Square& kk,
                                   const Square& qk) const {
    const Index index = chunk * heads.value_heads + value_head;
    const typename C::SquareTile inverse{shared.squares.inverse}, scores{shared.squares.scores};
    Scalars(block, shared, span, slot);
    const ChunkScalars& s = shared.scalars;
    block.Copy(reinterpret_cast<float*>(out.scalars + index), reinterpret_cast<const float*>(&s),
               sizeof(ChunkScalars));
    Square a = kk, p = qk;
    const float output_scale = static_cast<float>(scale);
    tile::ForEachElement(
        [&](const tile::Place& at, float& a_ij, float& p_ij) {
          const int i = at.row, j = at.column;
          const float decay = i >= j ? DecayBetweenRows(s, i, j) * s.key[j] : 0.0f;
          a_ij = i > j ? a_ij * (decay * s.key[i]) : 0.0f;
          p_ij = i >= j ? p_ij * (decay * s.query[i]) * output_scale : 0.0f;
        },
        a, p);
    tile::StoreOperand(tile::ToOperand<E, C::kTerms>(p, tile::Identity{}), scores);
    if (out.overlaps != nullptr) {
      tile::StoreOperand(tile::ToOperand<E, C::kTerms>(a, tile::Identity{}), inverse);
      block.Barrier();
      block.Copy(out.overlaps + index * inverse.kSize, inverse.data, inverse.kBytes);
      block.Barrier();
    }
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.step[at.row]; }, a);
    tile::InvertUnitLower(block, a, shared.squares.scratch, inverse);
    block.Barrier();
    block.Copy(out.inverse + index * inverse.kSize, inverse.data, inverse.kBytes);
    block.Copy(out.scores + index * scores.kSize, scores.data, scores.kBytes);
    block.Barrier();
  }
};

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_PREPARE_H_
