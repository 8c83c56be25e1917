// SPDX-License-Identifier: Apache-2.0
// backend/simd: the third phase of the gradients of one block of C tokens
// (chunk_gradient.h), which works on all of its panels: dq, dk, dg and deta, token by
// token, in any order of the blocks.
#ifndef KLA_BACKEND_SIMD_TOKEN_GRADIENT_H_
#define KLA_BACKEND_SIMD_TOKEN_GRADIENT_H_

#include "kla/backend/simd/chunk_gradient.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The C x C matrices of the third phase, and the sums of their rows and columns.
template <class R>
struct BlockProducts {
  alignas(64) R z_y[2 * kBlock * kBlock];           // Z V'^T (later M), then Y = dO V'^T
  alignas(64) R transposed[kBlock * 2 * kBlock];    // [C][2C]  M^T, X^T
  alignas(64) R from_queries[2 * kBlock * kBlock];  // [2C][C]  b M, then X
  Wide<R> log_decay[kBlock];                        // what dG gets from P and A
  Wide<R> step[kBlock];                             // <M K, K> = rowsum(dA * K K^T * D)
};

// X = Y * D, M = dA * D with dA = -StrictLower(Z V'^T).   4 C^2 V flops
template <class R>
HWY_NOINLINE void MultiplyOutputs(const BlockLayout<R>& layout, const GradientBlock<R>& g,
                                  BlockProducts<R>& out) {
  const Block<R>& block = g.block;
  for (Index first = 0; first < kBlock; first += kTokenColumns<R>) {
    for (Index r = 0; r < 2 * kBlock; r += kTokenRows<R>) {
      TokenTile<R> tile;
      tile.SetZero();
      tile.template MulAdd<1, 2 * kBlock, kBlock>(g.d_outputs + r, g.pseudo_values + first,
                                                  layout.panels * kPanel<R>);
      tile.Store(out.z_y + r * kBlock + first, kBlock);
    }
  }
  // M takes the place of Z V'^T. What reaches dG through P and A at (i, j), and d step.
  alignas(64) R through[kBlock * kBlock], along[kBlock * kBlock], transposed[kBlock * kBlock];
  const Tag<R> d;
  const auto lane = hn::Iota(d, R(0));
  for (Index i = 0; i < kBlock; ++i) {
    const auto step = hn::Set(d, block.step[i]);
    for (Index j = 0; j < kBlock; j += kLanes<R>) {
      const Index at = i * kBlock + j;
      const auto lower = hn::Lt(lane, hn::Set(d, static_cast<R>(i - j)));
      const auto decay = hn::Load(d, block.decay + at),
                 y = hn::Load(d, out.z_y + kBlock * kBlock + at);
      const auto d_a = hn::IfThenElseZero(lower, hn::Neg(hn::Load(d, out.z_y + at)));
      const auto m = hn::Mul(d_a, decay);
      const auto through_p = hn::IfThenElseZero(lower, hn::Mul(y, hn::Load(d, block.p + at)));
      hn::Store(hn::MulAdd(d_a, hn::Load(d, block.a + at), through_p), d, through + at);
      hn::Store(hn::Mul(d_a, hn::Load(d, block.key_products + at)), d, along + at);
      hn::Store(m, d, out.z_y + at);
      hn::Store(hn::Mul(step, m), d, out.from_queries + at);
      hn::Store(hn::Mul(y, decay), d, out.from_queries + kBlock * kBlock + at);
    }
  }
  Transpose(out.z_y, kBlock, kBlock, kBlock, out.transposed, 2 * kBlock);
  Transpose(out.from_queries + kBlock * kBlock, kBlock, kBlock, kBlock, out.transposed + kBlock,
            2 * kBlock);
  // Row sums less column sums, and row sums: in W, for all tokens side by side.
  std::fill_n(out.log_decay, kBlock, Wide<R>(0));
  std::fill_n(out.step, kBlock, Wide<R>(0));
  Transpose(through, kBlock, kBlock, kBlock, transposed, kBlock);
  for (Index j = 0; j < kBlock; ++j) {
    for (Index i = 0; i < kBlock; ++i) {
      out.log_decay[i] += static_cast<Wide<R>>(transposed[j * kBlock + i]) -
                          static_cast<Wide<R>>(through[j * kBlock + i]);
    }
  }
  Transpose(along, kBlock, kBlock, kBlock, transposed, kBlock);
  for (Index j = 0; j < kBlock; ++j) {
    for (Index i = 0; i < kBlock; ++i) {
      out.step[i] += static_cast<Wide<R>>(transposed[j * kBlock + i]);
    }
  }
}

// Sums over the key axis, token by token, of the third phase.
template <class R>
struct KeySums {
  alignas(64) R recalled[2 * kBlock] = {};  // <gamma T_w, k~>, <I_q, q'>
  alignas(64) R query[2 * kBlock] = {};     // unused, <q', dq'>
  alignas(64) R written[kBlock] = {};       // <F, k~>
  alignas(64) R key[kBlock] = {};           // <k~, dk~>
};

// sums[j] += tile(r, j) x[r * 2C + j] over the rows r of a tile
template <class R, int kRows, int kVectors>
HWY_INLINE void AddColumnProducts(const RegisterTile<R, kRows, kVectors>& tile,
                                  const R* HWY_RESTRICT x, R* HWY_RESTRICT sums) {
  const Tag<R> d;
  HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
    auto sum = hn::Load(d, sums + n * kLanes<R>);
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) {
      sum = hn::MulAdd(tile.v[r][n], hn::Load(d, x + r * 2 * kBlock + n * kLanes<R>), sum);
    }
    hn::Store(sum, d, sums + n * kLanes<R>);
  }
}

// Column j of a tile times factors[j].
template <class R, int kRows, int kVectors>
HWY_INLINE void ScaleColumns(RegisterTile<R, kRows, kVectors>& tile,
                             const R* HWY_RESTRICT factors) {
  HWY_UNROLL(4) for (int n = 0; n < kVectors; ++n) {
    const auto factor = hn::Load(Tag<R>(), factors + n * kLanes<R>);
    HWY_UNROLL(16) for (int r = 0; r < kRows; ++r) tile.v[r][n] = hn::Mul(tile.v[r][n], factor);
  }
}

// Third phase: dk~^T and dq'^T [key_rows][C], all tokens of the block side by side.
//   dq' = I_q + X K                          I_q = gamma (dO S^T)
//   dk~ = X^T Q + F + b (gamma T_w + M K) + M^T (b K)     T_w = -Z S^T   F = w (V' dS+^T)
// 4 C K V + 8 C^2 K flops
template <class R>
HWY_NOINLINE void KeyGradients(const BlockLayout<R>& layout, const GradientBlock<R>& g,
                               const R* HWY_RESTRICT state, const BlockProducts<R>& products,
                               KeySums<R>& sums) {
  const Tag<R> d;
  const Block<R>& block = g.block;
  alignas(64) R gamma[2 * kBlock];
  for (Index i = 0; i < kBlock; ++i) {
    gamma[i] = -block.gamma[i];
    gamma[kBlock + i] = block.gamma[i];
  }
  constexpr Index kColumns = std::min(kPanel<R>, 2 * kBlock);
  ForTiles(layout.key_rows, [&](auto height, Index k) KLA_SIMD_INLINE {
    for (Index first = 0; first < 2 * kBlock; first += kColumns) {
      RegisterTile<R, height> tile;
      tile.SetZero();
      for (Index panel = 0; panel < layout.panels; ++panel) {
        tile.template MulAdd<kPanel<R>, 1, 2 * kBlock>(
            state + panel * layout.PanelSize() + k * kPanel<R>,
            g.d_outputs + panel * kPanel<R> * 2 * kBlock + first, kPanel<R>);
      }
      ScaleColumns(tile, gamma + first);
      const R* rows = block.keys_queries + k * 2 * kBlock;
      AddColumnProducts(tile, rows + first, sums.recalled + first);
      tile.template MulAdd<2 * kBlock, 1, 2 * kBlock>(rows, products.transposed + first, kBlock);
      AddColumnProducts(tile, rows + first, sums.query + first);
      tile.Store(g.d_keys_queries + k * 2 * kBlock + first, 2 * kBlock);
    }
  });
  for (Index k = 0; k < layout.key_rows; k += kTokenRows<R>) {
    for (Index first = 0; first < kBlock; first += kTokenColumns<R>) {
      TokenTile<R> tile;
      tile.SetZero();
      for (Index panel = 0; panel < layout.panels; ++panel) {
        tile.Add(g.written + (panel * layout.key_rows + k) * kBlock + first, kBlock);
      }
      const R* rows = block.keys_queries + k * 2 * kBlock;
      ScaleColumns(tile, block.to_end + first);
      AddColumnProducts(tile, rows + first, sums.written + first);
      tile.template MulAdd<2 * kBlock, 1, kBlock>(rows, products.from_queries + first, 2 * kBlock);
      R* d_keys = g.d_keys_queries + k * 2 * kBlock + first;
      HWY_UNROLL(4) for (int n = 0; n < kTokenVectors<R>; ++n) {
        const auto step = hn::Load(d, block.step + first + n * kLanes<R>);
        HWY_UNROLL(16) for (int r = 0; r < kTokenRows<R>; ++r) {
          const auto recalled = hn::Load(d, d_keys + r * 2 * kBlock + n * kLanes<R>);
          tile.v[r][n] = hn::MulAdd(step, recalled, tile.v[r][n]);
        }
      }
      AddColumnProducts(tile, rows + first, sums.key + first);
      tile.Store(d_keys, 2 * kBlock);
    }
  }
}

// The rest of the third phase: dG, and from the unit-key form back to what the caller gave.
//   dk = r dk~ + 2 dn k      dq = s r_q dq' - r_q^3 <q, dq^> q (where q is normalised)
// d_keys_queries becomes dk^T, dq^T; d_gates and d_etas receive dg and deta of the block's tokens.
template <class StepSize, class T, class R>
HWY_NOINLINE void TokenGradients(const BlockLayout<R>& layout, const Problem& problem,
                                 const GradientBlock<R>& g, const BlockInput<T>& input,
                                 const BlockProducts<R>& products, const KeySums<R>& sums,
                                 Wide<R>* d_gates, Wide<R>* d_etas) {
  using W = Wide<R>;
  const Tag<R> d;
  const W scale(problem.scale), epsilon(problem.epsilon);
  const TokenScales<R>& scales = *g.scales;
  // dk^T = key_factor dk~^T + key_addend k~^T, and the same for q.
  alignas(64) R factor[2 * kBlock] = {}, addend[2 * kBlock] = {};
  W end(0);  // what reaches dG of the last token besides its own row
  for (Index panel = 0; panel < layout.panels; ++panel) end += W(g.state_products[panel * kBlock]);
  end *= W(g.block.gamma[kBlock - 1]);
  for (Index i = 0; i < kBlock; ++i) end += W(sums.written[i]);
  W d_gate(0);
  for (Index i = kBlock; i-- > 0;) {
    d_gate += products.log_decay[i] + W(sums.recalled[kBlock + i]) +
              W(g.block.step[i]) * W(sums.recalled[i]) - W(sums.written[i]);
    if (i == kBlock - 1) d_gate += end;
    if (i >= input.count) continue;
    W d_step = products.step[i], along_value(0);
    for (Index panel = 0; panel < layout.panels; ++panel) {
      d_step += W(g.error_products[panel * kBlock + i]);
      along_value += W(g.value_products[panel * kBlock + i]);
    }
    const auto& unit = scales.key[i];
    const W along_key = W(sums.key[i]);  // <k~, dk~> = r <k, dk~>
    const auto gradient = internal::UnitKeyBackward<StepSize>(
        W(*input.eta[i]), scales.norm2[i], epsilon, unit.key > W(0) ? along_key / unit.key : W(0),
        unit.value > W(0) ? unit.step * along_value / unit.value : W(0), d_step);
    d_gates[i] =
        *input.g[i] > R(internal::kMinLogDecay) ? d_gate : W(0);  // beyond, the decay is 0 anyway
    d_etas[i] = gradient.eta;
    factor[i] = static_cast<R>(unit.key);
    addend[i] = static_cast<R>(unit.key > W(0) ? W(2) * gradient.norm2 / unit.key : W(0));
    factor[kBlock + i] = static_cast<R>(scale * scales.query[i]);
    if (StepSize::kNormalizeQuery && scale != W(0)) {
      addend[kBlock + i] = static_cast<R>(-scales.query[i] / scale * W(sums.query[kBlock + i]));
    }
  }
  for (Index k = 0; k < layout.key_rows; ++k) {
    for (Index j = 0; j < 2 * kBlock; j += kLanes<R>) {
      R* gradient = g.d_keys_queries + k * 2 * kBlock + j;
      const auto row = hn::Load(d, g.block.keys_queries + k * 2 * kBlock + j);
      hn::Store(hn::MulAdd(hn::Load(d, factor + j), hn::Load(d, gradient),
                           hn::Mul(hn::Load(d, addend + j), row)),
                d, gradient);
    }
  }
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_TOKEN_GRADIENT_H_
