// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward of bfloat16 inputs by dot products of pairs (pair_tile.h).
// The formulas are those of chunk_block.h and chunk_walk.h, the rounding that of
// pair_block.h.
#ifndef KLA_BACKEND_SIMD_PAIR_DOT_H_
#define KLA_BACKEND_SIMD_PAIR_DOT_H_

#include "kla/backend/simd/pair_block.h"

#if KLA_SIMD_HAS_BF16_DOT

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// A block in the same memory as Block<float>, which it is a view of.
struct DotBlock {
  DotBlock(const BlockLayout<float>& layout, const Block<float>& base)
      : block(base),
        keys_queries(reinterpret_cast<Pair*>(base.keys_queries)),
        keys(keys_queries + layout.key_rows * kBlock),
        p(reinterpret_cast<Pair*>(base.p)) {}

  Block<float> block;
  Pair* keys_queries;  // [key_rows / 2][2C]   pairs along the key axis; columns: k_i, then q_i
  Pair* keys;          // [key_rows][C / 2]    K^T, pairs of tokens
  Pair* p;             // [C][C / 2]           P, pairs along its rows
};

// Packs one block: reads q, k, v, g, eta once.
template <class StepSize>
HWY_NOINLINE void PackPairBlock(const BlockInput<bfloat16>& input, const BlockLayout<float>& layout,
                                const Problem& problem, const DotBlock& dot) {
  const Index pitch = layout.PairPitch();
  alignas(64) Pair rows[kBlock * kMaxHeadDim / 2];
  PairFactors factors;
  LoadPairRows(input.k, input.count, layout.key_dim, pitch, rows, factors.key_norm2,
               factors.key_power);
  TransposePairs(rows, pitch, pitch, dot.keys_queries, 2 * kBlock);
  LoadPairRows(input.q, input.count, layout.key_dim, pitch, rows, factors.query_norm2,
               factors.query_power);
  TransposePairs(rows, pitch, pitch, dot.keys_queries + kBlock, 2 * kBlock);
  // (Rows that the transposition wrote beyond key_rows / 2 lie in this memory.)
  PairTokens(dot.keys_queries, 2 * kBlock, layout.key_rows, dot.keys);
  factors.FromNorms<StepSize>(input, problem, dot.block.step);
  PackValues(input, layout, factors.value, dot.block);
  alignas(64) float products[2 * kBlock * kBlock];
  for (Index r = 0; r < 2 * kBlock; r += 16) {
    RegisterTile<float, 16, 1> tile;
    tile.SetZero();
    DotAdd<1, 2 * kBlock, 2 * kBlock>(tile, dot.keys_queries + r, dot.keys_queries,
                                      layout.key_rows / 2);
    tile.Store(products + r * kBlock, kBlock);
  }
  PairMatrices(input, factors, products, dot.block, dot.p);
}

// WalkBlock in pairs; `state` in float is updated, scratch.state is its rounded copy.
template <class Lines>
HWY_INLINE void WalkDotBlock(const BlockLayout<float>& layout, const DotBlock& dot, Index panel,
                             float* HWY_RESTRICT state, PairScratch& scratch, Lines& lines) {
  const Tag<float> d;
  const Block<float>& block = dot.block;
  float* values = block.values + panel * kBlock * kPanel<float>;
  float* products = scratch.panel.products;
  ForTiles(2 * kBlock, [&](auto height, Index i) KLA_SIMD_INLINE {  // [K; Q] S
    constexpr Index kPairs = kFetchRows / 2;  // of rows; key_rows is a multiple of kFetchRows
    RegisterTile<float, height> tile;
    tile.SetZero();
    for (Index k = 0; k < layout.key_rows / 2; k += kPairs) {
      DotAdd<1, 2 * kBlock, kPanel<float>>(tile, dot.keys_queries + k * 2 * kBlock + i,
                                           scratch.state + k * kPanel<float>, kPairs);
      lines.Fetch();
    }
    tile.Store(products + i * kPanel<float>, kPanel<float>);
  });
  SolveLower<float>(block, block.key_gamma, products, values, nullptr, scratch.panel.pseudo_values,
                    scratch.panel.weighted);
  PairRows(scratch.panel.pseudo_values, kBlock, scratch.pseudo_values);
  PairRows(scratch.panel.weighted, kBlock, scratch.weighted);
  for (Index i = 0; i < kBlock; i += kTileRows) {  // O = gamma (s Q S) + P V'
    RegisterTile<float> tile;
    tile.LoadScaledRows(block.query_gamma + i, products + (kBlock + i) * kPanel<float>,
                        kPanel<float>);
    DotAdd<kBlock / 2, 1, kPanel<float>>(tile, dot.p + i * kBlock / 2, scratch.pseudo_values,
                                         (i + kTileRows) / 2);
    tile.Store(values + i * kPanel<float>, kPanel<float>);
  }
  const auto decay = hn::Set(d, block.gamma[kBlock - 1]);
  ForTiles(layout.key_rows, [&](auto height, Index k) KLA_SIMD_INLINE {
    constexpr int kRows = height;
    RegisterTile<float, kRows> tile;  // S <- gamma_C S + K^T (w V')
    tile.LoadScaled(decay, state + k * kPanel<float>, kPanel<float>);
    DotAdd<kBlock / 2, 1, kPanel<float>>(tile, dot.keys + k * kBlock / 2, scratch.weighted,
                                         kBlock / 2);
    lines.Fetch();
    tile.Store(state + k * kPanel<float>, kPanel<float>);
    HWY_UNROLL(8) for (int r = 0; r < kRows; r += 2) {
      HWY_UNROLL(4) for (int n = 0; n < kTileVectors; ++n) {
        StorePairs(tile.v[r][n], tile.v[r + 1][n],
                   scratch.state + (k + r) / 2 * kPanel<float> + n * kLanes<float>);
      }
    }
  });
}

// What ChunkForward takes of this file; TileKernel of pair_amx.h has the same members.
struct DotKernel {
  using Block = DotBlock;
  static bool IsAllowed() { return true; }

  // Walks the blocks of one panel in order.
  class Walk {
   public:
    Walk(const BlockLayout<float>& layout, const Block& /*first*/, float* state)
        : layout_(layout), state_(state) {
      PairRows(state, layout.key_rows, scratch_.state);
    }
    Index FetchShares() const { return kla::HWY_NAMESPACE::FetchShares(layout_, 2 * kBlock); }
    template <class Lines>
    void Step(const Block& block, const Block* /*next*/, Index panel, Lines& lines) {
      WalkDotBlock(layout_, block, panel, state_, scratch_, lines);
    }

   private:
    const BlockLayout<float>& layout_;
    float* state_;
    PairScratch scratch_;
  };
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_DOT

#endif  // KLA_BACKEND_SIMD_PAIR_DOT_H_
