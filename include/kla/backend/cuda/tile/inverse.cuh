// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: (I + A)^-1 of a strictly lower A [64, 64] on a device. CUDA sources only.
#ifndef KLA_BACKEND_CUDA_TILE_INVERSE_CUH_
#define KLA_BACKEND_CUDA_TILE_INVERSE_CUH_

#include "kla/backend/cuda/tile/product.cuh"

namespace kla::internal::tile {
inline namespace on_device {

struct InverseScratch {
  static constexpr int kB = 16;
  static constexpr int kTerms = 2;  // 2^-17 of entries that, with unit keys, do not exceed 1
  alignas(1024) bfloat16 a[kTerms * kRows * kRows];
  alignas(1024) bfloat16 diagonal[kTerms * kRows * kB];  // T_00, T_11, T_22, T_33 below each other
  alignas(16) float blocks[kRows][kB + 4];               // A_00, A_11, A_22, A_33, likewise
};
static_assert(sizeof(InverseScratch) == 25600, "kla: tile/inverse_host.h states the same size");

// Blocks of 16, a warp each, by forward substitution in float, a lane for each column; then warp j
// makes block column j from the top down,
//   T_ij = -T_ii sum_{j <= l < i} A_il T_lj
// transposed, so that each product is at once the left factor of the next.
template <class E, int kTerms, class B>
KLA_TILE_FUNCTION void InvertUnitLower(const B& block, RegisterTile<kRows>& a,
                                       InverseScratch& scratch,
                                       const Operand<E, kTerms, kRows, kRows>& out) {
  constexpr int kB = InverseScratch::kB, kT = InverseScratch::kTerms;
  const Operand<bfloat16, kT, kRows, kRows> a_tile{scratch.a};
  const Operand<bfloat16, kT, kRows, kB> diagonal{scratch.diagonal};
  const int warp = WarpOfGroup(), lane = Lane();

  StoreOperand(ToOperand<bfloat16, kT>(a, [](const Place&, float x) { return x; }), a_tile);
  ForEachElement(
      [&](const Place& at, float& x) {
        if (at.column / kB == at.row / kB) scratch.blocks[at.row][at.column % kB] = x;
      },
      a);
  __syncwarp();
  if (lane < kB) {
    float x[kB];
    KLA_TILE_UNROLL
    for (int i = 0; i < kB; ++i) {
      float sum = i == lane ? 1.0f : 0.0f;
      KLA_TILE_UNROLL
      for (int j = 0; j < i; j += 4) {
        const auto four = *reinterpret_cast<const float4*>(&scratch.blocks[warp * kB + i][j]);
        const float row[4] = {four.x, four.y, four.z, four.w};
        KLA_TILE_UNROLL
        for (int e = 0; e < 4 && j + e < i; ++e) sum -= row[e] * x[j + e];
      }
      x[i] = sum;
    }
    KLA_TILE_UNROLL
    for (int i = 0; i < kB; ++i) {
      float rest = x[i], zero = 0.0f;
      KLA_TILE_UNROLL
      for (int t = 0; t < kT; ++t) {
        const std::uint32_t term = NextPair<bfloat16>(rest, zero);
        diagonal.data[t * diagonal.kTermSize + diagonal.Offset(warp * kB + i, lane)].bits =
            static_cast<std::uint16_t>(term);
      }
    }
  }
  block.Barrier();

  // t[d] = T_{warp + d, warp}^T, 16 x 16, as left factors.
  std::uint32_t t[4][kT][4];
  const auto store = [&](int i, const RegisterTile<kB>& tile) {  // T_{i, warp}^T
    if constexpr (KLA_TILE_STORES_MATRICES) {
      const int row = i * kB + lane % 8 + lane / 16 * 8, column = warp * kB + lane / 8 % 2 * 8;
      float x[4], y[4];
      KLA_TILE_UNROLL
      for (int r = 0; r < 4; ++r) {
        x[r] = tile.at[r / 2][r % 2 * 2];
        y[r] = tile.at[r / 2][r % 2 * 2 + 1];
      }
      KLA_TILE_UNROLL
      for (int s = 0; s < kTerms; ++s) {
        std::uint32_t pairs[4];
        KLA_TILE_UNROLL
        for (int r = 0; r < 4; ++r) pairs[r] = NextPair<E>(x[r], y[r]);
        StoreMatrices<true>(pairs, out.data + s * out.kTermSize + out.Offset(row, column));
      }
    } else {
      KLA_TILE_UNROLL
      for (int n = 0; n < 2; ++n) {
        KLA_TILE_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int row = i * kB + n * 8 + lane % 4 * 2 + (e & 1);
          const int column = warp * kB + lane / 4 + (e >> 1) * 8;
          float x = tile.at[n][e], zero = 0.0f;
          KLA_TILE_UNROLL
          for (int s = 0; s < kTerms; ++s) {
            out.data[s * out.kTermSize + out.Offset(row, column)].bits =
                static_cast<std::uint16_t>(NextPair<E>(x, zero));
          }
        }
      }
    }
  };
  {
    RegisterOperand<bfloat16, kT, kB> own;
    const int row = warp * kB + lane % 8 + lane / 16 * 8, column = lane / 8 % 2 * 8;
    KLA_TILE_UNROLL
    for (int s = 0; s < kT; ++s) {
      LoadMatrices<true>(own.at[s][0],
                         diagonal.data + s * diagonal.kTermSize + diagonal.Offset(row, column));
    }
    StepOf(own, 0, t[0]);
    RegisterTile<kB> tile;
    ToTile(own, tile);
    store(warp, tile);
  }
  RegisterTile<kB> zero;
  zero.Fill(0.0f);
  for (int i = 0; i < warp; ++i) store(i, zero);
  KLA_TILE_UNROLL
  for (int d = 1; d < 4; ++d) {
    const int i = warp + d;
    if (i < 4) {
      RegisterTile<kB> sum, product;
      sum.Fill(0.0f);
      KLA_TILE_UNROLL
      for (int l = 0; l < d; ++l) {
        MultiplyStep<bfloat16, kT, true>(sum, t[l], a_tile, i * kB, (warp + l) * kB);
      }
      product.Fill(0.0f);
      std::uint32_t negative[kT][4];
      StepOf(ToOperand<bfloat16, kT>(sum, [](const Place&, float x) { return -x; }), 0, negative);
      MultiplyStep<bfloat16, kT, true>(product, negative, diagonal, i * kB, 0);
      StepOf(ToOperand<bfloat16, kT>(product, [](const Place&, float x) { return x; }), 0, t[d]);
      store(i, product);
    }
  }
}

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_INVERSE_CUH_
