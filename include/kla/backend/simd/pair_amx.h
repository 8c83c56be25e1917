// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward of bfloat16 inputs by tile registers (amx_registers.h).
// The formulas are those of chunk_block.h and chunk_walk.h, the rounding that of
// pair_block.h. A tile has as many rows as a block has tokens, and half as many columns as a panel.
#ifndef KLA_BACKEND_SIMD_PAIR_AMX_H_
#define KLA_BACKEND_SIMD_PAIR_AMX_H_

#include "kla/backend/simd/amx_registers.h"
#include "kla/backend/simd/pair_block.h"

#if KLA_SIMD_HAS_BF16_TILES

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

inline constexpr Index kTileSide = 16;  // rows, columns, and words of a row
inline constexpr Index kPanelRowBytes = kPanel<float> * sizeof(float);
static_assert(kBlock == kTileSide && kPanel<float> == 2 * kTileSide);

// A block in the same memory as Block<float>, which it is a view of.
struct TileBlock {
  TileBlock(const BlockLayout<float>& layout, const Block<float>& base)
      : block(base),
        rows(reinterpret_cast<Pair*>(base.keys_queries)),
        keys(rows + 2 * kBlock * layout.PairPitch()),
        p(reinterpret_cast<Pair*>(base.p)) {}

  Block<float> block;
  Pair* rows;  // [2C][PairPitch]     k_i, then q_i, as they were given
  Pair* keys;  // [key_rows][C / 2]   K^T, pairs of tokens
  Pair* p;     // [C][C / 2]          P, pairs along its rows
};

// [K; Q] b over one tile of columns: the product of the block's rows [2C][2 pitch] with b in pairs,
// [pitch][b_pitch]; sums [2C][sum_pitch].   Fetches lines once every 16 pairs.
template <class Lines>
HWY_INLINE void MultiplyRowTiles(const Pair* rows, Index pitch, const Pair* b, Index b_pitch,
                                 float* sums, Index sum_pitch, Lines& lines) {
  constexpr Index kWord = sizeof(Pair);
  _tile_zero(0);
  _tile_zero(1);
  for (Index k = 0; k < pitch; k += kTileSide) {
    _tile_loadd(2, rows + k, pitch * kWord);
    _tile_loadd(3, rows + kBlock * pitch + k, pitch * kWord);
    _tile_loadd(4, b + k * b_pitch, b_pitch * kWord);
    _tile_dpbf16ps(0, 2, 4);
    _tile_dpbf16ps(1, 3, 4);
    lines.Fetch();
  }
  _tile_stored(0, sums, sum_pitch * kWord);
  _tile_stored(1, sums + kBlock * sum_pitch, sum_pitch * kWord);
}

// The right factor of AddHalfProducts: pairs of a panel, [C / 2][kPanel].
HWY_INLINE void LoadHalfPairs(const Pair* b) {
  _tile_loadd(6, b, kPanelRowBytes);
  _tile_loadd(7, b + kTileSide, kPanelRowBytes);
}

// sums [16][kPanel] += a b with a [16][C / 2] in pairs, b from LoadHalfPairs.
HWY_INLINE void AddHalfProducts(const Pair* a, float* sums) {
  _tile_loadd(5, a, kBlock / 2 * sizeof(Pair));
  _tile_loadd(0, sums, kPanelRowBytes);
  _tile_loadd(1, sums + kTileSide, kPanelRowBytes);
  _tile_dpbf16ps(0, 5, 6);
  _tile_dpbf16ps(1, 5, 7);
  _tile_stored(0, sums, kPanelRowBytes);
  _tile_stored(1, sums + kTileSide, kPanelRowBytes);
}

// Packs one block: reads q, k, v, g, eta once.
template <class StepSize>
HWY_NOINLINE void PackPairBlock(const BlockInput<bfloat16>& input, const BlockLayout<float>& layout,
                                const Problem& problem, const TileBlock& tile) {
  const Index pitch = layout.PairPitch();
  alignas(64) Pair transposed[kMaxHeadDim / 2 * kBlock];  // K^T [pitch][C]
  PairFactors factors;
  LoadPairRows(input.k, input.count, layout.key_dim, pitch, tile.rows, factors.key_norm2,
               factors.key_power);
  LoadPairRows(input.q, input.count, layout.key_dim, pitch, tile.rows + kBlock * pitch,
               factors.query_norm2, factors.query_power);
  TransposePairs(tile.rows, pitch, pitch, transposed, kBlock);
  PairTokens(transposed, kBlock, layout.key_rows, tile.keys);
  factors.FromNorms<StepSize>(input, problem, tile.block.step);
  PackValues(input, layout, factors.value, tile.block);
  alignas(64) float products[2 * kBlock * kBlock];
  TileFence();
  {
    const TileRegisters registers;
    NoLines lines;
    MultiplyRowTiles(tile.rows, pitch, transposed, kBlock, products, kBlock, lines);
  }
  TileFence();
  PairMatrices(input, factors, products, tile.block, tile.p);
}

// The state of a panel in pairs, and times `decay` in place: the products of a block
// read the former, its update begins with the latter.
HWY_INLINE void PairAndDecayState(const BlockLayout<float>& layout, float decay,
                                  float* HWY_RESTRICT state, Pair* HWY_RESTRICT to) {
  const Tag<float> d;
  const auto factor = hn::Set(d, decay);
  const Index rows = layout.key_rows;
  for (Index r = 0; r < rows; r += 2) {
    HWY_UNROLL(2) for (Index n = 0; n < kPanel<float>; n += kLanes<float>) {
      float* row = state + r * kPanel<float> + n;
      const auto low = hn::Load(d, row), high = hn::Load(d, row + kPanel<float>);
      StorePairs(low, high, to + r / 2 * kPanel<float> + n);
      hn::Store(hn::Mul(factor, low), d, row);
      hn::Store(hn::Mul(factor, high), d, row + kPanel<float>);
    }
  }
  ZeroPairTail(layout, to);
}

// WalkBlock in tiles. `state` enters as gamma_C S, and scratch.state as S in pairs; S+ leaves.
template <class Lines>
HWY_NOINLINE void WalkTileBlock(const BlockLayout<float>& layout, const TileBlock& tile,
                                Index panel, float* HWY_RESTRICT state, PairScratch& scratch,
                                Lines& lines) {
  constexpr Index kColumns = kPanel<float>;
  const Tag<float> d;
  const Block<float>& block = tile.block;
  float* values = block.values + panel * kBlock * kColumns;
  float* products = scratch.panel.products;
  TileFence();
  for (Index n = 0; n < kColumns; n += kTileSide) {  // [K; Q] S
    MultiplyRowTiles(tile.rows, layout.PairPitch(), scratch.state + n, kColumns, products + n,
                     kColumns, lines);
  }
  TileFence();
  SolveLower<float>(block, block.key_gamma, products, values, nullptr, scratch.panel.pseudo_values,
                    scratch.panel.weighted);
  PairRows(scratch.panel.pseudo_values, kBlock, scratch.pseudo_values);
  PairRows(scratch.panel.weighted, kBlock, scratch.weighted);
  for (Index i = 0; i < kBlock; ++i) {
    const auto gamma = hn::Set(d, block.query_gamma[i]);
    for (Index n = 0; n < kColumns; n += kLanes<float>) {
      const Index at = i * kColumns + n;
      hn::Store(hn::Mul(gamma, hn::Load(d, products + kBlock * kColumns + at)), d, values + at);
    }
  }
  TileFence();
  LoadHalfPairs(scratch.pseudo_values);  // O = gamma (s Q S) + P V'
  AddHalfProducts(tile.p, values);
  LoadHalfPairs(scratch.weighted);  // S+ = gamma_C S + K^T (w V')
  for (Index k = 0; k < layout.key_rows; k += kTileSide) {
    AddHalfProducts(tile.keys + k * kBlock / 2, state + k * kColumns);
    lines.Fetch();
  }
  TileFence();
}

// What ChunkForward takes of this file.
struct TileKernel {
  using Block = TileBlock;
  static bool IsAllowed() { return TilesAreAllowed(); }

  // Walks the blocks of one panel in order; each Step() is told which block comes next.
  class Walk {
   public:
    Walk(const BlockLayout<float>& layout, const Block& first, float* state)
        : layout_(layout), state_(state) {
      Enter(first);
    }
    // Of lines, of one step.
    Index FetchShares() const {
      return kPanel<float> / kTileSide * (layout_.PairPitch() / kTileSide) +
             layout_.key_rows / kTileSide;
    }
    template <class Lines>
    void Step(const Block& block, const Block* next, Index panel, Lines& lines) {
      WalkTileBlock(layout_, block, panel, state_, scratch_, lines);
      if (next != nullptr) Enter(*next);
    }

   private:
    void Enter(const Block& block) {
      PairAndDecayState(layout_, block.block.gamma[kBlock - 1], state_, scratch_.state);
    }

    const TileRegisters registers_;
    const BlockLayout<float>& layout_;
    float* state_;
    PairScratch scratch_;
  };
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_TILES

#endif  // KLA_BACKEND_SIMD_PAIR_AMX_H_
