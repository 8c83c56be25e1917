// SPDX-License-Identifier: Apache-2.0
// backend/simd: the inner loop of DecodeStep.
#ifndef KLA_BACKEND_SIMD_DECODE_PASS_H_
#define KLA_BACKEND_SIMD_DECODE_PASS_H_

#include <hwy/cache_control.h>

#include "kla/backend/simd/vector_math.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The vectors of one token, in the arithmetic type R; `rows` is K padded.
template <class R>
struct DecodeVectors {
  R rescale;              // c
  const R* update_key;    // u [rows]
  const R* update_value;  // d [width]
  const R* key;           // k~ [rows]
  const R* query;         // scale q^ [rows]
  R* by_key;              // X^T k~ [width], written
  R* by_query;            // X^T scale q^ [width], written
};

// What to bring into cache meanwhile: `step` bytes further with every row.
struct DecodePrefetch {
  const char* next;
  Index step;
};

// One token over kVectors vectors of columns of the body X:
//   X <- c X + u d^T,   by_key = X^T k~,   by_query = X^T scale q^
// X [rows, kVectors * kLanes<R>], read at `from` and written at `to` (which may be the same), rows
// `pitch` elements apart. Each element is read once and written once, for 1 multiply and 3
// multiply-adds: on two multiply-add ports 2 cycles a vector, whether it comes from cache or not.
// kPrefetches lines are prefetched a row.
// The sums of narrow passes run in kParts interleaved parts, to cover the latency of an addition.
template <class R, int kVectors, int kPrefetches, class From, class To>
HWY_NOINLINE void DecodePass(const From* from, To* to, Index pitch, Index rows,
                             const DecodeVectors<R>& token, const DecodePrefetch& prefetch) {
  constexpr int kParts = kVectors == 1 ? 4 : kVectors == 2 ? 2 : 1;
  const Tag<R> d;
  const auto rescale = hn::Set(d, token.rescale);
  Vector<R> by_key[kParts][kVectors], by_query[kParts][kVectors], value[kVectors];
  Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
    value[j] = LoadAs<R>(token.update_value + j * kLanes<R>);
    Unroll<kParts>([&](auto part)
                       KLA_SIMD_INLINE { by_key[part][j] = by_query[part][j] = hn::Zero(d); });
  });
  // Locals, since stores of vectors may alias whatever a reference leads to.
  const R* const update_key = token.update_key;
  const R* const key = token.key;
  const R* const query = token.query;
  const Index step = prefetch.step;
  const char* next = prefetch.next;
  for (Index i = 0; i < rows; i += kParts) {
    Unroll<kParts>([&](auto part) KLA_SIMD_INLINE {
      Unroll<kPrefetches>([&](auto line) KLA_SIMD_INLINE { hwy::Prefetch(next + line * 64); });
      next += step;
      const auto u = hn::Set(d, update_key[i + part]);
      const auto k = hn::Set(d, key[i + part]);
      const auto q = hn::Set(d, query[i + part]);
      Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
        const auto old = LoadAs<R>(from + (i + part) * pitch + j * kLanes<R>);
        const auto x = hn::MulAdd(u, value[j], hn::Mul(old, rescale));
        StoreAs<R>(x, to + (i + part) * pitch + j * kLanes<R>);
        by_key[part][j] = hn::MulAdd(x, k, by_key[part][j]);
        by_query[part][j] = hn::MulAdd(x, q, by_query[part][j]);
      });
    });
  }
  Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
    Unroll<kParts - 1>([&](auto part) KLA_SIMD_INLINE {
      by_key[0][j] = hn::Add(by_key[0][j], by_key[part + 1][j]);
      by_query[0][j] = hn::Add(by_query[0][j], by_query[part + 1][j]);
    });
    StoreAs<R>(by_key[0][j], token.by_key + j * kLanes<R>);
    StoreAs<R>(by_query[0][j], token.by_query + j * kLanes<R>);
  });
}

// DecodePass over a tile of `width` columns, four vectors at a time (all of them, if R is float).
// kPrefetchRows: every line of the row ahead; otherwise one line a row.
template <class R, bool kPrefetchRows, class From, class To>
HWY_INLINE void DecodeTile(const From* from, To* to, Index rows, Index width,
                           const DecodeVectors<R>& token, const DecodePrefetch& prefetch) {
  const auto pass = [&](auto vectors, Index begin) KLA_SIMD_INLINE {
    constexpr int kVectors = decltype(vectors)::value;
    constexpr Index kRowBytes = kVectors * kLanes<R> * static_cast<Index>(sizeof(From));
    constexpr int kLines = kPrefetchRows ? static_cast<int>((kRowBytes + 63) / 64) : 1;
    DecodeVectors<R> part = token;
    part.update_value += begin;
    part.by_key += begin;
    part.by_query += begin;
    DecodePass<R, kVectors, kLines>(
        from + begin, to + begin, width, rows, part,
        {prefetch.next + begin * static_cast<Index>(sizeof(From)), prefetch.step});
  };
  for (Index begin = 0; begin < width; begin += 4 * kLanes<R>) {
    switch ((width - begin) / kLanes<R>) {
      case 1:
        pass(std::integral_constant<int, 1>(), begin);
        break;
      case 2:
        pass(std::integral_constant<int, 2>(), begin);
        break;
      case 3:
        pass(std::integral_constant<int, 3>(), begin);
        break;
      default:
        pass(std::integral_constant<int, 4>(), begin);
    }
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_PASS_H_
