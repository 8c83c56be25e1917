// SPDX-License-Identifier: Apache-2.0
// backend/simd: rows of the caller's arrays to and from packed rows of the arithmetic type R.
// Caller memory is read and written exactly where it has elements, at any alignment.
#ifndef KLA_BACKEND_SIMD_CHUNK_ROWS_H_
#define KLA_BACKEND_SIMD_CHUNK_ROWS_H_

#include <hwy/cache_control.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kla/backend/simd/register_tile.h"
#include "kla/core/scalar.h"
#include "kla/core/shape.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The first `count` < kLanes elements; the other lanes are 0.
template <class R, class T>
HWY_INLINE Vector<R> LoadFirstAs(const T* HWY_RESTRICT from, Index count) {
  alignas(64) R lanes[kLanes<R>] = {};
  for (Index i = 0; i < count; ++i) lanes[i] = static_cast<R>(from[i]);
  return hn::Load(Tag<R>(), lanes);
}

// to[0, padded) = factor * from[0, count), zeros behind; `padded` is a multiple of the lanes and
// `to` is aligned.
template <class R, class T>
HWY_INLINE void LoadRow(const T* HWY_RESTRICT from, Index count, R factor, R* HWY_RESTRICT to,
                        Index padded) {
  const Tag<R> d;
  const auto scale = hn::Set(d, factor);
  Index i = 0;
  for (; i + kLanes<R> <= count; i += kLanes<R>) {
    hn::Store(hn::Mul(scale, LoadAs<R>(from + i)), d, to + i);
  }
  if (i < count) {
    hn::Store(hn::Mul(scale, LoadFirstAs<R>(from + i, count - i)), d, to + i);
    i += kLanes<R>;
  }
  for (; i < padded; i += kLanes<R>) hn::Store(hn::Zero(d), d, to + i);
}

template <class R, class T>
HWY_INLINE void CopyRow(const T* HWY_RESTRICT from, Index count, R* HWY_RESTRICT to, Index padded) {
  LoadRow(from, count, R(1), to, padded);
}

// A row past the caches, for output that is larger than they are: reading the lines before
// overwriting them would cost as much as the writing. Lines that the row covers in part are written
// as usual. FlushStream() before others may read the result.
template <class T>
HWY_INLINE void StreamRow(const T* HWY_RESTRICT from, Index count, T* HWY_RESTRICT to) {
  using Byte = std::uint8_t;
  constexpr Index kSize = sizeof(T), kStep = kLanes<Byte> / kSize;
  Index i = 0;
  if constexpr (kStep > 0) {
    const Tag<Byte> d;
    const auto address = static_cast<Index>(reinterpret_cast<std::uintptr_t>(to) % kLanes<Byte>);
    if (address % kSize == 0) {
      const Index head = std::min(count, (kLanes<Byte> - address) % kLanes<Byte> / kSize);
      for (; i < head; ++i) to[i] = from[i];
      for (; i + kStep <= count; i += kStep) {
        hn::Stream(hn::LoadU(d, reinterpret_cast<const Byte*>(from + i)), d,
                   reinterpret_cast<Byte*>(to + i));
      }
    }
  }
  for (; i < count; ++i) to[i] = from[i];
}

template <class R, class T>
HWY_INLINE void StoreRow(const R* HWY_RESTRICT from, Index count, bool stream, T* HWY_RESTRICT to) {
  if (stream) {
    if constexpr (std::is_same_v<R, T>) {
      StreamRow(from, count, to);
    } else {
      alignas(64) T row[RoundUp(kMaxHeadDim, 64)];
      ConvertRow(from, count, row);
      StreamRow(row, count, to);
    }
  } else {
    ConvertRow(from, count, to);
  }
}

// Bytes of one output that a cache may still hold when its reader comes.
inline constexpr Index kCachedBytes = Index{4} << 20;

// <x, y> over `padded` elements, a multiple of the lanes. Two sums of vectors: enough to hide most
// of the latency at the lengths of a head, and an order that depends on the target alone.
template <class R>
HWY_INLINE R Dot(const R* HWY_RESTRICT x, const R* HWY_RESTRICT y, Index padded) {
  const Tag<R> d;
  auto even = hn::Zero(d), odd = hn::Zero(d);
  Index i = 0;
  for (; i + 2 * kLanes<R> <= padded; i += 2 * kLanes<R>) {
    even = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), even);
    odd = hn::MulAdd(hn::LoadU(d, x + i + kLanes<R>), hn::LoadU(d, y + i + kLanes<R>), odd);
  }
  if (i < padded) even = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), even);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
}

// |x|^2 in W. In R where that is exact enough; again in W where R over- or underflows.
template <class W, class R>
HWY_INLINE W SquaredNorm(const R* HWY_RESTRICT x, Index padded) {
  const R norm2 = Dot(x, x, padded);
  if constexpr (!std::is_same_v<W, R>) {
    constexpr R kSmallest = R(1e-24), kLargest = R(1e36);
    if (!(norm2 > kSmallest && norm2 < kLargest)) [[unlikely]] {
      W sum(0);
      for (Index i = 0; i < padded; ++i) sum += static_cast<W>(x[i]) * static_cast<W>(x[i]);
      return sum;
    }
  }
  return static_cast<W>(norm2);
}

// Whether multiplying by `factor`, or by 1 / factor, keeps the normal range of R (float: 1e-38). 0
// is the factor of rows that are 0.
template <class R, class W>
HWY_INLINE bool IsInRange(W factor) {
  if constexpr (std::is_same_v<W, R>) return true;
  constexpr W kSmallest(1e-30), kLargest(1e30);
  const W magnitude = factor < W(0) ? -factor : factor;
  return (magnitude > kSmallest && magnitude < kLargest) || magnitude == W(0);
}

// `factor` in R, by which x is still to be multiplied. Where it is out of range, as |x|^2 then was,
// x has been multiplied in W instead: 1.
template <class W, class R>
HWY_INLINE R ScaleBeyondRange(W factor, R* HWY_RESTRICT x, Index padded) {
  if (IsInRange<R>(factor)) return static_cast<R>(factor);
  for (Index i = 0; i < padded; ++i) x[i] = static_cast<R>(factor * static_cast<W>(x[i]));
  return R(1);
}

#if HWY_TARGET != HWY_SCALAR
// Transposes the 4 x 4 matrix in every 128-bit block of four vectors.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void TransposeBlocks(D d, V (&v)[4]) {
  const hn::RepartitionToWide<D> pairs;
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, v[0], v[1]));
  const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, v[0], v[1]));
  const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, v[2], v[3]));
  const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23));
  v[2] = hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23));
}
#endif

#if HWY_CAP_GE512
// Four floats each of four rows, a block of 128 bits each.
HWY_INLINE Vector<float> LoadBlocks(const float* HWY_RESTRICT from, Index pitch) {
  __m512 blocks = _mm512_castps128_ps512(_mm_loadu_ps(from));
  blocks = _mm512_insertf32x4(blocks, _mm_loadu_ps(from + pitch), 1);
  blocks = _mm512_insertf32x4(blocks, _mm_loadu_ps(from + 2 * pitch), 2);
  return Vector<float>{_mm512_insertf32x4(blocks, _mm_loadu_ps(from + 3 * pitch), 3)};
}

// 16 x 16 floats: to[c * to_pitch + r] = factors[r] * from[r * pitch + c], without factors unless
// kScale.
// Four columns at a time. Loading a block at a time puts rows 0, 4, 8, 12 side by side, and leaves
// only the 4 x 4 blocks to transpose: 32 shuffles, which on Intel's one port for them are the cost.
template <bool kScale>
HWY_INLINE void Transpose16(const float* HWY_RESTRICT from, Index pitch,
                            const float* HWY_RESTRICT factors, float* HWY_RESTRICT to,
                            Index to_pitch) {
  const Tag<float> d;
  for (Index c = 0; c < 16; c += 4) {
    Vector<float> quad[4];
    HWY_UNROLL(4) for (int r = 0; r < 4; ++r) {
      quad[r] = LoadBlocks(from + r * pitch + c, 4 * pitch);
    }
    TransposeBlocks(d, quad);
    HWY_UNROLL(4) for (int i = 0; i < 4; ++i) {
      if constexpr (kScale) quad[i] = hn::Mul(quad[i], hn::LoadU(d, factors));
      hn::Store(quad[i], d, to + (c + i) * to_pitch);
    }
  }
}
#endif

// to[c * to_pitch + r] = factors[r] * from[r * pitch + c] for r < rows and c < columns, multiples
// of 16 (of 4 below AVX-512, of 1 without vectors); rows of `to` lie on vector boundaries.
template <bool kScale, class R>
HWY_INLINE void TransposeRows(const R* HWY_RESTRICT from, Index pitch, Index rows, Index columns,
                              const R* HWY_RESTRICT factors, R* HWY_RESTRICT to, Index to_pitch) {
#if HWY_CAP_GE512
  if constexpr (std::is_same_v<R, float>) {
    for (Index c = 0; c < columns; c += 16) {
      for (Index r = 0; r < rows; r += 16) {
        Transpose16<kScale>(from + r * pitch + c, pitch, factors + (kScale ? r : 0),
                            to + c * to_pitch + r, to_pitch);
      }
    }
    return;
  }
#elif HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<R, float>) {
    const hn::FixedTag<float, 4> d;
    for (Index c = 0; c < columns; c += 4) {
      for (Index r = 0; r < rows; r += 4) {
        hn::Vec<decltype(d)> quad[4];
        HWY_UNROLL(4) for (int i = 0; i < 4; ++i) {
          quad[i] = hn::LoadU(d, from + (r + i) * pitch + c);
          if constexpr (kScale) quad[i] = hn::Mul(quad[i], hn::Set(d, factors[r + i]));
        }
        TransposeBlocks(d, quad);
        HWY_UNROLL(4) for (int i = 0; i < 4; ++i) {
          hn::Store(quad[i], d, to + (c + i) * to_pitch + r);
        }
      }
    }
    return;
  }
#endif
  for (Index c = 0; c < columns; ++c) {
    for (Index r = 0; r < rows; ++r) {
      const R value = from[r * pitch + c];
      to[c * to_pitch + r] = kScale ? factors[r] * value : value;
    }
  }
}

template <class R>
HWY_INLINE void Transpose(const R* HWY_RESTRICT from, Index pitch, Index rows, Index columns,
                          R* HWY_RESTRICT to, Index to_pitch) {
  TransposeRows<false>(from, pitch, rows, columns, static_cast<const R*>(nullptr), to, to_pitch);
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_ROWS_H_
