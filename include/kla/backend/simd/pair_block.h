// SPDX-License-Identifier: Apache-2.0
// backend/simd: one block of bfloat16 tokens as pairs, for the products of pair_dot.h (dots) and
// pair_amx.h (tiles): what both need of it.
//
// Keys and queries stay as they were given, exactly, and their factors r and s r_q go to the rows
// and columns of the products. What is rounded to bfloat16 besides: the state where it is read (its
// sum stays in float), V', w r V' and P. With a unit roundoff of 2^-9 the relative RMS error of o
// and S is about 2e-3.
#ifndef KLA_BACKEND_SIMD_PAIR_BLOCK_H_
#define KLA_BACKEND_SIMD_PAIR_BLOCK_H_

#include <cmath>

#include "kla/backend/simd/chunk_walk.h"
#include "kla/backend/simd/pair_tile.h"

#if KLA_SIMD_HAS_BF16_DOT

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

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
HWY_INLINE void LoadPairRows(const Rows<bfloat16>& from, Index count, Index length, Index pitch,
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

// Keys [key_rows / 2][pitch] in pairs along the key axis become pairs of tokens, [key_rows][C / 2]:
// the halves of every word, side by side.
HWY_INLINE void PairTokens(const Pair* from, Index pitch, Index key_rows, Pair* to) {
  for (Index k = 0; k < key_rows / 2; ++k) {
    const __m512i words = _mm512_load_si512(from + k * pitch);
    auto* even = reinterpret_cast<__m256i*>(to + k * kBlock);
    _mm256_store_si256(even, _mm512_cvtepi32_epi16(words));
    _mm256_store_si256(even + 1, _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
  }
}

// What scales the rows of one block; rows behind the last token count as 0.
struct PairFactors {
  alignas(64) float key[kBlock];    // k~ = key times the row that is packed
  alignas(64) float query[kBlock];  // s q^ = query times the row that is packed
  float value[kBlock];              // v~ = value v
  double key_norm2[kBlock], query_norm2[kBlock], key_power[kBlock], query_power[kBlock];

  // From the norms and powers that LoadPairRows has found; and b.
  template <class StepSize>
  void FromNorms(const BlockInput<bfloat16>& input, const Problem& problem, float* step) {
    for (Index i = 0; i < kBlock; ++i) {
      internal::UnitKeyScales<double> unit{};
      double scale = 0.0;
      if (i < input.count) {
        unit = internal::UnitKey<StepSize>(static_cast<double>(*input.eta[i]), key_norm2[i],
                                           problem.epsilon);
        scale = StepSize::kNormalizeQuery
                    ? problem.scale * internal::InverseNorm(query_norm2[i], problem.epsilon)
                    : problem.scale;
      }
      key[i] = static_cast<float>(unit.key / key_power[i]);
      query[i] = static_cast<float>(scale / query_power[i]);
      value[i] = static_cast<float>(unit.value);
      step[i] = static_cast<float>(unit.step);
    }
  }
};

// A and P, as BlockMatrices, from products = K K^T, then Q K^T [2C][C] of the packed rows; P in
// pairs along its rows.
HWY_INLINE void PairMatrices(const BlockInput<bfloat16>& input, const PairFactors& factors,
                             const float* products, const Block<float>& block, Pair* p) {
  const Tag<float> d;
  const LogDecay<float> log_decay(input.g, input.count);
  const auto gamma = hn::Exp(d, hn::Add(hn::Load(d, log_decay.high), hn::Load(d, log_decay.low)));
  const auto keys = hn::Load(d, factors.key);
  hn::Store(gamma, d, block.gamma);
  hn::Store(hn::Mul(gamma, keys), d, block.key_gamma);
  hn::Store(hn::Mul(gamma, hn::Load(d, factors.query)), d, block.query_gamma);
  hn::Store(hn::Mul(keys, hn::Exp(d, log_decay.From(kBlock - 1, 0))), d, block.to_end);
  const auto lane = hn::Iota(d, 0.0f);
  for (Index i = 0; i < kBlock; ++i) {
    const auto row = hn::Set(d, static_cast<float>(i));
    const auto lower = hn::Le(lane, row);
    const auto decay = hn::IfThenElseZero(
        lower, hn::Mul(keys, hn::Exp(d, hn::IfThenElseZero(lower, log_decay.From(i, 0)))));
    const auto a = hn::Mul(hn::Set(d, block.step[i] * factors.key[i]),
                           hn::IfThenElseZero(hn::Lt(lane, row), decay));
    hn::Store(hn::Mul(a, hn::Load(d, products + i * kBlock)), d, block.a + i * kBlock);
    const auto scaled = hn::Mul(hn::Mul(hn::Set(d, factors.query[i]), decay),
                                hn::Load(d, products + (kBlock + i) * kBlock));
    const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled.raw));
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + i * kBlock / 2), half);
  }
}

// Scratch of one walk: PanelScratch, the state of the panel and the rest in pairs.
struct PairScratch {
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

// Zeros behind the pairs of a state [key_rows / 2][kPanel], to [PairPitch][kPanel].
HWY_INLINE void ZeroPairTail(const BlockLayout<float>& layout, Pair* pairs) {
  std::fill(pairs + layout.key_rows / 2 * kPanel<float>, pairs + layout.PairPitch() * kPanel<float>,
            Pair{0});
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_DOT

#endif  // KLA_BACKEND_SIMD_PAIR_BLOCK_H_
