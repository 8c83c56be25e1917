// SPDX-License-Identifier: Apache-2.0
// backend/simd: the inner loop of DecodeStep.
#ifndef KLA_BACKEND_SIMD_DECODE_PASS_H_
#define KLA_BACKEND_SIMD_DECODE_PASS_H_

#include <algorithm>

#include "kla/backend/simd/line_queue.h"
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
};

// What to bring into cache meanwhile: lines that begin `step` bytes further with every row, or of
// each row only the first.
struct DecodePrefetch {
  const char* next;
  Index step;
  bool only_first = false;
};

// One token over kVectors vectors of columns of the body X [rows, kVectors * kLanes<R>]:
//   X <- c X + u d^T,   p = X^T k~,   r = X^T scale q^,   then finish(column, p, r) for each vector
// X is read at `from` and written at `to` (which may be the same), rows `pitch` elements apart.
// Each element is read once and written once, for 1 multiply and 3 multiply-adds: on two
// multiply-add ports 2 cycles a vector, out of any cache. kPrefetches lines are prefetched a row.
// The sums of narrow passes run in kParts interleaved parts, to cover the latency of an addition.
// kRescale: c may be other than 1.
template <class R, int kVectors, int kPrefetches, bool kRescale, class From, class To, class Finish>
HWY_INLINE void DecodePass(const From* from, To* to, Index pitch, Index rows,
                           const DecodeVectors<R>& token, const DecodePrefetch& prefetch,
                           const Finish& finish) {
  constexpr int kParts = kVectors == 1 ? 4 : kVectors == 2 ? 2 : 1;
  const Tag<R> tag;
  const auto rescale = hn::Set(tag, token.rescale);
  Vector<R> p[kParts][kVectors], r[kParts][kVectors], d[kVectors];
  Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
    d[j] = LoadAs<R>(token.update_value + j * kLanes<R>);
    Unroll<kParts>([&](auto part) KLA_SIMD_INLINE { p[part][j] = r[part][j] = hn::Zero(tag); });
  });
  // Locals, since stores of vectors may alias whatever a reference leads to.
  const R* const update_key = token.update_key;
  const R* const key = token.key;
  const R* const query = token.query;
  const Index step = prefetch.step;
  const bool only_first = prefetch.only_first;
  const char* next = prefetch.next;
  for (Index i = 0; i < rows; i += kParts) {
    Unroll<kParts>([&](auto part) KLA_SIMD_INLINE {
      Unroll<kPrefetches>([&](auto line) KLA_SIMD_INLINE {
        if (line == 0 || !only_first) FetchLine(next + line * 64);
      });
      next += step;
      const auto u = hn::Set(tag, update_key[i + part]);
      const auto k = hn::Set(tag, key[i + part]);
      const auto q = hn::Set(tag, query[i + part]);
      Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
        const auto old = LoadAs<R>(from + (i + part) * pitch + j * kLanes<R>);
        const auto x = hn::MulAdd(u, d[j], kRescale ? hn::Mul(old, rescale) : old);
        StoreAs<R>(x, to + (i + part) * pitch + j * kLanes<R>);
        p[part][j] = hn::MulAdd(x, k, p[part][j]);
        r[part][j] = hn::MulAdd(x, q, r[part][j]);
      });
    });
  }
  Unroll<kVectors>([&](auto j) KLA_SIMD_INLINE {
    Unroll<kParts - 1>([&](auto part) KLA_SIMD_INLINE {
      p[0][j] = hn::Add(p[0][j], p[part + 1][j]);
      r[0][j] = hn::Add(r[0][j], r[part + 1][j]);
    });
    finish(j * kLanes<R>, p[0][j], r[0][j]);
  });
}

// Vectors of one pass at most.
inline constexpr int kPassVectors = 4;

// The widths of the passes over a tile: bit v is set if one of them has v vectors.
template <class R>
constexpr unsigned PassWidths(Index tile_width) {
  const Index vectors = tile_width / kLanes<R>;
  return (vectors >= kPassVectors ? 1u << kPassVectors : 0u) |
         (vectors % kPassVectors != 0 ? 1u << (vectors % kPassVectors) : 0u);
}

// DecodePass over a tile of `width` columns, four vectors at a time (all of them, if R is float).
// kWidths: those that can occur. Rows of State are fetched ahead, of each all lines or, where
// kShare, half of them.
template <class R, class State, unsigned kWidths, bool kShare, class From, class To, class Finish>
HWY_INLINE void DecodeTile(const From* from, To* to, Index rows, Index width,
                           const DecodeVectors<R>& token, const DecodePrefetch& prefetch,
                           const Finish& finish) {
  for (Index begin = 0; begin < width; begin += kPassVectors * kLanes<R>) {
    const Index vectors = std::min<Index>(kPassVectors, (width - begin) / kLanes<R>);
    Unroll<kPassVectors>([&](auto index) KLA_SIMD_INLINE {
      constexpr int kVectors = index + 1;
      constexpr Index kStateBytes = static_cast<Index>(sizeof(State));
      constexpr Index kRowBytes = kVectors * kLanes<R> * kStateBytes;
      constexpr int kRowLines = static_cast<int>((kRowBytes + 63) / 64);
      constexpr int kLines = kShare ? (kRowLines + 1) / 2 : kRowLines;
      if constexpr ((kWidths >> kVectors) % 2 == 1) {
        if (vectors != kVectors) return;
        DecodeVectors<R> part = token;
        part.update_value += begin;
        const auto pass = [&](auto rescale) KLA_SIMD_INLINE {
          DecodePass<R, kVectors, kLines, decltype(rescale)::value>(
              from + begin, to + begin, width, rows, part,
              {prefetch.next + begin * kStateBytes / (kShare ? 2 : 1), prefetch.step,
               prefetch.only_first},
              [&](Index column, auto p, auto r) KLA_SIMD_INLINE { finish(begin + column, p, r); });
        };
        // c is 1 unless a power of two has moved. To leave out the product saves an eighth of the
        // time where rows are converted besides, and a twentieth of floats in the first-level
        // cache.
        if (token.rescale == R(1)) {
          pass(std::false_type());
        } else {
          pass(std::true_type());
        }
      }
    });
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_PASS_H_
