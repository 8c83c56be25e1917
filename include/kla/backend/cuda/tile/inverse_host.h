// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: (I + A)^-1 of a strictly lower A [64, 64] on a CPU, by plain loops.
#ifndef KLA_BACKEND_CUDA_TILE_INVERSE_HOST_H_
#define KLA_BACKEND_CUDA_TILE_INVERSE_HOST_H_

#include "kla/backend/cuda/tile/product_host.h"

namespace kla::internal::tile {
inline namespace on_host {

struct InverseScratch {
  alignas(1024) unsigned char unused[25600];  // as much as on a device, for tests of what fits
};

// T = (I + A)^-1 of a strictly lower A [64, 64]: blocks of 16 by forward substitution, then
//   T_ij = -T_ii sum_{j <= l < i} A_il T_lj
// block column by block column.
template <class E, int kTerms, class B>
void InvertUnitLower(const B& /*block*/, const RegisterTile<kRows>& a, InverseScratch& /*scratch*/,
                     const Operand<E, kTerms, kRows, kRows>& out) {
  constexpr int kB = 16;
  float t[kRows][kRows] = {};
  for (int d = 0; d < kRows; d += kB) {
    for (int c = 0; c < kB; ++c) {
      for (int i = 0; i < kB; ++i) {
        float sum = i == c ? 1.0f : 0.0f;
        for (int j = 0; j < i; ++j) sum -= a.at[d + i][d + j] * t[d + j][d + c];
        t[d + i][d + c] = sum;
      }
    }
  }
  for (int j = 0; j < kRows; j += kB) {
    for (int i = j + kB; i < kRows; i += kB) {
      float sum[kB][kB] = {};
      for (int l = j; l < i; ++l) {
        for (int r = 0; r < kB; ++r) {
          for (int c = 0; c < kB; ++c) sum[r][c] += a.at[i + r][l] * t[l][j + c];
        }
      }
      for (int r = 0; r < kB; ++r) {
        for (int c = 0; c < kB; ++c) {
          float product = 0;
          for (int l = 0; l <= r; ++l) product += t[i + r][i + l] * sum[l][c];
          t[i + r][j + c] = -product;
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kRows; ++c) {
      for (int s = 0; s < kTerms; ++s) {
        out.data[s * out.kTermSize + out.Offset(r, c)] = NextTerm<E>(t[r][c]);
      }
    }
  }
}

}  // namespace on_host
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_INVERSE_HOST_H_
