// SPDX-License-Identifier: Apache-2.0
// backend/simd: the part of the chunk form that involves the state, for one block of C tokens and
// one panel of kPanel columns of V. Columns never mix: panels are walked one by one.
#ifndef KLA_BACKEND_SIMD_CHUNK_WALK_H_
#define KLA_BACKEND_SIMD_CHUNK_WALK_H_

#include "kla/backend/simd/chunk_block.h"
#include "kla/backend/simd/line_queue.h"
#include "kla/core/layout.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Scratch of one walk, one panel.
template <class R>
struct PanelScratch {
  alignas(64) R products[2 * kBlock * kPanel<R>];   // K S, then s Q S   [2C][kPanel]
  alignas(64) R pseudo_values[kBlock * kPanel<R>];  // V'                [C][kPanel]
  alignas(64) R weighted[kBlock * kPanel<R>];       // w V'              [C][kPanel]
};

// Products with the state run over so many of its rows, a number that the compiler knows and that
// divides key_rows; then lines are fetched.
inline constexpr Index kFetchRows = 16;

// The work that goes with one share of lines, in multiply-adds a column: the least between two
// fetches.
inline constexpr Index kFetchWork = kTileRows * kFetchRows;

// How many shares of lines at least are fetched by a product of `rows` rows with the state and, if
// it `updates` it, by that, for one block and one panel.
template <class R>
constexpr Index FetchShares(const BlockLayout<R>& layout, Index rows, bool updates = true) {
  return (rows + kTallRows - 1) / kTallRows * (layout.key_rows / kFetchRows) +
         (updates ? layout.key_rows / kTallRows : 0);
}

// [K; s Q] S, the first `rows` of its 2C rows.   2 K flops an element
// S [key_rows][kPanel], products [rows][kPanel].
template <class R, class Lines>
HWY_INLINE void MultiplyState(const BlockLayout<R>& layout, const Block<R>& block, Index rows,
                              const R* HWY_RESTRICT state, R* HWY_RESTRICT products, Lines& lines) {
  ForTiles(rows, [&](auto height, Index i) KLA_SIMD_INLINE {
    RegisterTile<R, height> tile;
    tile.SetZero();
    for (Index k = 0; k < layout.key_rows; k += kFetchRows) {
      tile.template MulAdd<1, 2 * kBlock, kPanel<R>>(block.keys_queries + k * 2 * kBlock + i,
                                                     state + k * kPanel<R>, kFetchRows);
      lines.Fetch();
    }
    tile.Store(products + i * kPanel<R>, kPanel<R>);
  });
}

// E = V - gamma (K S), what the state does not yet recall of the values, and
// V' = (I + A)^-1 b E by forward substitution, and w V'.   C^2 flops a column
// A column of vectors stays in registers: row j, once known, is taken from all rows below it.
// `errors` may be null; recalled = K S, or its rows times 1 / r where gamma is block.key_gamma.
template <class R>
HWY_INLINE void SolveLower(const Block<R>& block, const R* HWY_RESTRICT gamma,
                           const R* HWY_RESTRICT recalled, const R* HWY_RESTRICT values,
                           R* HWY_RESTRICT errors, R* HWY_RESTRICT pseudo_values,
                           R* HWY_RESTRICT weighted) {
  const Tag<R> d;
  const R* HWY_RESTRICT a = block.a;
  for (Index n = 0; n < kPanel<R>; n += kLanes<R>) {
    Vector<R> row[kBlock];
    HWY_UNROLL(16) for (int i = 0; i < kBlock; ++i) {
      const Index at = i * kPanel<R> + n;
      row[i] =
          hn::NegMulAdd(hn::Set(d, gamma[i]), hn::Load(d, recalled + at), hn::Load(d, values + at));
      if (errors != nullptr) hn::Store(row[i], d, errors + at);
      row[i] = hn::Mul(hn::Set(d, block.step[i]), row[i]);
    }
    HWY_UNROLL(16) for (int j = 0; j < kBlock; ++j) {
      HWY_UNROLL(16) for (int i = j + 1; i < kBlock; ++i) {
        row[i] = hn::NegMulAdd(hn::Set(d, a[i * kBlock + j]), row[j], row[i]);
      }
    }
    HWY_UNROLL(16) for (int i = 0; i < kBlock; ++i) {
      hn::Store(row[i], d, pseudo_values + i * kPanel<R> + n);
      hn::Store(hn::Mul(hn::Set(d, block.to_end[i]), row[i]), d, weighted + i * kPanel<R> + n);
    }
  }
}

// O = gamma (s Q S) + P V'; read = s Q S.   C^2 flops a column
template <class R>
HWY_INLINE void Outputs(const Block<R>& block, const R* HWY_RESTRICT read,
                        const R* HWY_RESTRICT pseudo_values, R* HWY_RESTRICT out) {
  for (Index i = 0; i < kBlock; i += kTileRows) {
    RegisterTile<R> tile;
    tile.LoadScaledRows(block.gamma + i, read + i * kPanel<R>, kPanel<R>);
    tile.template MulAdd<kBlock, 1, kPanel<R>>(block.p + i * kBlock, pseudo_values, i + kTileRows);
    tile.Store(out + i * kPanel<R>, kPanel<R>);
  }
}

// S+ = gamma_C S + K^T (w V')   `next` may be `state`.   2 C K flops a column
template <class R, class Lines>
HWY_INLINE void UpdateState(const BlockLayout<R>& layout, const Block<R>& block,
                            const R* HWY_RESTRICT weighted, const R* state, R* next, Lines& lines) {
  const auto decay = hn::Set(Tag<R>(), block.gamma[kBlock - 1]);
  ForTiles(layout.key_rows, [&](auto height, Index k) KLA_SIMD_INLINE {
    RegisterTile<R, height> tile;
    tile.LoadScaled(decay, state + k * kPanel<R>, kPanel<R>);
    tile.template MulAdd<2 * kBlock, 1, kPanel<R>>(block.keys_queries + k * 2 * kBlock, weighted,
                                                   kBlock);
    tile.Store(next + k * kPanel<R>, kPanel<R>);
    lines.Fetch();
  });
}

// One block of one panel: o replaces v~ in `values`, the state moves on to the next block.
// 6 C K + 2 C^2 flops a column; reads the state once for each tile of keys and queries, and once to
// update it, all in L1: 16 KB of state, 16 KB of keys and queries at K = 128 and 32 columns.
// Meanwhile `lines` are fetched, FetchShares(layout, 2C) shares.
template <class R, class Lines>
HWY_INLINE void WalkBlock(const BlockLayout<R>& layout, const Block<R>& block, Index panel,
                          R* HWY_RESTRICT state, PanelScratch<R>& scratch, Lines& lines) {
  R* values = block.values + panel * kBlock * kPanel<R>;
  MultiplyState(layout, block, 2 * kBlock, state, scratch.products, lines);
  SolveLower<R>(block, block.gamma, scratch.products, values, nullptr, scratch.pseudo_values,
                scratch.weighted);
  Outputs(block, scratch.products + kBlock * kPanel<R>, scratch.pseudo_values, values);
  UpdateState(layout, block, scratch.weighted, state, state, lines);
}

// The same without outputs.   4 C K + C^2 flops a column; FetchShares(layout, C)
template <class R, class Lines>
HWY_NOINLINE void AdvanceBlock(const BlockLayout<R>& layout, const Block<R>& block, Index panel,
                               R* HWY_RESTRICT state, PanelScratch<R>& scratch, Lines& lines) {
  MultiplyState(layout, block, kBlock, state, scratch.products, lines);
  SolveLower<R>(block, block.gamma, scratch.products, block.values + panel * kBlock * kPanel<R>,
                nullptr, scratch.pseudo_values, scratch.weighted);
  UpdateState(layout, block, scratch.weighted, state, state, lines);
}

// Row i of a block's panels [panels][C][kPanel] to a row of the caller's memory.
template <class R, class T>
HWY_INLINE void StorePanelRow(const BlockLayout<R>& layout, const R* HWY_RESTRICT panels, Index i,
                              bool stream, T* to) {
  alignas(64) R row[RoundUp(kMaxHeadDim, kPanel<R>)];
  for (Index panel = 0; panel < layout.panels; ++panel) {
    CopyRow(panels + (panel * kBlock + i) * kPanel<R>, kPanel<R>, row + panel * kPanel<R>,
            kPanel<R>);
  }
  StoreRow(row, layout.value_dim, stream, to);
}

// Columns [panel kPanel, ...) of a state in the caller's memory to and from a packed panel
// [key_rows][kPanel]. A null state is zero.
template <class R, class S>
HWY_NOINLINE void LoadPanel(const S* from, Index key_stride, Index value_stride,
                            const BlockLayout<R>& layout, Index panel, R* HWY_RESTRICT to) {
  const Index first = panel * kPanel<R>;
  const Index count = std::min(kPanel<R>, layout.value_dim - first);
  if (from == nullptr || value_stride != 1 || layout.key_dim < layout.key_rows) {
    std::fill_n(to, layout.key_rows * kPanel<R>, R(0));
  }
  if (from == nullptr) return;
  for (Index i = 0; i < layout.key_dim; ++i) {
    const S* row = from + i * key_stride + first * value_stride;
    if (value_stride == 1) {
      CopyRow(row, count, to + i * kPanel<R>, kPanel<R>);
      continue;
    }
    for (Index j = 0; j < count; ++j) {
      to[i * kPanel<R> + j] = static_cast<R>(row[j * value_stride]);
    }
  }
}

template <class R, class S>
HWY_NOINLINE void StorePanel(const R* HWY_RESTRICT from, const BlockLayout<R>& layout, Index panel,
                             S* to, Index key_stride, Index value_stride) {
  const Index first = panel * kPanel<R>;
  const Index count = std::min(kPanel<R>, layout.value_dim - first);
  for (Index i = 0; i < layout.key_dim; ++i) {
    S* row = to + i * key_stride + first * value_stride;
    if (value_stride == 1) {
      ConvertRow(from + i * kPanel<R>, count, row);
      continue;
    }
    for (Index j = 0; j < count; ++j) {
      row[j * value_stride] = internal::ConvertElement<S>(from[i * kPanel<R> + j]);
    }
  }
}

// All panels of one head's state.
template <class R, class S>
void LoadState(const BlockLayout<R>& layout, const StateRef<S>& from, Index n, Index head, R* to) {
  for (Index panel = 0; panel < layout.panels; ++panel) {
    LoadPanel(from.is_null() ? nullptr : from.Head(n, head), from.key_stride, from.value_stride,
              layout, panel, to + panel * layout.PanelSize());
  }
}

template <class R, class S>
void StoreState(const BlockLayout<R>& layout, const R* from, const StateRef<S>& to, Index n,
                Index head) {
  if (to.is_null()) return;
  for (Index panel = 0; panel < layout.panels; ++panel) {
    StorePanel(from + panel * layout.PanelSize(), layout, panel, to.Head(n, head), to.key_stride,
               to.value_stride);
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_WALK_H_
