// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward of bfloat16 inputs by dot products of pairs (bf16_tile.h).
//
// The formulas are those of chunk_block.h and chunk_walk.h. Keys and queries stay as they were
// given, exactly, and their factors r and s r_q go to the rows and columns of the products. What is
// rounded to bfloat16 besides: the state where it is read (its sum stays in float), V', w r V' and
// P. With a unit roundoff of 2^-9 the relative RMS error of o and S is about 2e-3.
#ifndef KLA_BACKEND_SIMD_BF16_WALK_H_
#define KLA_BACKEND_SIMD_BF16_WALK_H_

#include <cmath>

#include "kla/backend/simd/bf16_tile.h"
#include "kla/backend/simd/chunk_walk.h"

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

  const Block<float>& block;
  Pair* keys_queries;  // [key_rows / 2][2C]   pairs along the key axis; columns: k_i, then q_i
  Pair* keys;          // [key_rows][C / 2]    K^T, pairs of tokens
  Pair* p;             // [C][C / 2]           P, pairs along its rows
};

// Rows of 16 words, transposed: to[c * to_pitch + r] = from[r * pitch + c], `columns` rounded up
// to 16.
HWY_INLINE void TransposePairs(const Pair* from, Index pitch, Index columns, Pair* to,
                               Index to_pitch) {
  for (Index c = 0; c < columns; c += 16) {
    Transpose16<false>(reinterpret_cast<const float*>(from + c), pitch, nullptr,
                       reinterpret_cast<float*>(to + c * to_pitch), to_pitch);
  }
}

// Loads the rows of keys or queries of one block; |x|^2 of each to norm2. A row whose squared norm
// leaves the range of float is multiplied by a power of two, exactly, and `power` tells which.
HWY_INLINE void LoadDotRows(const Rows<bfloat16>& from, Index count, Index length, Index pitch,
                            Pair* HWY_RESTRICT rows, double* norm2, double* power) {
  for (Index i = 0; i < kBlock; ++i) {
    auto* row = reinterpret_cast<bfloat16*>(rows + i * pitch);
    const Index used = i < count ? length : 0;
    std::copy_n(from.data + (used > 0 ? i * from.stride : 0), used, row);
    std::fill_n(row + used, 2 * pitch - used, bfloat16());
    auto sum = hn::Zero(Tag<float>());
    for (Index c = 0; c < pitch; c += 16) {
      const __m512i x = _mm512_load_si512(rows + i * pitch + c);
      sum = DotPairs(sum, x, x);
    }
    norm2[i] = static_cast<double>(hn::GetLane(hn::SumOfLanes(Tag<float>(), sum)));
    power[i] = 1.0;
    if (!(norm2[i] > 1e-24 && norm2[i] < 1e36)) [[unlikely]] {
      norm2[i] = 0;
      float largest = 0;
      for (Index c = 0; c < used; ++c) {
        const auto x = static_cast<double>(static_cast<float>(row[c]));
        norm2[i] += x * x;
        largest = std::max(largest, std::abs(static_cast<float>(row[c])));
      }
      if (!(largest > 0 && std::isfinite(largest))) continue;
      power[i] = std::ldexp(1.0, -std::ilogb(largest));
      for (Index c = 0; c < used; ++c) {
        row[c] = bfloat16(
            static_cast<float>(static_cast<double>(static_cast<float>(row[c])) * power[i]));
      }
    }
  }
}

// Packs one block: reads q, k, v, g, eta once. block.values = v~ in float.
template <class StepSize>
HWY_NOINLINE void PackDotBlock(const BlockInput<bfloat16>& input, const BlockLayout<float>& layout,
                               const Problem& problem, const DotBlock& dot) {
  const Tag<float> d;
  const Block<float>& block = dot.block;
  const Index pitch = RoundUp(layout.key_rows / 2, 16);
  alignas(64) Pair rows[kBlock * kMaxHeadDim / 2];
  double norm2[kBlock], power[kBlock];
  alignas(64) float key_factor[kBlock], query_factor[kBlock];
  float value_factor[kBlock];

  LoadDotRows(input.k, input.count, layout.key_dim, pitch, rows, norm2, power);
  TransposePairs(rows, pitch, pitch, dot.keys_queries, 2 * kBlock);
  for (Index i = 0; i < kBlock; ++i) {
    const bool real = i < input.count;
    const auto unit = UnitKey<StepSize>(real ? static_cast<double>(*input.eta[i]) : 0.0, norm2[i],
                                        problem.epsilon);
    key_factor[i] = real ? static_cast<float>(unit.key / power[i]) : 0.0f;
    value_factor[i] = real ? static_cast<float>(unit.value) : 0.0f;
    block.step[i] = real ? static_cast<float>(unit.step) : 0.0f;
  }
  LoadDotRows(input.q, input.count, layout.key_dim, pitch, rows, norm2, power);
  TransposePairs(rows, pitch, pitch, dot.keys_queries + kBlock, 2 * kBlock);
  for (Index i = 0; i < kBlock; ++i) {
    const double query = StepSize::kNormalizeQuery ? InverseNorm(norm2[i], problem.epsilon) : 1.0;
    query_factor[i] = i < input.count ? static_cast<float>(query * problem.scale / power[i]) : 0.0f;
  }
  // Keys once more, with tokens in pairs: the halves of every word, side by side. (Rows that the
  // transposition wrote beyond key_rows / 2 lie in this memory.)
  for (Index k = 0; k < layout.key_rows / 2; ++k) {
    const __m512i words = _mm512_load_si512(dot.keys_queries + k * 2 * kBlock);
    auto* even = reinterpret_cast<__m256i*>(dot.keys + k * kBlock);
    _mm256_store_si256(even, _mm512_cvtepi32_epi16(words));
    _mm256_store_si256(even + 1, _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
  }
  for (Index i = 0; i < kBlock; ++i) {
    for (Index panel = 0; panel < layout.panels; ++panel) {
      const Index first = panel * kPanel<float>;
      const Index used = i < input.count ? std::min(kPanel<float>, layout.value_dim - first) : 0;
      LoadRow(used > 0 ? input.v[i] + first : nullptr, used, value_factor[i],
              block.values + (panel * kBlock + i) * kPanel<float>, kPanel<float>);
    }
  }

  // A and P, as BlockMatrices, with the factors of rows and columns.
  const LogDecay<float> log_decay(input.g, input.count);
  alignas(64) float products[2 * kBlock * kBlock];
  for (Index r = 0; r < 2 * kBlock; r += 16) {
    RegisterTile<float, 16, 1> tile;
    tile.SetZero();
    DotAdd<1, 2 * kBlock, 2 * kBlock>(tile, dot.keys_queries + r, dot.keys_queries,
                                      layout.key_rows / 2);
    tile.Store(products + r * kBlock, kBlock);
  }
  const auto gamma = hn::Exp(d, hn::Add(hn::Load(d, log_decay.high), hn::Load(d, log_decay.low)));
  const auto keys = hn::Load(d, key_factor);
  hn::Store(gamma, d, block.gamma);
  hn::Store(hn::Mul(gamma, keys), d, block.key_gamma);
  hn::Store(hn::Mul(gamma, hn::Load(d, query_factor)), d, block.query_gamma);
  hn::Store(hn::Mul(keys, hn::Exp(d, log_decay.From(kBlock - 1, 0))), d, block.to_end);
  const auto lane = hn::Iota(d, 0.0f);
  for (Index i = 0; i < kBlock; ++i) {
    const auto row = hn::Set(d, static_cast<float>(i));
    const auto lower = hn::Le(lane, row);
    const auto decay = hn::IfThenElseZero(
        lower, hn::Mul(keys, hn::Exp(d, hn::IfThenElseZero(lower, log_decay.From(i, 0)))));
    const auto a = hn::Mul(hn::Set(d, block.step[i] * key_factor[i]),
                           hn::IfThenElseZero(hn::Lt(lane, row), decay));
    hn::Store(hn::Mul(a, hn::Load(d, products + i * kBlock)), d, block.a + i * kBlock);
    const auto p = hn::Mul(hn::Mul(hn::Set(d, query_factor[i]), decay),
                           hn::Load(d, products + (kBlock + i) * kBlock));
    const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(p.raw));
    _mm256_store_si256(reinterpret_cast<__m256i*>(dot.p + i * kBlock / 2), half);
  }
}

// Scratch of one walk: PanelScratch, the state of the panel and the rest in pairs.
struct DotScratch {
  PanelScratch<float> panel;
  alignas(64) Pair state[kMaxHeadDim / 2 * kPanel<float>];     // [key_rows / 2][kPanel]
  alignas(64) Pair pseudo_values[kBlock / 2 * kPanel<float>];  // [C / 2][kPanel]
  alignas(64) Pair weighted[kBlock / 2 * kPanel<float>];       // [C / 2][kPanel]
};

// Rows of `from` [rows][kPanel] in pairs.
HWY_INLINE void PairRows(const float* HWY_RESTRICT from, Index rows, Pair* HWY_RESTRICT to) {
  const Tag<float> d;
  for (Index r = 0; r < rows; r += 2) {
    HWY_UNROLL(2) for (Index n = 0; n < kPanel<float>; n += kLanes<float>) {
      const float* row = from + r * kPanel<float> + n;
      StorePairs(hn::Load(d, row), hn::Load(d, row + kPanel<float>),
                 to + r / 2 * kPanel<float> + n);
    }
  }
}

// WalkBlock in pairs; `state` in float is updated, scratch.state is its rounded copy.
template <class F>
HWY_INLINE void WalkDotBlock(const BlockLayout<float>& layout, const DotBlock& dot, Index panel,
                             float* HWY_RESTRICT state, DotScratch& scratch, const F& fetch) {
  const Tag<float> d;
  const Block<float>& block = dot.block;
  float* values = block.values + panel * kBlock * kPanel<float>;
  const Index depth = layout.key_rows / 2;
  fetch(0);
  for (Index i = 0; i < kBlock; i += kTileRows) {  // E = V - gamma (K S)
    RegisterTile<float> tile;
    tile.SetZero();
    DotAdd<1, 2 * kBlock, kPanel<float>>(tile, dot.keys_queries + i, scratch.state, depth);
    StoreErrors(tile, block.key_gamma + i, values + i * kPanel<float>,
                scratch.panel.errors + i * kPanel<float>);
  }
  SolveLower(block, scratch.panel.errors, scratch.panel.pseudo_values, scratch.panel.weighted);
  PairRows(scratch.panel.pseudo_values, kBlock, scratch.pseudo_values);
  PairRows(scratch.panel.weighted, kBlock, scratch.weighted);
  fetch(1);
  for (Index i = 0; i < kBlock; i += kTileRows) {  // O = gamma (s Q S) + P V'
    RegisterTile<float> tile;
    tile.SetZero();
    DotAdd<1, 2 * kBlock, kPanel<float>>(tile, dot.keys_queries + kBlock + i, scratch.state, depth);
    tile.ScaleRows(block.query_gamma + i);
    DotAdd<kBlock / 2, 1, kPanel<float>>(tile, dot.p + i * kBlock / 2, scratch.pseudo_values,
                                         (i + kTileRows) / 2);
    tile.Store(values + i * kPanel<float>, kPanel<float>);
  }
  fetch(2);
  const auto decay = hn::Set(d, block.gamma[kBlock - 1]);
  for (Index k = 0; k < layout.key_rows; k += kTileRows) {  // S <- gamma_C S + K^T (w V')
    RegisterTile<float> tile;
    tile.LoadScaled(decay, state + k * kPanel<float>, kPanel<float>);
    DotAdd<kBlock / 2, 1, kPanel<float>>(tile, dot.keys + k * kBlock / 2, scratch.weighted,
                                         kBlock / 2);
    tile.Store(state + k * kPanel<float>, kPanel<float>);
    HWY_UNROLL(8) for (int r = 0; r < kTileRows; r += 2) {
      HWY_UNROLL(4) for (int n = 0; n < kTileVectors; ++n) {
        StorePairs(tile.v[r][n], tile.v[r + 1][n],
                   scratch.state + (k + r) / 2 * kPanel<float> + n * kLanes<float>);
      }
    }
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_DOT

#endif  // KLA_BACKEND_SIMD_BF16_WALK_H_
