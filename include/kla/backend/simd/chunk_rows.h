// SPDX-License-Identifier: Apache-2.0
// backend/simd: rows of the caller's arrays to and from packed rows of the arithmetic type R.
// Caller memory is read and written exactly where it has elements, at any alignment.
#ifndef KLA_BACKEND_SIMD_CHUNK_ROWS_H_
#define KLA_BACKEND_SIMD_CHUNK_ROWS_H_

#include <algorithm>
#include <type_traits>

#include "kla/backend/simd/micro_tile.h"
#include "kla/core/scalar.h"

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

// <x, y> over `padded` elements, a multiple of the lanes. Two sums of vectors: enough to hide most
// of the latency at the lengths of a head, and an order that depends on the target alone.
template <class R>
HWY_INLINE R Dot(const R* HWY_RESTRICT x, const R* HWY_RESTRICT y, Index padded) {
  const Tag<R> d;
  auto even = hn::Zero(d), odd = hn::Zero(d);
  Index i = 0;
  for (; i + 2 * kLanes<R> <= padded; i += 2 * kLanes<R>) {
    even = hn::MulAdd(hn::Load(d, x + i), hn::Load(d, y + i), even);
    odd = hn::MulAdd(hn::Load(d, x + i + kLanes<R>), hn::Load(d, y + i + kLanes<R>), odd);
  }
  if (i < padded) even = hn::MulAdd(hn::Load(d, x + i), hn::Load(d, y + i), even);
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

// x *= factor over `padded` elements. In W where the factor, or 1 / factor, leaves the normal range
// of R (float: 1e-38): then |x|^2 did, too.
template <class W, class R>
HWY_INLINE void ScaleInPlace(W factor, R* HWY_RESTRICT x, Index padded) {
  const Tag<R> d;
  if constexpr (!std::is_same_v<W, R>) {
    constexpr W kSmallest(1e-30), kLargest(1e30);
    if (!(factor > kSmallest && factor < kLargest)) [[unlikely]] {
      for (Index i = 0; i < padded; ++i) x[i] = static_cast<R>(factor * static_cast<W>(x[i]));
      return;
    }
  }
  const auto scale = hn::Set(d, static_cast<R>(factor));
  for (Index i = 0; i < padded; i += kLanes<R>) {
    hn::Store(hn::Mul(scale, hn::Load(d, x + i)), d, x + i);
  }
}

#if HWY_TARGET != HWY_SCALAR
// A 4 x 4 block: to[c * to_pitch + r] = from[r * pitch + c], both aligned to 4 elements.
HWY_INLINE void Transpose4(const float* HWY_RESTRICT from, Index pitch, float* HWY_RESTRICT to,
                           Index to_pitch) {
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> pairs;
  const auto a = hn::Load(d, from), b = hn::Load(d, from + pitch);
  const auto c = hn::Load(d, from + 2 * pitch), e = hn::Load(d, from + 3 * pitch);
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, to);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, to + to_pitch);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, to + 2 * to_pitch);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, to + 3 * to_pitch);
}
#endif

// to[c * to_pitch + r] = from[r * pitch + c] for r < rows, c < columns; pitches and, where there
// are vectors of 4, rows and columns are multiples of 4.
template <class R>
HWY_INLINE void Transpose(const R* HWY_RESTRICT from, Index pitch, Index rows, Index columns,
                          R* HWY_RESTRICT to, Index to_pitch) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<R, float>) {
    for (Index c = 0; c < columns; c += 4) {
      for (Index r = 0; r < rows; r += 4) {
        Transpose4(from + r * pitch + c, pitch, to + c * to_pitch + r, to_pitch);
      }
    }
    return;
  }
#endif
  for (Index c = 0; c < columns; ++c) {
    for (Index r = 0; r < rows; ++r) to[c * to_pitch + r] = from[r * pitch + c];
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_ROWS_H_
