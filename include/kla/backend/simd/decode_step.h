// SPDX-License-Identifier: Apache-2.0
// backend/simd: DecodeStep.
#ifndef KLA_BACKEND_SIMD_DECODE_STEP_H_
#define KLA_BACKEND_SIMD_DECODE_STEP_H_

#include <cmath>

#include "kla/backend/simd/decode_packing.h"
#include "kla/backend/simd/decode_pass.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"
#include "kla/op/decode_step.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The scalars of one token, in the unit-key form of math/unit_key.h.
template <class R>
struct DecodeToken {
  double value_scale;  // r_v
  R step;              // b
  R alignment;         // scale <k~, q^>
  R decay;             // a A, which X^T k~ and X^T q^ are multiplied by
  R inverse_scale;     // 1 / A+
  double scale;        // A+, after this token
  double rescale;      // c+, with a A = A+ c+
};

// a A as A+ c+: a power of two moves from the scale, which stays in [1/2, 1], to the body.
inline DecodeScale NormalizeScale(double scale) {
  if (scale >= 0.5 && scale <= 1.0) [[likely]]
    return {scale, 1.0};
  if (scale == 0.0) return {1.0, 0.0};
  if (!std::isfinite(scale)) return {1.0, scale};
  int exponent = 0;
  const double mantissa = std::frexp(scale, &exponent);
  return {mantissa, std::ldexp(1.0, exponent)};
}

// One head of one sequence. With the record S = A (c X + u d^T) of decode_packing.h, a token is
//   X <- c X + u d^T                                     one pass over X, which yields
//   p = X^T k~,   r = X^T scale q^                       on the way
//   delta = b (v~ - a A p),   o = a A r + scale <k~, q^> delta
//   A+ c+ = a A,   u <- k~,   d <- delta / A+
// since S~ = a A X is the decayed state, S~ + k~ delta^T the new one, and o = scale S^T q^.
// q, k [K]   v, o [V]   S [K, V] in place. Reads and writes S once; 6KV flops, and KV for c.
// Several tokens are applied to a tile of columns while it is in cache, then to the next tile.
// Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587; unit-key form in math/unit_key.h.
template <class StepSize, class T, class State, class Shape>
class DecodeHead {
 public:
  using R = Accumulator<T>;
  using B = Accumulator<State>;
  using Args = DecodeStepArgs<T>;

  DecodeHead(const Args& args, const Problem& problem, Index head, State* record)
      : args_(args),
        problem_(problem),
        head_(head),
        key_head_(problem.KeyHeadOf(head)),
        record_(record),
        layout_(Shape::kKeyDim == kDynamic ? problem.key_dim : Shape::kKeyDim,
                Shape::kValueDim == kDynamic ? problem.value_dim : Shape::kValueDim) {}

  void Run(Index batch, Index begin, Index length) {
    const Index walk = std::min(kMaxWalk, kRowRoom / layout_.rows());
    for (Index t = 0; t < length; t += walk) {
      Walk(batch, begin + t, std::min(walk, length - t));
    }
  }

 private:
  // Sizes, or bounds of them for dynamic shapes.
  static constexpr Index kLargestKeyDim = Shape::kKeyDim == kDynamic ? kMaxHeadDim : Shape::kKeyDim;
  static constexpr Index kRows = DecodeLayout<State>(kLargestKeyDim, 1).rows();
  static constexpr Index kColumns =
      RoundUp(Shape::kValueDim == kDynamic ? kMaxHeadDim : Shape::kValueDim, kLanes<float>);
  static constexpr Index kWidth = DecodeLayout<State>::kMaxTileVectors * kLanes<float>;
  static constexpr bool kConverts = !std::is_same_v<R, State>;
  static constexpr Index kTileSize =
      !kConverts ? 1
      : Shape::kKeyDim == kDynamic || Shape::kValueDim == kDynamic
          ? DecodeLayout<State>::kMaxTileSize
          : kRows * DecodeLayout<State>(Shape::kKeyDim, Shape::kValueDim).TileWidth(0);
  // Tokens of one walk over the state, and the room for their keys and queries.
  static constexpr Index kMaxWalk = 16;
  static constexpr Index kRowRoom = std::min(kMaxWalk * kRows, std::max<Index>(4096, kRows));
  // A single token prefetches from the stream it walks along: far enough ahead for memory, near
  // enough not to push what it reads out of the first-level cache.
  static constexpr Index kPrefetchBytes = 4096;

  void Walk(Index batch, Index begin, Index count) {
    DecodeScale scale;
    CopyBytes(record_, sizeof(scale), &scale);
    LoadUpdate(layout_.UpdateKeyBytes(), layout_.rows(), update_key_);
    LoadUpdate(layout_.UpdateValueBytes(), layout_.columns(), update_value_);
    for (Index t = 0; t < count; ++t) {
      tokens_[t] = Prepare(batch, begin + t, t == 0 ? scale.scale : tokens_[t - 1].scale,
                           keys_ + t * layout_.rows(), queries_ + t * layout_.rows());
    }
    for (Index tile = 0; tile < layout_.tiles(); ++tile) {
      WalkTile(tile, batch, begin, count, scale.rescale);
    }
    const DecodeToken<R>& last = tokens_[count - 1];
    scale = {last.scale, last.rescale};
    CopyBytes(&scale, sizeof(scale), record_);
    StoreUpdate(keys_ + (count - 1) * layout_.rows(), layout_.rows(), layout_.UpdateKeyBytes());
    StoreUpdate(update_value_, layout_.columns(), layout_.UpdateValueBytes());
  }

  // k~ and scale q^ [rows], zero-padded, and the scalars of token t.
  DecodeToken<R> Prepare(Index batch, Index t, double scale, R* key, R* query) const {
    const T* k = args_.k.Row(batch, t, key_head_);
    const T* q = args_.q.Row(batch, t, key_head_);
    const RowProducts products = MultiplyRows(k, q, problem_.key_dim);
    const auto unit = UnitKey<StepSize>(static_cast<double>(args_.eta(batch, t, head_)),
                                        products.xx, problem_.epsilon);
    const double query_scale = StepSize::kNormalizeQuery
                                   ? problem_.scale * InverseNorm(products.yy, problem_.epsilon)
                                   : problem_.scale;
    ScaleRow(k, unit.key, problem_.key_dim, key, layout_.rows());
    ScaleRow(q, query_scale, problem_.key_dim, query, layout_.rows());
    const double decay = Decay(static_cast<double>(args_.g(batch, t, head_))) * scale;
    const DecodeScale next = NormalizeScale(decay);
    return {.value_scale = unit.value,
            .step = static_cast<R>(unit.step),
            .alignment = static_cast<R>(products.xy * unit.key * query_scale),
            .decay = static_cast<R>(decay),
            .inverse_scale = static_cast<R>(1.0 / next.scale),
            .scale = next.scale,
            .rescale = next.rescale};
  }

  // All tokens over one tile of columns. Where arithmetic and storage differ, the tile is kept in R
  // between the first and the last token, so that it is rounded once.
  void WalkTile(Index tile, Index batch, Index begin, Index count, double first_rescale) {
    State* const body = AtByte(record_, layout_.TileBytes(tile));
    const Index rows = layout_.rows(), width = layout_.TileWidth(tile);
    const Index column = layout_.TileBegin(tile);
    const Index bytes = rows * width * static_cast<Index>(sizeof(State));
    const auto* const stream = reinterpret_cast<const char*>(body);
    for (Index t = 0; t < count; ++t) {
      const DecodeVectors<R> vectors{
          .rescale = static_cast<R>(t == 0 ? first_rescale : tokens_[t - 1].rescale),
          .update_key = t == 0 ? update_key_ : keys_ + (t - 1) * rows,
          .update_value = update_value_ + column,
          .key = keys_ + t * rows,
          .query = queries_ + t * rows,
          .by_key = by_key_,
          .by_query = by_query_};
      if (count == 1) {
        DecodeTile<R, true>(body, body, rows, width, vectors,
                            {stream + kPrefetchBytes, bytes / rows});
      } else {
        // Each token fetches its share of the next tile, which lies behind this one; the last tile
        // of a head fetches the beginning of the next head.
        const DecodePrefetch prefetch{stream + bytes + t * (bytes / count), bytes / rows / count};
        if constexpr (!kConverts) {
          DecodeTile<R, false>(body, body, rows, width, vectors, prefetch);
        } else if (t == 0) {
          DecodeTile<R, false>(body, wide_, rows, width, vectors, prefetch);
        } else if (t + 1 < count) {
          DecodeTile<R, false>(wide_, wide_, rows, width, vectors, prefetch);
        } else {
          DecodeTile<R, false>(wide_, body, rows, width, vectors, prefetch);
        }
      }
      Finish(tokens_[t], batch, begin + t, column, width);
    }
  }

  // delta, o and d of one token and one tile.
  void Finish(const DecodeToken<R>& token, Index batch, Index t, Index column, Index width) {
    const Tag<R> d;
    const Index count = std::min(width, problem_.value_dim - column);
    ScaleRow(args_.v.Row(batch, t, head_) + column, token.value_scale, count, value_, width);
    const auto decay = hn::Set(d, token.decay), step = hn::Set(d, token.step);
    const auto alignment = hn::Set(d, token.alignment);
    const auto inverse_scale = hn::Set(d, token.inverse_scale);
    for (Index j = 0; j < width; j += kLanes<R>) {
      const auto recalled = hn::Mul(decay, hn::Load(d, by_key_ + j));
      const auto delta = hn::Mul(step, hn::Sub(hn::Load(d, value_ + j), recalled));
      const auto out = hn::MulAdd(decay, hn::Load(d, by_query_ + j), hn::Mul(alignment, delta));
      hn::Store(out, d, out_ + j);
      hn::Store(hn::Mul(delta, inverse_scale), d, update_value_ + column + j);
    }
    ConvertRow(out_, count, args_.o.Row(batch, t, head_) + column);
  }

  // u and d from and to the record, as B.
  void LoadUpdate(Index bytes, Index count, R* to) const {
    if constexpr (std::is_same_v<R, B>) {
      CopyBytes(AtByte(record_, bytes), count * static_cast<Index>(sizeof(B)), to);
    } else {
      for (Index i = 0; i < count; ++i) {
        B value;
        CopyBytes(AtByte(record_, bytes + i * static_cast<Index>(sizeof(B))), sizeof(B), &value);
        to[i] = static_cast<R>(value);
      }
    }
  }
  void StoreUpdate(const R* from, Index count, Index bytes) const {
    if constexpr (std::is_same_v<R, B>) {
      CopyBytes(from, count * static_cast<Index>(sizeof(B)), AtByte(record_, bytes));
    } else {
      for (Index i = 0; i < count; ++i) {
        const B value = static_cast<B>(from[i]);
        CopyBytes(&value, sizeof(B), AtByte(record_, bytes + i * static_cast<Index>(sizeof(B))));
      }
    }
  }

  const Args& args_;
  const Problem& problem_;
  const Index head_, key_head_;
  State* const record_;
  const DecodeLayout<State> layout_;

  DecodeToken<R> tokens_[kMaxWalk];
  alignas(64) R keys_[kRowRoom];          // k~ of each token [walk, rows]
  alignas(64) R queries_[kRowRoom];       // scale q^ of each token [walk, rows]
  alignas(64) R update_key_[kRows];       // u [rows], from the call before
  alignas(64) R update_value_[kColumns];  // d [columns]
  alignas(64) R by_key_[kWidth];          // p of one tile and token
  alignas(64) R by_query_[kWidth];        // r
  alignas(64) R value_[kWidth];           // v~
  alignas(64) R out_[kWidth];             // o
  alignas(64) R wide_[kTileSize];         // X of one tile in R [rows, width]
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class StepSize, class T, class State, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, Simd, Shape> {
  // Tasks are heads of sequences; each is summed in the same order, whoever runs it.
  template <class Executor>
  static void Run(const DecodeStepArgs<T>& args, DecodeState<Simd, Shape, State>& pool,
                  const Executor& executor) {
    const Problem problem = MakeProblem(args);
    executor.ParallelFor(problem.sequences * problem.value_heads, [&](Index task) {
      const Index n = task / problem.value_heads, head = task % problem.value_heads;
      const Index slot = args.slots.is_null() ? n : args.slots[n];
      const auto [batch, begin, length] = SequenceAt(args.cu_seqlens, problem.tokens, n);
      if (slot == -1 || length == 0) return;
      HWY_NAMESPACE::DecodeHead<StepSize, T, State, Shape>(args, problem, head,
                                                           pool.Head(slot, head))
          .Run(batch, begin, length);
    });
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_STEP_H_
