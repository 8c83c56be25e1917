// SPDX-License-Identifier: Apache-2.0
// layer/host: matrix products. Eigen computes, the executor spreads.
#ifndef KLA_LAYER_HOST_DENSE_H_
#define KLA_LAYER_HOST_DENSE_H_

#include <Eigen/Core>
#include <algorithm>
#include <type_traits>

#include "kla/core/concepts.h"
#include "kla/core/scalar.h"
#include "kla/layer/host/few_rows.h"
#include "kla/layer/panels.h"

static_assert(
    EIGEN_VERSION_AT_LEAST(3, 4, 0),
    "kla: the layer needs Eigen 3.4, whose matrix product it calls; install a newer Eigen");

namespace kla::internal {

enum class Operand { kAsIs, kTransposed };
enum class Result { kOverwrite, kAccumulate };

// The result is cut into tiles, one task each. The cut depends on sizes alone, so that results have
// the same bits for every executor. Tiles are large, so that the copies that Eigen makes of its
// operands are a small part of the work, but shorter where there would be few of them.
struct Tiling {
  Index rows, columns;
};
inline Tiling TilingOf(Index rows, Index columns, bool few_rows) {
  constexpr Index kColumns = 256, kMostRows = 512, kLeastRows = 128, kEnoughTiles = 8;
  // So many rows of the weight stay in the second-level cache.
  if (few_rows) return {kFewRows, 64};
  const Index across = (columns + kColumns - 1) / kColumns;
  Index tile_rows = kMostRows;
  while (tile_rows > kLeastRows && (rows + tile_rows - 1) / tile_rows * across < kEnoughTiles) {
    tile_rows /= 2;
  }
  return {tile_rows, kColumns};
}

// C += A B on one tile, [m, n] += [m, k] [k, n].
template <Operand kA, Operand kB, class T>
void MultiplyTile(Index m, Index n, Index k, const T* a, Index a_stride, const T* b, Index b_stride,
                  T* c, Index c_stride) {
  constexpr int kAOrder = kA == Operand::kAsIs ? Eigen::RowMajor : Eigen::ColMajor;
  constexpr int kBOrder = kB == Operand::kAsIs ? Eigen::RowMajor : Eigen::ColMajor;
  constexpr int kAny = Eigen::Dynamic;
  if constexpr (std::is_floating_point_v<T>) {
    // The function behind Eigen's operator*, called directly because operator* would start threads
    // of its own where OpenMP is on: more than the executor allows, with bits that depend on their
    // number.
    using Blocking = Eigen::internal::gemm_blocking_space<Eigen::RowMajor, T, T, kAny, kAny, kAny>;
    using Product =
        Eigen::internal::general_matrix_matrix_product<Eigen::Index, T, kAOrder, false, T, kBOrder,
                                                       false, Eigen::RowMajor, 1>;
    Blocking blocking(m, n, k, /*num_threads=*/1, /*l3_blocking=*/true);
    Product::run(m, n, k, a, a_stride, b, b_stride, c, 1, c_stride, T(1), blocking, nullptr);
  } else {
    using Stride = Eigen::OuterStride<>;
    using Left = Eigen::Matrix<T, kAny, kAny, kAOrder>;
    using Right = Eigen::Matrix<T, kAny, kAny, kBOrder>;
    using Out = Eigen::Matrix<T, kAny, kAny, Eigen::RowMajor>;
    Eigen::Map<Out, 0, Stride>(c, m, n, Stride(c_stride)) +=
        Eigen::Map<const Left, 0, Stride>(a, m, k, Stride(a_stride))
            .lazyProduct(Eigen::Map<const Right, 0, Stride>(b, k, n, Stride(b_stride)));
  }
}

// C [m, n] = A' B', or C += A' B', where A' is A or A^T and B' is B or B^T. C overlaps neither.
template <Operand kA, Operand kB, class T, Executor Exec>
void Multiply(const MatrixRef<const std::type_identity_t<T>>& a,
              const MatrixRef<const std::type_identity_t<T>>& b, const MatrixRef<T>& c,
              Result result, const Exec& executor) {
  const Index depth = kA == Operand::kAsIs ? a.columns : a.rows;
  constexpr bool kFewRowsApply =
      std::is_floating_point_v<T> && kA == Operand::kAsIs && kB == Operand::kTransposed;
  const bool few_rows = kFewRowsApply && c.rows <= kFewRows && result == Result::kOverwrite;
  const Tiling tile_size = TilingOf(c.rows, c.columns, few_rows);
  const Index across = (c.columns + tile_size.columns - 1) / tile_size.columns;
  const Index down = (c.rows + tile_size.rows - 1) / tile_size.rows;
  executor.ParallelFor(down * across, [&](Index tile) {
    const Index row = tile / across * tile_size.rows, column = tile % across * tile_size.columns;
    const Index m = std::min(tile_size.rows, c.rows - row);
    const Index n = std::min(tile_size.columns, c.columns - column);
    const T* a_tile = a.data + (kA == Operand::kAsIs ? row * a.stride : row);
    const T* b_tile = b.data + (kB == Operand::kAsIs ? column : column * b.stride);
    T* c_tile = c.data + row * c.stride + column;
    if constexpr (kFewRowsApply) {
      if (few_rows) {
        return MultiplyFewRows(m, n, depth, a_tile, a.stride, b_tile, b.stride, c_tile, c.stride);
      }
    }
    if (result == Result::kOverwrite) {
      for (Index i = 0; i < m; ++i) std::fill_n(c_tile + i * c.stride, n, T(0));
    }
    if (depth == 0) return;
    MultiplyTile<kA, kB>(m, n, depth, a_tile, a.stride, b_tile, b.stride, c_tile, c.stride);
  });
}

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_DENSE_H_
