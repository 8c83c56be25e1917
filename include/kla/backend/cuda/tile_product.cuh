// SPDX-License-Identifier: Apache-2.0
// backend/cuda: products of tiles on a device. CUDA sources only.
#ifndef KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_
#define KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_

#include "kla/backend/cuda/tile_device.cuh"

namespace kla::tile {
inline namespace on_device {

// One step of 16 along the inner dimension, blocks of 16 columns from n = kFrom on.
template <class E, int kTerms, bool kTransposed, int kN, int kHeight, int kWidth>
KLA_TILE_FUNCTION void MultiplyStep(RegisterTile<kN>& sum, const std::uint32_t (&a)[kTerms][4],
                                    const Operand<E, kTerms, kHeight, kWidth>& tile, int row,
                                    int column) {
  // Transposed: tile rows are columns of B. Otherwise tile rows are the inner dimension.
  const int lane_row = kTransposed ? Lane() % 8 + Lane() / 16 * 8 : Lane() % 16;
  const int lane_column = kTransposed ? Lane() / 8 % 2 * 8 : Lane() / 16 * 8;
  KLA_TILE_UNROLL
  for (int n = 0; n < kN; n += 16) {
    KLA_TILE_UNROLL
    for (int tb = 0; tb < kTerms; ++tb) {
      std::uint32_t b[4];
      LoadMatrices<!kTransposed>(b, tile.data + tb * tile.kTermSize +
                                        tile.Offset(row + lane_row + (kTransposed ? n : 0),
                                                    column + lane_column + (kTransposed ? 0 : n)));
      KLA_TILE_UNROLL
      for (int ta = 0; ta + tb < kTerms; ++ta) {
        MultiplyAdd<E>(sum.at[n / 8], a[ta], b[0], b[1]);
        MultiplyAdd<E>(sum.at[n / 8 + 1], a[ta], b[2], b[3]);
      }
    }
  }
}

template <class E, int kTerms, int kD>
KLA_TILE_FUNCTION void StepOf(const RegisterOperand<E, kTerms, kD>& a, int k,
                              std::uint32_t (&step)[kTerms][4]) {
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int r = 0; r < 4; ++r) step[t][r] = a.at[t][k][r];
  }
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void MultiplyTransposed(RegisterTile<kN>& sum,
                                          const RegisterOperand<E, kTerms, kD>& a,
                                          const Operand<E, kTerms, kHeight, kWidth>& tile,
                                          int row = 0, int column = 0) {
  KLA_TILE_UNROLL
  for (int k = 0; k < kD / 16; ++k) {
    std::uint32_t step[kTerms][4];
    StepOf(a, k, step);
    MultiplyStep<E, kTerms, true>(sum, step, tile, row, column + k * 16);
  }
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void Multiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                                const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                                int column = 0) {
  KLA_TILE_UNROLL
  for (int k = 0; k < kD / 16; ++k) {
    std::uint32_t step[kTerms][4];
    StepOf(a, k, step);
    MultiplyStep<E, kTerms, false>(sum, step, tile, row + k * 16, column);
  }
}

// The left factor is rounded step by step: at no time are all its terms in registers.
template <class E, int kTerms, int kD, class... Sums>
KLA_TILE_FUNCTION void MultiplyTransposedBy(const RegisterTile<kD>& a,
                                            const Operand<E, kTerms, kRows, kD>* tiles,
                                            Sums&... sums) {
  KLA_TILE_UNROLL
  for (int k = 0; k < kD / 16; ++k) {
    std::uint32_t step[kTerms][4];
    KLA_TILE_UNROLL
    for (int r = 0; r < 4; ++r) {
      float x = a.at[2 * k + r / 2][r % 2 * 2], y = a.at[2 * k + r / 2][r % 2 * 2 + 1];
      KLA_TILE_UNROLL
      for (int t = 0; t < kTerms; ++t) step[t][r] = NextPair<E>(x, y);
    }
    int i = 0;
    (MultiplyStep<E, kTerms, true>(sums, step, tiles[i++], 0, k * 16), ...);
  }
}

}  // namespace on_device
}  // namespace kla::tile

#endif  // KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_
