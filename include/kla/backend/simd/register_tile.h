// SPDX-License-Identifier: Apache-2.0
// backend/simd: the register tile, from which every matrix product of the chunk kernels is made.
//
// A tile is kRows rows by kVectors vectors of accumulators that stay in registers while a product
// runs over its inner dimension:
//   tile(r, :) += sum_k a(r, k) b(k, :)      a broadcast element by element, b loaded by vectors
// Per k: kVectors loads of b, kRows broadcasts, kRows * kVectors multiply-adds. Two multiply-add
// ports of latency 4 want 8 independent sums at least; more of them ride out what else happens, and
// fewer loads a multiply-add leave room for other traffic. Measured on 512-bit vectors of an Intel
// server, whose clock falls under load, with random numbers in L1, in multiply-adds per ns of 7.4
// to 7.6 for registers alone: tiles of 8 x 2 6.5, of 12 x 2 6.4 to 6.9, of 14 x 2 6.7 to 7.2, of
// 6 x 4 6.4 to 6.7.
#ifndef KLA_BACKEND_SIMD_REGISTER_TILE_H_
#define KLA_BACKEND_SIMD_REGISTER_TILE_H_

#include <type_traits>

#include "kla/backend/simd/vector_math.h"
#include "kla/core/scalar.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The tiles of this target: kTileRows for the C = 16 rows of a block, kTallRows for products of
// more (ForTiles), with 24 sums, 2 vectors of b and a factor in 32 registers.
#if HWY_CAP_GE512
inline constexpr int kTileRows = 8, kTallRows = 12;
#else
inline constexpr int kTileRows = 4, kTallRows = 4;
#endif
inline constexpr int kTileVectors = 2;

// Columns of one tile: the V axis is cut into panels of this width.
template <class R>
inline constexpr Index kPanel = kTileVectors* kLanes<R>;

template <class R, int kRows = kTileRows, int kVectors = kTileVectors>
struct RegisterTile {
  using D = Tag<R>;
  using V = Vector<R>;
  static constexpr Index kStep = kLanes<R>;

  HWY_INLINE void SetZero() {
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) v[r][n] = hn::Zero(D());
    }
  }

  // tile = factor * c, c [kRows, kVectors * kLanes] aligned, `pitch` elements between rows.
  HWY_INLINE void LoadScaled(V factor, const R* HWY_RESTRICT c, Index pitch) {
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        v[r][n] = hn::Mul(factor, hn::Load(D(), c + r * pitch + n * kStep));
      }
    }
  }

  // The same with a factor for each row.
  HWY_INLINE void LoadScaledRows(const R* HWY_RESTRICT factors, const R* HWY_RESTRICT c,
                                 Index pitch) {
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      const V factor = hn::Set(D(), factors[r]);
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        v[r][n] = hn::Mul(factor, hn::Load(D(), c + r * pitch + n * kStep));
      }
    }
  }

  // tile += c, c as in LoadScaled.
  HWY_INLINE void Add(const R* HWY_RESTRICT c, Index pitch) {
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        v[r][n] = hn::Add(v[r][n], hn::Load(D(), c + r * pitch + n * kStep));
      }
    }
  }

  HWY_INLINE void Store(R* HWY_RESTRICT c, Index pitch) const {
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        hn::Store(v[r][n], D(), c + r * pitch + n * kStep);
      }
    }
  }

  // tile += a b for k in [0, depth), a(r, k) = a[r * kRowPitch + k * kDepthPitch], b aligned with
  // kColumnPitch elements between its rows.
  template <Index kRowPitch, Index kDepthPitch, Index kColumnPitch>
  HWY_INLINE void MulAdd(const R* HWY_RESTRICT a, const R* HWY_RESTRICT b, Index depth) {
    for (Index k = 0; k < depth; ++k) {
      V row[kVectors];
      HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
        row[n] = hn::Load(D(), b + k * kColumnPitch + n * kStep);
      }
      HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
        const V factor = hn::Set(D(), a[r * kRowPitch + k * kDepthPitch]);
        HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
          v[r][n] = hn::MulAdd(factor, row[n], v[r][n]);
        }
      }
    }
  }

  V v[kRows][kVectors];
};

// f(<tile height as a constant>, first row) for tiles that cover [0, rows), a multiple of 16: those
// of kTileRows until the rest is a multiple of kTallRows.
template <class F>
HWY_INLINE void ForTiles(Index rows, const F& f) {
  Index r = 0;
  for (; (rows - r) % kTallRows != 0; r += kTileRows) {
    f(std::integral_constant<int, kTileRows>(), r);
  }
  for (; r < rows; r += kTallRows) f(std::integral_constant<int, kTallRows>(), r);
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_REGISTER_TILE_H_
