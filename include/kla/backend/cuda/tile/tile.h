// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: what the bodies of the chunk kernels are written in. A block of kGroups groups
// of 128 threads works on tiles of 64 rows; a body says what the block does, never what a thread
// does.
//
//   Block<kGroups>           index(), Barrier(), ForEach(count, f), ForEachRow(f), Groups(f),
//                            Reduce, CumulativeSums, ReverseCumulativeSum,
//                            CopyAsync / CommitCopies / WaitCopies<pending>,
//                            Group() (inside Groups: the same of one group's threads),
//                            InSteps(count, parts): groups with a part each, step by step
//   RegisterTile<N>          [64, N] float, distributed over the threads of one group
//   RegisterOperand          the same in 16-bit terms: the left factor of a product
//   Operand (layout.h)  a matrix in shared or device memory: the right factor
//   Multiply, MultiplyTransposed, InvertUnitLower, LoadOperand, StoreOperand, ForEachElement, ...
//
// host.h implements it by loops (the specification); device.cuh by mma.sync, ldmatrix and
// cp.async. Between a write to shared memory and a read by other threads a body calls Barrier().
#ifndef KLA_BACKEND_CUDA_TILE_TILE_H_
#define KLA_BACKEND_CUDA_TILE_TILE_H_

#if defined(__CUDACC__)
#include "kla/backend/cuda/tile/inverse.cuh"
#else
#include "kla/backend/cuda/tile/inverse_host.h"
#endif

namespace kla::internal::tile {

struct Identity {
  KLA_TILE_FUNCTION float operator()(const Place&, float x) const { return x; }
};

struct KeepNothing {
  template <class Part>
  KLA_TILE_FUNCTION void operator()(const Part&, int /*column*/) const {}
};

// 8 columns of a row, in terms.
template <class E, int kTerms, int kHeight, int kWidth>
KLA_TILE_FUNCTION void StoreTerms(const Operand<E, kTerms, kHeight, kWidth>& tile, int row,
                                  int column, float (&x)[8]) {
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    StoreNextTerm(x, tile.data + t * tile.kTermSize + tile.Offset(row, column));
  }
}

// Rows 0 ... count - 1 of `kValid` columns from `column` on into a tile of 64 columns; zeros
// elsewhere. Complete after WaitCopies and a barrier. Unrolled, a thread's addresses are in
// registers for as long as the loop around it runs.
template <bool kUnrolled = true, class T, class E, int kTerms, class B>
KLA_TILE_FUNCTION void LoadRows(const B& block, const Operand<E, kTerms, kRows, 64>& tile,
                                const T* first, Index stride, bool aligned, int count,
                                int columns) {
  if constexpr (std::is_same_v<T, E> && kTerms == 1) {
    if (aligned && count == kRows && columns >= 64) {
      const auto copy = [&](int i) {
        const int row = i / 8, column = i % 8 * 8;
        block.CopyUnitAsync(tile.data + tile.Offset(row, column), first + row * stride + column);
      };
      if constexpr (kUnrolled) {
        block.template ForEach<kRows * 8>(copy);
      } else {
        block.ForEach(kRows * 8, copy);
      }
      return;
    }
  }
  block.ForEach(kRows * 8, [&](int i) {
    const int row = i / 8, column = i % 8 * 8;
    float x[8] = {};
    if (row < count && column < columns) LoadUnit(first + row * stride + column, aligned, x);
    StoreTerms(tile, row, column, x);
  });
}

// The reverse: rows of `columns` columns, from [64, kPitch] row-major in shared memory.
template <int kPitch, class T, class B>
KLA_TILE_FUNCTION void StoreRows(const B& block, const T* tile, T* first, Index stride,
                                 bool aligned, int count, int columns) {
  if (aligned && count == kRows && columns >= 64) {
    block.template ForEach<kRows * 8>([&](int i) {
      const int row = i / 8, column = i % 8 * 8;
      CopyUnit(first + row * stride + column, tile + row * kPitch + column, true);
    });
  } else {
    block.ForEach(kRows * 8, [&](int i) {
      const int row = i / 8, column = i % 8 * 8;
      if (row >= count || column >= columns) return;
      CopyUnit(first + row * stride + column, tile + row * kPitch + column, aligned);
    });
  }
}

}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_TILE_H_
