// SPDX-License-Identifier: Apache-2.0
// backend/simd: one block of C = kBlock tokens of one value head, packed for the register tiles,
// and the part of the chunk form (math/chunk_form.h) that does not involve the state.
#ifndef KLA_BACKEND_SIMD_CHUNK_BLOCK_H_
#define KLA_BACKEND_SIMD_CHUNK_BLOCK_H_

#include "kla/backend/simd/chunk_rows.h"

// After target.h, which chooses the instruction set.
#include <hwy/contrib/math/math-inl.h>

#include "kla/core/shape.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"
#include "kla/op/problem.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Tokens that are computed as matrices between two updates of the state. Per token, head and
// multiply-add: 3KV with the state and about C (K + V) inside the block; at 16 the second part is
// smallest, and one vector of 16 floats is a row of every C x C matrix. Measured at K = V = 128,
// AVX-512, one thread: 32 is 4 % and 64 is 15 % slower.
inline constexpr Index kBlock = 16;

// Sizes of the packed arrays of one head, and where they lie in a block's memory.
template <class R>
struct BlockLayout {
  explicit BlockLayout(Index key_dimension, Index value_dimension)
      : key_dim(key_dimension),
        value_dim(value_dimension),
        key_rows(RoundUp(key_dimension, 16)),
        key_pitch(RoundUp(key_rows, kLanes<R>)),
        panels((value_dimension + kPanel<R> - 1) / kPanel<R>) {}

  Index PanelSize() const { return key_rows * kPanel<R>; }
  Index StateSize() const { return panels * PanelSize(); }
  Index BlockSize() const {
    return KeysSize() + 2 * kBlock * kBlock + panels * kBlock * kPanel<R> + 5 * kBlock;
  }
  // Of keys and queries: [key_rows][2C], or as pairs (pair_amx.h), which may take more.
  Index KeysSize() const {
    return std::max(key_rows * 2 * kBlock, 2 * kBlock * PairPitch() + key_rows * kBlock / 2);
  }
  // Words of a row of keys in pairs, whole vectors and tiles of them.
  Index PairPitch() const { return RoundUp(key_rows / 2, 16); }

  Index key_dim, value_dim;
  Index key_rows;   // rows of a packed state: K rounded up to 16, whole tiles
  Index key_pitch;  // of rows of keys: K rounded up to whole vectors
  Index panels;     // of kPanel columns: V rounded up
};

// A packed state is [panels][key_rows][kPanel], zero beyond K and V.
// Pointers into the memory of one block, BlockSize() elements.
template <class R>
struct Block {
  Block(const BlockLayout<R>& layout, R* memory)
      : keys_queries(memory),
        a(keys_queries + layout.KeysSize()),
        p(a + kBlock * kBlock),
        values(p + kBlock * kBlock),
        step(values + layout.panels * kBlock * kPanel<R>),
        gamma(step + kBlock),
        to_end(gamma + kBlock),
        key_gamma(to_end + kBlock),
        query_gamma(key_gamma + kBlock) {}

  R* keys_queries;     // [key_rows][2C]   columns: k~_i, then s q^_i
  R* a;                // [C][C]           A = StrictLower(b (K K^T * D))
  R* p;                // [C][C]           P = s Lower(Q K^T * D)
  R* values;           // [panels][C][kPanel]   v~; the forward walk replaces it by o
  R* step;             // [C]              b
  R* gamma;            // [C]              exp(G)
  R* to_end;           // [C]              w = exp(G_last - G)
  R* key_gamma;        // [C]  gamma r     } where keys and queries are packed without their factors
  R* query_gamma;      // [C]  gamma s r_q }
  R* decay = nullptr;  // [C][C]  D, lower     } where gradients are wanted
  R* key_products = nullptr;  // [C][C]  K K^T * D, strictly lower }
};

// What the gradients need of a token besides its block.
template <class R>
struct TokenScales {
  Wide<R> norm2[kBlock];  // |k|^2
  Wide<R> query[kBlock];  // q^ = query q
  internal::UnitKeyScales<Wide<R>> key[kBlock];
};

// Rows of one axis as they lie in the caller's memory: row i at data + i * stride.
template <class T>
struct Rows {
  const T* data;
  Index stride;
  const T* operator[](Index i) const { return data + i * stride; }
};

// The caller's rows of one block: `count` <= C tokens of one value head.
template <class T>
struct BlockInput {
  template <class Args>
  BlockInput(const Args& args, Index batch, Index first, Index tokens, Index key_head,
             Index value_head)
      : q{args.q.Row(batch, first, key_head), args.q.template stride<Time>()},
        k{args.k.Row(batch, first, key_head), args.k.template stride<Time>()},
        v{args.v.Row(batch, first, value_head), args.v.template stride<Time>()},
        g{&args.g(batch, first, value_head), args.g.template stride<Time>()},
        eta{&args.eta(batch, first, value_head), args.eta.template stride<Time>()},
        count(tokens) {}

  Rows<T> q, k, v;
  Rows<Accumulator<T>> g, eta;
  Index count;
};

// Cumulative log decay of a block as the sum of two R, so that differences of large sums keep the
// accuracy of R: G = high + low. Tokens behind the last one decay by nothing.
template <class R>
struct LogDecay {
  template <class T>
  LogDecay(const Rows<T>& g, Index count) {
    Wide<R> sum(0);
    for (Index i = 0; i < kBlock; ++i) {
      if (i < count) sum += internal::ClampLogDecay(static_cast<Wide<R>>(*g[i]));
      high[i] = static_cast<R>(sum);
      low[i] = static_cast<R>(sum - static_cast<Wide<R>>(high[i]));
    }
  }
  // G_i - G_j for the lanes j = first, first + 1, ...
  HWY_INLINE Vector<R> From(Index i, Index first) const {
    const Tag<R> d;
    return hn::Add(hn::Sub(hn::Set(d, high[i]), hn::Load(d, high + first)),
                   hn::Sub(hn::Set(d, low[i]), hn::Load(d, low + first)));
  }
  alignas(64) R high[kBlock];
  alignas(64) R low[kBlock];
};

// The tile of products whose columns are the tokens of a block: where one vector holds them all, a
// tile of twice the rows keeps as many sums in flight.
template <class R>
inline constexpr int kTokenVectors = static_cast<int>(std::min<Index>(kTileVectors,
                                                                      kBlock / kLanes<R>));
template <class R>
inline constexpr int kTokenRows = kTokenVectors<R> == 1 ? 2 * kTileRows : kTileRows;
template <class R>
inline constexpr Index kTokenColumns = kTokenVectors<R>* kLanes<R>;
template <class R>
using TokenTile = RegisterTile<R, kTokenRows<R>, kTokenVectors<R>>;

// gamma, w, A, P from the packed keys and queries, b and G.
// K K^T and Q K^T: one product of [2C, K] by [K, C]; 4 C^2 K flops.
template <class R>
HWY_NOINLINE void BlockMatrices(const BlockLayout<R>& layout, const LogDecay<R>& log_decay,
                                const Block<R>& block) {
  const Tag<R> d;
  for (Index j = 0; j < kBlock; j += kLanes<R>) {
    const auto gamma =
        hn::Exp(d, hn::Add(hn::Load(d, log_decay.high + j), hn::Load(d, log_decay.low + j)));
    hn::Store(gamma, d, block.gamma + j);
    hn::Store(hn::Exp(d, log_decay.From(kBlock - 1, j)), d, block.to_end + j);
  }
  const auto lane = hn::Iota(d, R(0));
  for (Index first = 0; first < kBlock; first += kTokenColumns<R>) {
    for (Index r = 0; r < 2 * kBlock; r += kTokenRows<R>) {
      TokenTile<R> tile;
      tile.SetZero();
      tile.template MulAdd<1, 2 * kBlock, 2 * kBlock>(block.keys_queries + r,
                                                      block.keys_queries + first, layout.key_dim);
      tile.Store((r < kBlock ? block.a + r * kBlock : block.p + (r - kBlock) * kBlock) + first,
                 kBlock);
    }
  }
  for (Index i = 0; i < kBlock; ++i) {
    const auto step = hn::Set(d, block.step[i]);
    for (Index j = 0; j < kBlock; j += kLanes<R>) {
      R* a = block.a + i * kBlock + j;
      R* p = block.p + i * kBlock + j;
      const auto row = hn::Set(d, static_cast<R>(i - j));
      const auto lower = hn::Le(lane, row);
      const auto decay =
          hn::IfThenElseZero(lower, hn::Exp(d, hn::IfThenElseZero(lower, log_decay.From(i, j))));
      const auto products = hn::Mul(hn::IfThenElseZero(hn::Lt(lane, row), decay), hn::Load(d, a));
      hn::Store(hn::Mul(step, products), d, a);
      hn::Store(hn::Mul(decay, hn::Load(d, p)), d, p);
      if (block.decay != nullptr) {
        hn::Store(decay, d, block.decay + i * kBlock + j);
        hn::Store(products, d, block.key_products + i * kBlock + j);
      }
    }
  }
}

// Memory for the rows of one axis of a block in the arithmetic type, on the stack: they pass
// through L1 on their way into the packed block, and back where they are gradients.
template <class R>
struct BlockRows {
  alignas(64) R data[kBlock * RoundUp(kMaxHeadDim, 64)];
};

// The rows of keys or queries of one block in R, whole vectors of them: the caller's own where they
// are such, else copies, with zero rows behind the last token.
template <class T, class R>
HWY_INLINE Rows<R> RowsOf(const Rows<T>& from, Index count, const BlockLayout<R>& layout,
                          BlockRows<R>& memory) {
  if constexpr (std::is_same_v<T, R>) {
    if (count == kBlock && layout.key_dim == layout.key_pitch) return from;
  }
  for (Index i = 0; i < kBlock; ++i) {
    const Index used = i < count ? layout.key_dim : 0;
    CopyRow(used > 0 ? from[i] : nullptr, used, memory.data + i * layout.key_pitch,
            layout.key_pitch);
  }
  return {memory.data, layout.key_pitch};
}

// |x|^2 of every row, in W; 0 of those behind the last token.
template <class W, class R>
HWY_INLINE void SquaredNorms(const Rows<R>& rows, Index count, Index pitch, W* norm2) {
  for (Index i = 0; i < kBlock; ++i) {
    norm2[i] = i < count ? SquaredNorm<W>(rows[i], pitch) : W(0);
  }
}

// to [key_rows][2C], C columns of it: the rows times their factors, which may be beyond the range
// of R.
template <class W, class R>
HWY_INLINE void PackRows(Rows<R> rows, const W* factors, const BlockLayout<R>& layout,
                         BlockRows<R>& memory, R* to) {
  alignas(64) R narrow[kBlock];
  bool in_range = true;
  for (Index i = 0; i < kBlock; ++i) {
    narrow[i] = static_cast<R>(factors[i]);
    in_range = in_range && IsInRange<R>(factors[i]);
  }
  if (!in_range) [[unlikely]] {
    for (Index i = 0; i < kBlock; ++i) {
      R* row = memory.data + i * layout.key_pitch;
      if (rows[i] != row) CopyRow(rows[i], layout.key_dim, row, layout.key_pitch);
      narrow[i] = ScaleBeyondRange(factors[i], row, layout.key_pitch);
    }
    rows = {memory.data, layout.key_pitch};
  }
  TransposeRows<true>(rows.data, rows.stride, kBlock, layout.key_rows, narrow, to, 2 * kBlock);
}

// Columns of one panel of a row [V], times `factor`; zeros beyond V, and where `row` is null.
template <class T, class R>
HWY_INLINE void LoadPanelRow(const T* row, Index panel, const BlockLayout<R>& layout, R factor,
                             R* HWY_RESTRICT to) {
  const Index first = panel * kPanel<R>;
  if (row != nullptr && first + kPanel<R> <= layout.value_dim) {
    LoadRow(row + first, kPanel<R>, factor, to, kPanel<R>);
  } else {
    LoadRow(row == nullptr ? row : row + first, row == nullptr ? 0 : layout.value_dim - first,
            factor, to, kPanel<R>);
  }
}

// block.values = v~: the values times their factors, zeros behind the last token. Nothing where the
// caller wants none.
template <class T, class R>
HWY_INLINE void PackValues(const BlockInput<T>& input, const BlockLayout<R>& layout,
                           const R* factors, const Block<R>& block) {
  if (input.v.data == nullptr) return;
  for (Index i = 0; i < kBlock; ++i) {
    const T* row = i < input.count ? input.v[i] : nullptr;
    for (Index panel = 0; panel < layout.panels; ++panel) {
      LoadPanelRow(row, panel, layout, factors[i], block.values + (panel * kBlock + i) * kPanel<R>);
    }
  }
}

// Packs one block: reads q, k, v, g, eta once. `scales` may be null.
template <class StepSize, class T, class R = Accumulator<T>>
HWY_NOINLINE void PackBlock(const BlockInput<T>& input, const BlockLayout<R>& layout,
                            const Problem& problem, const Block<R>& block, TokenScales<R>* scales) {
  using W = Wide<R>;
  const Index pitch = layout.key_pitch;
  const W epsilon(problem.epsilon);
  BlockRows<R> memory;  // of one axis at a time: a frame on the stack of every thread
  W key_norm2[kBlock], query_norm2[kBlock], key_factor[kBlock], query_factor[kBlock];
  R value_factor[kBlock];
  // From a norm to its factor is a chain of roots and divisions: those of all tokens overlap.
  if constexpr (StepSize::kNormalizeQuery) {
    SquaredNorms(RowsOf(input.q, input.count, layout, memory), input.count, pitch, query_norm2);
  }
  const Rows<R> keys = RowsOf(input.k, input.count, layout, memory);
  SquaredNorms(keys, input.count, pitch, key_norm2);
  for (Index i = 0; i < kBlock; ++i) {
    internal::UnitKeyScales<W> unit{};  // of tokens behind the last one: k~ = q^ = v~ = 0 and b = 0
    W query(0);
    if (i < input.count) {
      unit = internal::UnitKey<StepSize>(static_cast<W>(*input.eta[i]), key_norm2[i], epsilon);
      query = StepSize::kNormalizeQuery ? internal::InverseNorm(query_norm2[i], epsilon) : W(1);
    }
    key_factor[i] = unit.key;
    value_factor[i] = static_cast<R>(unit.value);
    block.step[i] = static_cast<R>(unit.step);
    query_factor[i] = query * W(problem.scale);
    if (scales != nullptr) {
      scales->norm2[i] = key_norm2[i];
      scales->key[i] = unit;
      scales->query[i] = query;
    }
  }
  PackRows(keys, key_factor, layout, memory, block.keys_queries);
  PackRows(RowsOf(input.q, input.count, layout, memory), query_factor, layout, memory,
           block.keys_queries + kBlock);
  PackValues(input, layout, value_factor, block);
  BlockMatrices(layout, LogDecay<R>(input.g, input.count), block);
}

// How many neighbouring heads one task takes turns at. In [B, T, H, K] the rows of one head lie a
// token apart, on a page each: walking one head alone costs a page-table walk for every row, which
// neighbours share. Their states together are to stay in L2.
template <class R>
Index GroupOfHeads(const Problem& problem, const BlockLayout<R>& layout, Index threads) {
  constexpr Index kStateBytes = Index{512} << 10;
  const Index fitting = kStateBytes / (layout.StateSize() * static_cast<Index>(sizeof(R)));
  const Index fair = problem.sequences * problem.value_heads / std::max<Index>(threads, 1);
  return std::clamp<Index>(std::min(fitting, fair), 1, std::min<Index>(problem.value_heads, 16));
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_BLOCK_H_
