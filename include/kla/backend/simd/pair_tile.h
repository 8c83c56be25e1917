// SPDX-License-Identifier: Apache-2.0
// backend/simd: register tiles of bfloat16 products, summed in float, where the instruction set has
// the dot product of pairs (vdpbf16ps): on AMD Zen twice the multiply-adds of float in the same
// time, on Intel, which has tile registers besides, half (bench: Ceiling/Bf16DotPeak beside
// FmaPeak).
//
// Matrices are stored as words of two bfloat16 that lie side by side along the inner dimension.
#ifndef KLA_BACKEND_SIMD_PAIR_TILE_H_
#define KLA_BACKEND_SIMD_PAIR_TILE_H_

#include <cstdint>

#include "kla/backend/simd/register_tile.h"

#if KLA_SIMD_HAS_BF16_DOT

#include <immintrin.h>

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

using Pair = std::uint32_t;  // elements 2i (low half) and 2i + 1 (high half)

// sum + a.low * b.low + a.high * b.high in every lane; a is one pair for all lanes.
HWY_INLINE Vector<float> DotPairs(Vector<float> sum, __m512i a, __m512i b) {
  return Vector<float>{
      _mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b))};
}

// Lane i: low(i) and high(i), rounded to nearest even, as a pair.
HWY_INLINE __m512i MakePairs(Vector<float> low, Vector<float> high) {
  const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.raw, low.raw));
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves);
}

HWY_INLINE void StorePairs(Vector<float> low, Vector<float> high, Pair* to) {
  _mm512_store_si512(to, MakePairs(low, high));
}

// tile += a b for `depth` pairs; a(r, k) = a[r * kRowPitch + k * kDepthPitch], rows of b
// kColumnPitch words apart.
template <Index kRowPitch, Index kDepthPitch, Index kColumnPitch, int kRows, int kVectors>
HWY_INLINE void DotAdd(RegisterTile<float, kRows, kVectors>& tile, const Pair* HWY_RESTRICT a,
                       const Pair* HWY_RESTRICT b, Index depth) {
  for (Index k = 0; k < depth; ++k) {
    __m512i row[kVectors];
    HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
      row[n] = _mm512_load_si512(b + k * kColumnPitch + n * kLanes<float>);
    }
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      const __m512i factor =
          _mm512_set1_epi32(static_cast<int>(a[r * kRowPitch + k * kDepthPitch]));
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        tile.v[r][n] = DotPairs(tile.v[r][n], factor, row[n]);
      }
    }
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_DOT

#endif  // KLA_BACKEND_SIMD_PAIR_TILE_H_
