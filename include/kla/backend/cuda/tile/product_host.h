// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: products of tiles on a CPU, by plain loops: their specification.
#ifndef KLA_BACKEND_CUDA_TILE_PRODUCT_HOST_H_
#define KLA_BACKEND_CUDA_TILE_PRODUCT_HOST_H_

#include <algorithm>

#include "kla/backend/cuda/tile/host.h"

namespace kla::internal::tile {
inline namespace on_host {

// sum [64, N] += a [64, D] B^T, B = rows `row` ... row + N - 1, columns `column` ... of a tile.
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void MultiplyTransposed(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                        const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                        int column = 0) {
  for (int tb = 0; tb < kTerms; ++tb) {
    float b[kD][kN];
    for (int k = 0; k < kD; ++k) {
      for (int n = 0; n < kN; ++n) {
        b[k][n] =
            static_cast<float>(tile.data[tb * tile.kTermSize + tile.Offset(row + n, column + k)]);
      }
    }
    for (int ta = 0; ta + tb < kTerms; ++ta) {
      for (int m = 0; m < kRows; ++m) {
        for (int k = 0; k < kD; ++k) {
          for (int n = 0; n < kN; ++n) sum.at[m][n] += a.at[ta][m][k] * b[k][n];
        }
      }
    }
  }
}

// sum [64, N] += a [64, D] B, B = rows `row` ... row + D - 1, columns `column` ... column + N - 1.
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void Multiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
              const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0, int column = 0) {
  for (int tb = 0; tb < kTerms; ++tb) {
    float b[kD][kN];
    for (int k = 0; k < kD; ++k) {
      for (int n = 0; n < kN; ++n) {
        b[k][n] =
            static_cast<float>(tile.data[tb * tile.kTermSize + tile.Offset(row + k, column + n)]);
      }
    }
    for (int ta = 0; ta + tb < kTerms; ++ta) {
      for (int m = 0; m < kRows; ++m) {
        for (int k = 0; k < kD; ++k) {
          for (int n = 0; n < kN; ++n) sum.at[m][n] += a.at[ta][m][k] * b[k][n];
        }
      }
    }
  }
}

// The same two, on a device perhaps still under way until Complete(sum).
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void StartMultiplyTransposed(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                             const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                             int column = 0) {
  MultiplyTransposed(sum, a, tile, row, column);
}
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void StartMultiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                   const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0, int column = 0) {
  Multiply(sum, a, tile, row, column);
}
// Both factors in memory: sum = a tile^T, of one term.
template <class E, int kWidth>
void StartMultiplyRows(RegisterTile<kRows>& sum, const Operand<E, 1, kRows, kWidth>& a,
                       const Operand<E, 1, kRows, kWidth>& tile) {
  sum.Fill(0.0f);
  MultiplyTransposed(sum, LoadOperand<kWidth>(a), tile);
}
template <class... Sums>
void Complete(Sums&... /*sums*/) {}

// sums [64, 64] += a B^T for each tile B; on a device only the first is complete at the end. The
// left factor is rounded from a register tile, 16 columns at a time: keep(these, the first of
// them).
template <class E, int kTerms, int kD, class Keep, class... Sums>
void MultiplyTransposedBy(const RegisterTile<kD>& a, const Keep& keep,
                          const Operand<E, kTerms, kRows, kD>* tiles, Sums&... sums) {
  const auto same = [](const Place&, float x) { return x; };
  for (int column = 0; column < kD; column += 16) {
    RegisterTile<16> part;
    for (int r = 0; r < kRows; ++r) std::copy_n(a.at[r] + column, 16, part.at[r]);
    keep(ToOperand<E, kTerms>(part, same), column);
  }
  int i = 0;
  (MultiplyTransposed(sums, ToOperand<E, kTerms>(a, same), tiles[i++]), ...);
}

}  // namespace on_host
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_PRODUCT_HOST_H_
