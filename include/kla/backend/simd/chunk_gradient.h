// SPDX-License-Identifier: Apache-2.0
// backend/simd: the gradients of one block of C tokens of one value head (math/chunk_form.h), in
// three phases of which the first two work on panels of V and the third, in token_gradient.h, on
// whole blocks:
//   RecallPanel    forward in time:  E, V' and the states that enter the blocks
//   BackPanel      reverse in time:  Z, dv, V' dS+^T; dS+, the gradient of the state that leaves a
//                                    block, becomes that of the state that enters it
//   KeyGradients   any order:        dq, dk, dg, deta, with MultiplyOutputs and TokenGradients
// Flops per token: 4KV, 8KV and 4KV, besides about 11 C (K + V); 6KV for dS alone, BackStatePanel.
// The scale s is part of q' = s q^ throughout, so that P, X and I_q carry none of their own.
#ifndef KLA_BACKEND_SIMD_CHUNK_GRADIENT_H_
#define KLA_BACKEND_SIMD_CHUNK_GRADIENT_H_

#include "kla/backend/simd/chunk_walk.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// What the phases leave for each other besides the packed block.
template <class R>
struct GradientBlock {
  static Index Size(const BlockLayout<R>& layout) {
    return layout.BlockSize() + 2 * kBlock * kBlock + layout.panels * kBlock * (4 * kPanel<R> + 3) +
           (2 + layout.panels) * kBlock * layout.key_rows +
           static_cast<Index>(sizeof(TokenScales<R>) / sizeof(R));
  }
  GradientBlock(const BlockLayout<R>& layout, R* memory) : block(layout, memory) {
    const Index values = layout.panels * kBlock * kPanel<R>;
    block.decay = memory + layout.BlockSize();
    block.key_products = block.decay + kBlock * kBlock;
    errors = block.key_products + kBlock * kBlock;
    pseudo_values = errors + values;
    d_outputs = pseudo_values + values;
    d_keys_queries = d_outputs + 2 * values;
    written = d_keys_queries + 2 * kBlock * layout.key_rows;
    error_products = written + layout.panels * kBlock * layout.key_rows;
    value_products = error_products + layout.panels * kBlock;
    state_products = value_products + layout.panels * kBlock;
    scales = reinterpret_cast<TokenScales<R>*>(state_products + layout.panels * kBlock);
  }

  Block<R> block;
  R* errors;          // E   [panels][C][kPanel]
  R* pseudo_values;   // V'^T   [panels kPanel][C]
  R* d_outputs;       // Z^T, dO^T   [panels kPanel][2C]
  R* d_keys_queries;  // dk~^T, dq'^T, then dk^T, dq^T   [key_rows][2C]
  R* written;         // (V' dS+^T)^T of each panel   [panels][key_rows][C], C / kPanel of a state
  R* error_products;  // <Z_i, E_i> of each panel   [panels][C]
  R* value_products;  // <Z_i, v~_i> of each panel   [panels][C]
  R* state_products;  // <S, dS+> of each panel   [panels], C apart
  TokenScales<R>* scales;
};

// Z = (I + A)^-T dV' in place by backward substitution.   C^2 flops a column
template <class R>
HWY_INLINE void SolveUpper(const Block<R>& block, R* HWY_RESTRICT z) {
  const Tag<R> d;
  const R* HWY_RESTRICT a = block.a;
  for (Index n = 0; n < kPanel<R>; n += kLanes<R>) {
    Vector<R> row[kBlock];
    HWY_UNROLL(16) for (int i = 0; i < kBlock; ++i) row[i] = hn::Load(d, z + i * kPanel<R> + n);
    HWY_UNROLL(16) for (int j = kBlock - 1; j > 0; --j) {
      HWY_UNROLL(16) for (int i = 0; i < j; ++i) {
        row[i] = hn::NegMulAdd(hn::Set(d, a[j * kBlock + i]), row[j], row[i]);
      }
    }
    HWY_UNROLL(16) for (int i = 0; i < kBlock; ++i) hn::Store(row[i], d, z + i * kPanel<R> + n);
  }
}

// First phase, one panel: E, V'^T and, unless `next` is null, the state that leaves the block.
// Fetches lines like AdvanceBlock.
template <class R, class Lines>
HWY_NOINLINE void RecallPanel(const BlockLayout<R>& layout, const GradientBlock<R>& g, Index panel,
                              const R* state, R* next, PanelScratch<R>& scratch, Lines& lines) {
  const Index at = panel * kBlock * kPanel<R>;
  MultiplyState(layout, g.block, kBlock, state, scratch.products, lines);
  SolveLower(g.block, g.block.gamma, scratch.products, g.block.values + at, g.errors + at,
             scratch.pseudo_values, scratch.weighted);
  Transpose(scratch.pseudo_values, kPanel<R>, kBlock, kPanel<R>, g.pseudo_values + at, kBlock);
  if (next != nullptr) UpdateState(layout, g.block, scratch.weighted, state, next, lines);
}

// Scratch of the second phase, one panel.
template <class R>
struct BackScratch {
  alignas(64) R d_o[kBlock * kPanel<R>];                    // dO
  alignas(64) R z[kBlock * kPanel<R>];                      // dV', then Z
  alignas(64) R keys_queries_rows[2 * kBlock * kPanel<R>];  // -b gamma Z, gamma dO
};

// The panel's part of (V' dS+^T)^T.   2 C K flops a column
template <class R, class Lines>
HWY_INLINE void MultiplyPseudoValues(const BlockLayout<R>& layout, const GradientBlock<R>& g,
                                     Index panel, const R* HWY_RESTRICT d_state, Lines& lines) {
  R* HWY_RESTRICT to = g.written + panel * layout.key_rows * kBlock;
  const R* HWY_RESTRICT pseudo_values = g.pseudo_values + panel * kPanel<R> * kBlock;
  for (Index k = 0; k < layout.key_rows; k += kTokenRows<R>) {
    for (Index first = 0; first < kBlock; first += kTokenColumns<R>) {
      TokenTile<R> tile;
      tile.SetZero();
      tile.template MulAdd<kPanel<R>, 1, kBlock>(d_state + k * kPanel<R>, pseudo_values + first,
                                                 kPanel<R>);
      tile.Store(to + k * kBlock + first, kBlock);
    }
    lines.Fetch(kTokenRows<R> * kBlock / kFetchWork);
  }
}

// How many shares of lines at least are fetched by the second phase of one block and one panel, or
// by what it does for dS alone.
template <class R>
constexpr Index BackFetchShares(const BlockLayout<R>& layout, bool state_only = false) {
  return FetchShares(layout, kBlock, false) +
         (state_only ? 2 : 3) * kBlock * layout.key_rows / kFetchWork;
}

// The panel's dO, by rows, and Z from dV' = w (K dS+) + P^T dO, which begins as K dS+ in z.
template <class R>
HWY_INLINE void SolvePseudoValueGradients(const GradientBlock<R>& g, Index panel,
                                          BackScratch<R>& scratch) {
  const Block<R>& block = g.block;
  std::copy_n(g.d_outputs + 2 * panel * kBlock * kPanel<R>, kBlock * kPanel<R>, scratch.d_o);
  for (Index i = 0; i < kBlock; i += kTileRows) {
    RegisterTile<R> tile;
    tile.LoadScaledRows(block.to_end + i, scratch.z + i * kPanel<R>, kPanel<R>);
    tile.template MulAdd<1, kBlock, kPanel<R>>(block.p + i * kBlock + i,
                                               scratch.d_o + i * kPanel<R>, kBlock - i);
    tile.Store(scratch.z + i * kPanel<R>, kPanel<R>);
  }
  SolveUpper(block, scratch.z);
}

// Row i of -b gamma Z and gamma dO.
template <class R>
HWY_INLINE void ScaleRow(const Block<R>& block, Index i, BackScratch<R>& scratch) {
  const Tag<R> d;
  const auto gamma = hn::Set(d, block.gamma[i]);
  const auto minus_step_gamma = hn::Set(d, -(block.step[i] * block.gamma[i]));
  for (Index n = i * kPanel<R>; n < (i + 1) * kPanel<R>; n += kLanes<R>) {
    R* to = scratch.keys_queries_rows + n;
    hn::Store(hn::Mul(minus_step_gamma, hn::Load(d, scratch.z + n)), d, to);
    hn::Store(hn::Mul(gamma, hn::Load(d, scratch.d_o + n)), d, to + kBlock * kPanel<R>);
  }
}

// dS = gamma_C dS+ + [-b gamma Z; gamma dO]^T [K; Q] in place; `each` sees the vectors of dS+.
template <class R, class Lines, class F>
HWY_INLINE void UpdateGradient(const BlockLayout<R>& layout, const Block<R>& block,
                               const BackScratch<R>& scratch, R* HWY_RESTRICT d_state, Lines& lines,
                               const F& each) {
  const Tag<R> d;
  const auto decay = hn::Set(d, block.gamma[kBlock - 1]);
  ForTiles(layout.key_rows, [&](auto height, Index k) KLA_SIMD_INLINE {
    constexpr int kRows = height;
    RegisterTile<R, kRows> tile;
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4) for (int n = 0; n < kTileVectors; ++n) {
        const Index element = (k + r) * kPanel<R> + n * kLanes<R>;
        const auto gradient = hn::Load(d, d_state + element);
        each(element, n, gradient);
        tile.v[r][n] = hn::Mul(decay, gradient);
      }
    }
    tile.template MulAdd<2 * kBlock, 1, kPanel<R>>(block.keys_queries + k * 2 * kBlock,
                                                   scratch.keys_queries_rows, 2 * kBlock);
    tile.Store(d_state + k * kPanel<R>, kPanel<R>);
    lines.Fetch(height * 2 * kBlock / kFetchWork);
  });
}

// Second phase, one panel:
//   dV' = w (K dS+) + P^T dO     Z = (I + A)^-T dV'     dS = gamma_C dS+ + Q^T (gamma dO)
//                                                            - K^T (b gamma Z)
// and V' dS+^T, since dS replaces dS+ in d_state [key_rows][kPanel]: of the two states that a panel
// needs, this one stays in L1. Fetches lines. dO is found, by rows, where dO^T and Z^T are left; E
// gives way to dv = r_v b Z.
template <class R, class Lines>
HWY_NOINLINE void BackPanel(const BlockLayout<R>& layout, const GradientBlock<R>& g, Index panel,
                            const R* HWY_RESTRICT state, R* HWY_RESTRICT d_state,
                            BackScratch<R>& scratch, Lines& lines) {
  const Tag<R> d;
  const Block<R>& block = g.block;
  const Index at = panel * kBlock * kPanel<R>;
  MultiplyState(layout, block, kBlock, d_state, scratch.z, lines);
  MultiplyPseudoValues(layout, g, panel, d_state, lines);
  SolvePseudoValueGradients(g, panel, scratch);
  Transpose(scratch.z, kPanel<R>, kBlock, kPanel<R>, g.d_outputs + 2 * at, 2 * kBlock);
  Transpose(scratch.d_o, kPanel<R>, kBlock, kPanel<R>, g.d_outputs + 2 * at + kBlock, 2 * kBlock);
  for (Index i = 0; i < kBlock; ++i) {
    const R* z = scratch.z + i * kPanel<R>;
    g.error_products[panel * kBlock + i] = Dot(z, g.errors + at + i * kPanel<R>, kPanel<R>);
    g.value_products[panel * kBlock + i] = Dot(z, block.values + at + i * kPanel<R>, kPanel<R>);
    ScaleRow(block, i, scratch);
    const auto value_step =
        hn::Set(d, static_cast<R>(g.scales->key[i].value * g.scales->key[i].step));
    for (Index n = 0; n < kPanel<R>; n += kLanes<R>) {
      hn::Store(hn::Mul(value_step, hn::Load(d, z + n)), d, g.errors + at + i * kPanel<R> + n);
    }
  }
  // dS, and <S, dS+> on the way.
  Vector<R> sum[kTileVectors];
  HWY_UNROLL(4) for (int n = 0; n < kTileVectors; ++n) sum[n] = hn::Zero(d);
  UpdateGradient(layout, block, scratch, d_state, lines,
                 [&](Index element, int n, auto gradient) KLA_SIMD_INLINE {
                   sum[n] = hn::MulAdd(hn::Load(d, state + element), gradient, sum[n]);
                 });
  HWY_UNROLL(4) for (int n = 1; n < kTileVectors; ++n) sum[0] = hn::Add(sum[0], sum[n]);
  g.state_products[panel * kBlock] = hn::GetLane(hn::SumOfLanes(d, sum[0]));
}

// dS alone, of a block whose other gradients are another task's: the same bits.
template <class R, class Lines>
HWY_NOINLINE void BackStatePanel(const BlockLayout<R>& layout, const GradientBlock<R>& g,
                                 Index panel, R* HWY_RESTRICT d_state, BackScratch<R>& scratch,
                                 Lines& lines) {
  MultiplyState(layout, g.block, kBlock, d_state, scratch.z, lines);
  SolvePseudoValueGradients(g, panel, scratch);
  for (Index i = 0; i < kBlock; ++i) ScaleRow(g.block, i, scratch);
  UpdateGradient(layout, g.block, scratch, d_state, lines,
                 [](Index /*element*/, int /*n*/, auto /*gradient*/) KLA_SIMD_INLINE {});
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_GRADIENT_H_
