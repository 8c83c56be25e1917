// SPDX-License-Identifier: Apache-2.0
// backend/simd: DecodeStep.
#ifndef KLA_BACKEND_SIMD_DECODE_STEP_H_
#define KLA_BACKEND_SIMD_DECODE_STEP_H_

#include <bit>
#include <cstdint>

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
  RowFactor<R> value_factor;  // r_v
  R step;                     // b
  R alignment;                // scale <k~, q^>
  R decay;                    // a A, which X^T k~ and X^T q^ are multiplied by
  R inverse_scale;            // 1 / A+
  double scale;               // A+, after this token
  double rescale;             // c+, with a A = A+ c+
};

// a A as A+ c+: a power of two moves from the scale, which stays in [1/2, 1], to the body.
inline DecodeScale NormalizeScale(double scale) {
  if (scale >= 0.5 && scale <= 1.0) [[likely]]
    return {scale, 1.0};
  constexpr std::uint64_t kMantissa = (std::uint64_t{1} << 52) - 1;
  const auto bits = std::bit_cast<std::uint64_t>(scale);
  const std::uint64_t exponent = bits >> 52;  // and the sign, which is 0
  // Zero, subnormal or infinite, and NaN: such a decay leaves nothing to keep apart.
  if (exponent - 1 >= 0x7fe - 1) return {1.0, scale < 1.0 ? 0.0 : scale};
  return {std::bit_cast<double>((bits & kMantissa) | (std::uint64_t{0x3fe} << 52)),
          std::bit_cast<double>((exponent + 1) << 52)};
}

// Heads of sequences, one after the other. With the record S = A (c X + u d^T) of decode_packing.h,
// a token is
//   X <- c X + u d^T                                     one pass over X, which yields
//   p = X^T k~,   r = X^T scale q^                       on the way
//   delta = b (v~ - a A p),   o = a A r + scale <k~, q^> delta
//   A+ c+ = a A,   u <- k~,   d <- delta / A+
// since S~ = a A X is the decayed state, S~ + k~ delta^T the new one, and o = scale S^T q^.
// q, k [K]   v, o [V]   S [K, V] in place. Reads and writes S once; 6KV flops, and KV for c.
// Several tokens are applied to a tile of columns while it is in cache, then to the next tile: a
// walk. Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587; unit-key form in
// math/unit_key.h.
template <class StepSize, class T, class State, class Shape>
class DecodeHeads {
 public:
  using R = Accumulator<T>;
  using B = Accumulator<State>;
  using Args = DecodeStepArgs<T>;
  using Pool = DecodeState<Simd, Shape, State>;

  DecodeHeads(const Args& args, const Problem& problem, Pool& pool)
      : args_(args),
        problem_(problem),
        pool_(pool),
        layout_(Shape::kKeyDim == kDynamic ? problem.key_dim : Shape::kKeyDim,
                Shape::kValueDim == kDynamic ? problem.value_dim : Shape::kValueDim) {}

  // Heads [first, last) of all sequences, counted sequence by sequence. The scalars of a walk are
  // prepared before the walk that precedes it: a chain of some 200 cycles that hides behind it.
  void Run(Index first, Index last) {
    head_ = first;
    last_head_ = last;
    token_ = 0;
    Index at = 0;
    bool more = PrepareWalk(walks_[at]);
    while (more) {
      more = PrepareWalk(walks_[1 - at]);
      RunWalk(walks_[at]);
      at = 1 - at;
    }
  }

 private:
  // Sizes, or bounds of them for dynamic shapes.
  static constexpr Index kLargestKeyDim = Shape::kKeyDim == kDynamic ? kMaxHeadDim : Shape::kKeyDim;
  static constexpr Index kRows = DecodeLayout<State>(kLargestKeyDim, 1).row_pitch();
  static constexpr Index kColumns =
      RoundUp(Shape::kValueDim == kDynamic ? kMaxHeadDim : Shape::kValueDim, kLanes<float>);
  static constexpr Index kWidth = DecodeLayout<State>::kMaxTileVectors * kLanes<float>;
  static constexpr bool kConverts = !std::is_same_v<R, State>;
  static constexpr Index kTileSize =
      !kConverts ? 1
      : Shape::kKeyDim == kDynamic || Shape::kValueDim == kDynamic
          ? DecodeLayout<State>::kMaxTileSize
          : kRows * DecodeLayout<State>(Shape::kKeyDim, Shape::kValueDim).TileWidth(0);
  // Widths of the passes over its tiles, which differ by one vector at most.
  static constexpr unsigned kWidths = [] {
    if (Shape::kKeyDim == kDynamic || Shape::kValueDim == kDynamic) return 0b11110u;
    const DecodeLayout<State> layout(kLargestKeyDim, kColumns);
    return PassWidths<R>(layout.TileWidth(0)) | PassWidths<R>(layout.TileWidth(layout.tiles() - 1));
  }();
  // Tokens of one walk over the state, and the room for their keys and queries.
  static constexpr Index kMaxWalk = 16;
  static constexpr Index kRowRoom = std::min(kMaxWalk * kRows, std::max<Index>(4096, kRows));
  // A single token prefetches from the stream it walks along: far enough ahead for memory, near
  // enough not to push what it reads out of the first-level cache.
  static constexpr Index kPrefetchBytes = 4096;

  // A few tokens of one head of one sequence.
  struct Walk {
    Index batch, begin, count;  // tokens [begin, begin + count) of a batch row
    Index head;
    State* record;
    double rescale;  // c before the first token
    DecodeToken<R> tokens[kMaxWalk];
    alignas(64) R keys[kRowRoom];     // k~ of each token [count, row_pitch]
    alignas(64) R queries[kRowRoom];  // scale q^ of each token [count, row_pitch]
  };

  // The next walk, or false if there is none.
  bool PrepareWalk(Walk& walk) {
    for (; head_ < last_head_; ++head_, token_ = 0) {
      const Index n = problem_.sequences == 1 ? 0 : head_ / problem_.value_heads;
      const Index slot = args_.slots.is_null() ? n : args_.slots[n];
      const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
      if (slot == -1 || token_ >= span.length) continue;
      walk.batch = span.batch;
      walk.begin = span.begin + token_;
      walk.count = std::min({kMaxWalk, kRowRoom / layout_.row_pitch(), span.length - token_});
      walk.head = head_ - n * problem_.value_heads;
      walk.record = pool_.Head(slot, walk.head);
      if (token_ == 0) CopyBytes(walk.record, sizeof(scale_), &scale_);
      walk.rescale = scale_.rescale;
      token_ += walk.count;
      for (Index t = 0; t < walk.count; ++t) {
        walk.tokens[t] =
            Prepare(walk.batch, walk.begin + t, walk.head, walk.keys + t * layout_.row_pitch(),
                    walk.queries + t * layout_.row_pitch());
      }
      return true;
    }
    return false;
  }

  // k~ and scale q^ [row_pitch], zero-padded, and the scalars of token t.
  // Advances scale_.
  DecodeToken<R> Prepare(Index batch, Index t, Index head, R* key, R* query) {
    const Index key_head =
        problem_.key_heads == problem_.value_heads ? head : problem_.KeyHeadOf(head);
    const T* k = args_.k.Row(batch, t, key_head);
    const T* q = args_.q.Row(batch, t, key_head);
    const RowProducts products = MultiplyRows<R>(k, q, problem_.key_dim);
    const auto unit = UnitKey<StepSize>(static_cast<double>(args_.eta(batch, t, head)), products.xx,
                                        problem_.epsilon);
    const double query_scale = StepSize::kNormalizeQuery
                                   ? problem_.scale * InverseNorm(products.yy, problem_.epsilon)
                                   : problem_.scale;
    ScaleRow(k, RowFactor<R>(unit.key), problem_.key_dim, key, layout_.row_pitch());
    ScaleRow(q, RowFactor<R>(query_scale), problem_.key_dim, query, layout_.row_pitch());
    const double decay = Decay(static_cast<double>(args_.g(batch, t, head))) * scale_.scale;
    scale_ = NormalizeScale(decay);
    return {.value_factor = RowFactor<R>(unit.value),
            .step = static_cast<R>(unit.step),
            .alignment = static_cast<R>(products.xy * unit.key * query_scale),
            .decay = static_cast<R>(decay),
            .inverse_scale = static_cast<R>(1.0 / scale_.scale),
            .scale = scale_.scale,
            .rescale = scale_.rescale};
  }

  void RunWalk(const Walk& walk) {
    update_key_ = LoadUpdate(walk, layout_.UpdateKeyBytes(), layout_.row_pitch(), own_update_key_);
    update_value_ =
        LoadUpdate(walk, layout_.UpdateValueBytes(), layout_.columns(), own_update_value_);
    for (Index tile = 0; tile < layout_.tiles(); ++tile) RunTile(walk, tile);
    const DecodeToken<R>& last = walk.tokens[walk.count - 1];
    const DecodeScale scale{last.scale, last.rescale};
    CopyBytes(&scale, sizeof(scale), walk.record);
    StoreUpdate(walk, walk.keys + (walk.count - 1) * layout_.row_pitch(), layout_.row_pitch(),
                layout_.UpdateKeyBytes());
    if constexpr (kConverts) {
      StoreUpdate(walk, update_value_, layout_.columns(), layout_.UpdateValueBytes());
    }
  }

  // All tokens over one tile of columns. Where arithmetic and storage differ, the tile is kept in R
  // between the first and the last token, so that it is rounded once.
  void RunTile(const Walk& walk, Index tile) {
    State* const body = AtByte(walk.record, layout_.TileBytes(tile));
    const Index rows = layout_.rows(), width = layout_.TileWidth(tile);
    const Index column = layout_.TileBegin(tile), pitch = layout_.row_pitch();
    const Index row_bytes = width * static_cast<Index>(sizeof(State));
    const Index count = walk.count;
    const Index step = count == 1 ? row_bytes : row_bytes / count;
    const auto* const stream = reinterpret_cast<const char*>(body);
    for (Index t = 0; t < count; ++t) {
      const DecodeVectors<R> vectors{
          .rescale = static_cast<R>(t == 0 ? walk.rescale : walk.tokens[t - 1].rescale),
          .update_key = t == 0 ? update_key_ : walk.keys + (t - 1) * pitch,
          .update_value = update_value_ + column,
          .key = walk.keys + t * pitch,
          .query = walk.queries + t * pitch};
      // The rows of v and o, or copies of them where the tile sticks out of [V].
      const T* const v_row = args_.v.Row(walk.batch, walk.begin + t, walk.head) + column;
      T* const o_row = args_.o.Row(walk.batch, walk.begin + t, walk.head) + column;
      const Index inside = problem_.value_dim - column;
      const bool sticks_out = inside < width;
      if (sticks_out) {
        std::fill(std::copy_n(v_row, inside, padded_value_), padded_value_ + width, T(0.0f));
      }
      const auto finish = Finish(walk.tokens[t], sticks_out ? padded_value_ : v_row,
                                 sticks_out ? padded_out_ : o_row, update_value_ + column);
      const auto run = [&](auto prefetch_rows, const auto* from, auto* to,
                           const DecodePrefetch& prefetch) KLA_SIMD_INLINE {
        DecodeTile<R, kWidths, decltype(prefetch_rows)::value>(from, to, rows, width, vectors,
                                                               prefetch, finish);
      };
      // Each of several tokens fetches its share of the next tile, which lies behind this one; the
      // last tile of a head fetches the beginning of the next head.
      const DecodePrefetch ahead{stream + rows * (row_bytes + t * step), step};
      if (count == 1) {
        run(std::true_type(), body, body, {stream + kPrefetchBytes, step});
      } else if constexpr (!kConverts) {
        run(std::false_type(), body, body, ahead);
      } else if (t == 0) {
        run(std::false_type(), body, wide_, ahead);
      } else if (t + 1 < count) {
        run(std::false_type(), wide_, wide_, ahead);
      } else {
        run(std::false_type(), wide_, body, ahead);
      }
      if (sticks_out) std::copy_n(padded_out_, inside, o_row);
    }
  }

  // delta, o and d, for each vector of columns when its p and r are known.
  static HWY_INLINE auto Finish(const DecodeToken<R>& token, const T* v, T* o, R* update) {
    const Tag<R> tag;
    return [=](Index column, auto p, auto r) KLA_SIMD_INLINE {
      const auto decay = hn::Set(tag, token.decay);
      const auto value =
          hn::Mul(hn::Mul(LoadAs<R>(v + column), hn::Set(tag, token.value_factor.first)),
                  hn::Set(tag, token.value_factor.second));
      const auto delta = hn::Mul(hn::Set(tag, token.step), hn::NegMulAdd(decay, p, value));
      const auto out = hn::MulAdd(decay, r, hn::Mul(hn::Set(tag, token.alignment), delta));
      StoreAs<R>(out, o + column);
      hn::Store(hn::Mul(delta, hn::Set(tag, token.inverse_scale)), tag, update + column);
    };
  }

  // u or d, `count` elements of B padded to whole vectors: in
  // the record if that holds R, else copied.
  R* LoadUpdate(const Walk& walk, Index bytes, Index count, R* own) const {
    if constexpr (std::is_same_v<R, State>) {
      return AtByte(walk.record, bytes);
    } else {
      const B* from = reinterpret_cast<const B*>(AtByte(walk.record, bytes));
      for (Index i = 0; i < count; i += kLanes<R>) StoreAs<R>(LoadAs<R>(from + i), own + i);
      return own;
    }
  }
  void StoreUpdate(const Walk& walk, const R* from, Index count, Index bytes) const {
    B* to = reinterpret_cast<B*>(AtByte(walk.record, bytes));
    for (Index i = 0; i < count; i += kLanes<R>) StoreAs<R>(LoadAs<R>(from + i), to + i);
  }

  const Args& args_;
  const Problem& problem_;
  Pool& pool_;
  const DecodeLayout<State> layout_;

  // Where preparation stands: the head, its next token, and A and c before that.
  Index head_, last_head_, token_;
  DecodeScale scale_;
  Walk walks_[2];  // the one that runs and the one after it

  const R* update_key_;                                  // u [row_pitch], from the call before
  R* update_value_;                                      // d [columns]
  alignas(64) R own_update_key_[kConverts ? kRows : 1];  // u, d where the record holds another type
  alignas(64) R own_update_value_[kConverts ? kColumns : 1];
  alignas(64) T padded_value_[kWidth];  // v, o of a tile that sticks out of [V]
  alignas(64) T padded_out_[kWidth];
  alignas(64) R wide_[kTileSize];  // X of one tile in R [rows, width]
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class StepSize, class T, class State, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, Simd, Shape> {
  // Tasks are runs of heads, four or more for each thread; each head is computed by the same
  // operations in the same order, whatever run it is in.
  template <class Executor>
  static void Run(const DecodeStepArgs<T>& args, DecodeState<Simd, Shape, State>& pool,
                  const Executor& executor) {
    using Heads = HWY_NAMESPACE::DecodeHeads<StepSize, T, State, Shape>;
    const Problem problem = MakeProblem(args);
    const Index heads = problem.sequences * problem.value_heads, threads = executor.Concurrency();
    const Index run = threads == 1 ? heads : std::max<Index>(1, heads / (4 * threads));
    if (heads == 0) return;
    executor.ParallelFor((heads + run - 1) / run, [&](Index task) {
      Heads(args, problem, pool).Run(task * run, std::min(heads, (task + 1) * run));
    });
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_STEP_H_
