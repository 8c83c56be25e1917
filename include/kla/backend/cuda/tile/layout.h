// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: how the matrices of a chunk lie in shared and device memory. Host and device.
#ifndef KLA_BACKEND_CUDA_TILE_LAYOUT_H_
#define KLA_BACKEND_CUDA_TILE_LAYOUT_H_

#include <cstdint>
#include <type_traits>

#include "kla/core/scalar.h"

// A function that runs inside a kernel: on the device in CUDA sources, else on the host.
#if defined(__CUDACC__)
#define KLA_TILE_FUNCTION __device__ __forceinline__
#define KLA_TILE_UNROLL _Pragma("unroll")
#else
#define KLA_TILE_FUNCTION inline
#define KLA_TILE_UNROLL
#endif

namespace kla::internal::tile {

// C: tokens of a chunk, and rows of a register tile.
inline constexpr int kRows = 64;

// What the matrix units multiply for inputs of type T: float16 stays, all else becomes bfloat16.
template <class T>
using OperandElement = std::conditional_t<std::is_same_v<T, float16>, float16, bfloat16>;

// A matrix that enters products: x = x_0 + x_1 + ..., kTermCount terms of 16 bits. One term is the
// plain rounding to E (2^-9 for bfloat16), two give 2^-17, three 2^-24. A product of two such
// matrices keeps the term products (i, j) with i + j < kTermCount: 1, 3 or 6 of them.
//
// The columns are cut in panels of 64, 32 or 16, one after the other; a panel is row-major, its
// 16-byte units permuted within each 8 rows so that a column of units touches every bank. It is the
// order in which matrix instructions of sm_90 read shared memory ("swizzle" of 128, 64, 32 bytes).
// Of three terms, 64 columns would be more than shared memory takes as the smallest piece.
template <class E, int kTermCount, int kRowCount, int kColumnCount>
struct Operand {
  static_assert(sizeof(E) == 2 && kRowCount % 8 == 0 && kColumnCount % 16 == 0);
  using Element = E;
  static constexpr int kTerms = kTermCount, kHeight = kRowCount, kWidth = kColumnCount;
  static constexpr int kPanel = kWidth % 64 == 0 && kTerms < 3 ? 64 : kWidth % 32 == 0 ? 32 : 16;
  static constexpr int kTermSize = kHeight * kWidth;  // elements
  static constexpr int kSize = kTerms * kTermSize;
  static constexpr int kBytes = kSize * 2;

  // Of element (row, column) of a term. Eight columns from a multiple of 8 on are contiguous.
  KLA_HOST_DEVICE static constexpr int Offset(int row, int column) {
    constexpr int kUnits = kPanel / 8;
    const int unit = row * kUnits + column % kPanel / 8;
    return column / kPanel * (kHeight * kPanel) + (unit ^ ((unit >> 3) & (kUnits - 1))) * 8 +
           column % 8;
  }

  E* data;
};

// Rounds x to the next term and leaves the rest in x.
template <class E>
KLA_HOST_DEVICE E NextTerm(float& x) {
  const E term(x);
  x -= static_cast<float>(term);
  return term;
}

// 2^-e for the largest magnitude of a row, 2^e <= largest < 2^(e+1): an exact scaling that brings
// the row near 1, so that sums of its squares neither overflow nor vanish.
KLA_HOST_DEVICE inline float PowerOfTwoNear1(float largest) {
  const std::uint32_t exponent = internal::BitCast<std::uint32_t>(largest) >> 23;
  if (exponent == 0) return 1.0f;
  return internal::BitCast<float>((exponent >= 253 ? 1u : 254u - exponent) << 23);
}

// 1 / x of a power of two, exact: a division in double is a hundred instructions.
KLA_HOST_DEVICE inline double InverseOfPowerOfTwo(float x) {
  const std::uint64_t exponent = internal::BitCast<std::uint32_t>(x) >> 23;
  return internal::BitCast<double>((1023 + 127 - exponent) << 52);
}

// Token rows in the caller's memory: row t of head h of batch row b begins at
// data + b * batch + t * time + h * head. `aligned`: every row begins on 16 bytes.
template <class T>
struct TokenRows {
  T* data;
  Index batch, time, head;
  bool aligned;
  KLA_HOST_DEVICE T* At(Index b, Index t, Index h) const {
    return data + b * batch + t * time + h * head;
  }
};

// Position of one element of a register tile. The slots index RowValues and ColumnValues.
struct Place {
  int row, column;
  int row_slot, column_slot;
};

}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_LAYOUT_H_
