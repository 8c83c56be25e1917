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
  RowFactor<R> key_factor;    // r
  RowFactor<R> query_factor;  // scale, times 1 / |q| where queries are normalised
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
// The step size enters by the scalars of a token alone: the walks are compiled once for all.
template <class T, class State, class Shape>
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

  // Heads [first, last) of all sequences, counted sequence by sequence.
  template <class StepSize>
  void Run(Index first, Index last) {
    head_ = first;
    last_head_ = last;
    token_ = 0;
    while (GatherWalks()) {
      PrepareWalks<StepSize>();
      for (Index i = 0; i < walk_count_; ++i) RunWalk(walks_[i]);
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
  // Walks that are prepared together, their tokens, and the room for keys and queries.
  static constexpr Index kMaxWalks = 8;
  static constexpr Index kMaxTokens = 16;
  static constexpr Index kRowRoom = std::min(kMaxTokens * kRows, std::max<Index>(4096, kRows));
  // How far ahead a single token fetches the stream that it walks along. Measured on two Intel
  // servers: best of 1 to 16 KB on the newer, 3 % behind 6 KB on the older.
  static constexpr Index kPrefetchBytes = 3072;

  // A few tokens of one head of one sequence. What was prepared for them lies one after the other.
  struct Walk {
    Index batch, begin, count;  // tokens [begin, begin + count) of a batch row
    Index head, key_head;
    State* record;
    double rescale;  // c before the first token
    DecodeToken<R>* tokens;
    R* keys;     // k~ of each token [count, row_pitch]
    R* queries;  // scale q^ of each token [count, row_pitch]
  };

  // The next walks; false if there are none.
  bool GatherWalks() {
    const Index room = std::min(kMaxTokens, kRowRoom / layout_.row_pitch());
    Index used = 0;
    walk_count_ = 0;
    for (; head_ < last_head_ && walk_count_ < kMaxWalks; ++head_, token_ = 0) {
      const Index n = problem_.sequences == 1 ? 0 : head_ / problem_.value_heads;
      const Index slot = args_.slots.is_null() ? n : args_.slots[n];
      const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
      if (slot == -1 || token_ >= span.length) continue;
      const Index count = std::min(room, span.length - token_);
      if (used + count > room) break;
      const Index head = head_ - n * problem_.value_heads;
      walks_[walk_count_++] = {
          .batch = span.batch,
          .begin = span.begin + token_,
          .count = count,
          .head = head,
          .key_head = problem_.key_heads == problem_.value_heads ? head : problem_.KeyHeadOf(head),
          .record = pool_.Head(slot, head),
          .rescale = 1.0,
          .tokens = tokens_ + used,
          .keys = keys_ + used * layout_.row_pitch(),
          .queries = queries_ + used * layout_.row_pitch()};
      used += count;
      token_ += count;
      if (token_ < span.length) break;  // the rest of this head, after what is prepared now
    }
    return walk_count_ > 0;
  }

  // The scalars, keys and queries of their tokens. From a token's norms to its factors is a chain
  // of some 200 cycles: each step is taken for all tokens, so that their chains overlap.
  template <class StepSize>
  void PrepareWalks() {
    RowProducts products[kMaxTokens];
    ForEachToken([&](const Walk& walk, Index t) KLA_SIMD_INLINE {
      products[walk.tokens + t - tokens_] =
          MultiplyRows<R>(KeyRow(args_.k, walk, t), KeyRow(args_.q, walk, t), problem_.key_dim);
    });
    for (Index i = 0; i < walk_count_; ++i) {
      DecodeScale scale;
      CopyBytes(walks_[i].record, sizeof(scale), &scale);
      walks_[i].rescale = scale.rescale;
      for (Index t = 0; t < walks_[i].count; ++t) {
        DecodeToken<R>& token = walks_[i].tokens[t];
        token = Scalars<StepSize>(walks_[i], t, products[&token - tokens_], scale);
        scale = {token.scale, token.rescale};
      }
    }
    ForEachToken([&](const Walk& walk, Index t) KLA_SIMD_INLINE {
      const Index pitch = layout_.row_pitch();
      ScaleRow(KeyRow(args_.k, walk, t), walk.tokens[t].key_factor, problem_.key_dim,
               walk.keys + t * pitch, pitch);
      ScaleRow(KeyRow(args_.q, walk, t), walk.tokens[t].query_factor, problem_.key_dim,
               walk.queries + t * pitch, pitch);
    });
  }

  // f(walk, t) for the tokens of all walks.
  template <class F>
  HWY_INLINE void ForEachToken(const F& f) const {
    for (Index i = 0; i < walk_count_; ++i) {
      for (Index t = 0; t < walks_[i].count; ++t) f(walks_[i], t);
    }
  }
  static const T* KeyRow(const KeyView<const T>& rows, const Walk& walk, Index t) {
    return rows.Row(walk.batch, walk.begin + t, walk.key_head);
  }

  // Of token t of a walk, with `scale` A and c before it.
  template <class StepSize>
  DecodeToken<R> Scalars(const Walk& walk, Index t, const RowProducts& products,
                         const DecodeScale& scale) const {
    const Index token = walk.begin + t;
    const auto unit =
        internal::UnitKey<StepSize>(static_cast<double>(args_.eta(walk.batch, token, walk.head)),
                                    products.xx, problem_.epsilon);
    const double query_scale =
        StepSize::kNormalizeQuery
            ? problem_.scale * internal::InverseNorm(products.yy, problem_.epsilon)
            : problem_.scale;
    const double decay =
        internal::Decay(static_cast<double>(args_.g(walk.batch, token, walk.head))) * scale.scale;
    const DecodeScale after = NormalizeScale(decay);
    return {.key_factor = RowFactor<R>(unit.key),
            .query_factor = RowFactor<R>(query_scale),
            .value_factor = RowFactor<R>(unit.value),
            .step = static_cast<R>(unit.step),
            .alignment = static_cast<R>(products.xy * unit.key * query_scale),
            .decay = static_cast<R>(decay),
            .inverse_scale = static_cast<R>(1.0 / after.scale),
            .scale = after.scale,
            .rescale = after.rescale};
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
      const auto run = [&](auto share, auto* from, auto* to, DecodePrefetch lines) KLA_SIMD_INLINE {
        DecodeTile<R, State, kWidths, decltype(share)::value>(from, to, rows, width, vectors, lines,
                                                              finish);
      };
      // Each of several tokens fetches a share of the next tile, which lies behind this one, and
      // all of them the whole; the last tile of a head fetches the beginning of the next head. Of
      // four tokens or more each fetches one line a row.
      const DecodePrefetch share{stream + rows * (row_bytes + t * step), step, count >= 4};
      if (count == 1) {
        run(std::false_type(), body, body, {stream + kPrefetchBytes, step});
      } else if constexpr (!kConverts) {
        run(std::true_type(), body, body, share);
      } else if (t == 0) {
        run(std::true_type(), body, wide_, share);
      } else if (t + 1 < count) {
        run(std::true_type(), wide_, wide_, share);
      } else {
        run(std::true_type(), wide_, body, share);
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

  // Where preparation stands: the head and its next token.
  Index head_, last_head_, token_;
  // What is prepared.
  Walk walks_[kMaxWalks];
  Index walk_count_;
  DecodeToken<R> tokens_[kMaxTokens];
  alignas(64) R keys_[kRowRoom];
  alignas(64) R queries_[kRowRoom];

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
    using Heads = HWY_NAMESPACE::DecodeHeads<T, State, Shape>;
    const Problem problem = MakeProblem(args);
    const Index heads = problem.sequences * problem.value_heads, threads = executor.Concurrency();
    const Index run = threads == 1 ? heads : std::max<Index>(1, heads / (4 * threads));
    if (heads == 0) return;
    executor.ParallelFor((heads + run - 1) / run, [&](Index task) {
      Heads(args, problem, pool)
          .template Run<StepSize>(task * run, std::min(heads, (task + 1) * run));
    });
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_STEP_H_
