// SPDX-License-Identifier: Apache-2.0
// layer/host: products with a few rows on the left, as decoding has them. Such a product is bound
// by reading the weight; Eigen's general product would copy the weight first.
#ifndef KLA_LAYER_HOST_FEW_ROWS_H_
#define KLA_LAYER_HOST_FEW_ROWS_H_

#include <Eigen/Core>
#include <algorithm>

#include "kla/core/scalar.h"

// nvcc's front end warns of GCC's pragma, in host code too.
#if defined(__CUDACC__)
#define KLA_UNROLL_8
#else
#define KLA_UNROLL_8 _Pragma("GCC unroll 8")
#endif

namespace kla::internal {

// Up to so many rows this is faster than Eigen's product (measured at depths 256 and 1536).
inline constexpr Index kFewRows = 8;

// c[j][i] = <w_i, x_j> for kW rows of w and kX rows of x, each of `depth` elements. All kW kX sums
// are in registers; each runs over the same lanes in the same order whatever kW and kX are, so that
// a row's result does not depend on how many rows there are.
template <int kW, int kX, class T>
void DotTile(const T* w, Index w_stride, const T* x, Index x_stride, Index depth, T* c,
             Index c_stride) {
  using Packet = typename Eigen::internal::packet_traits<T>::type;
  constexpr Index kLanes = Eigen::internal::packet_traits<T>::size;
  Packet sums[kW][kX];
  KLA_UNROLL_8
  for (int i = 0; i < kW; ++i) {
    KLA_UNROLL_8
    for (int j = 0; j < kX; ++j) sums[i][j] = Eigen::internal::pset1<Packet>(T(0));
  }
  Index d = 0;
  for (; d + kLanes <= depth; d += kLanes) {
    Packet at[kX];
    KLA_UNROLL_8
    for (int j = 0; j < kX; ++j) at[j] = Eigen::internal::ploadu<Packet>(x + j * x_stride + d);
    KLA_UNROLL_8
    for (int i = 0; i < kW; ++i) {
      const Packet weight = Eigen::internal::ploadu<Packet>(w + i * w_stride + d);
      KLA_UNROLL_8
      for (int j = 0; j < kX; ++j) {
        sums[i][j] = Eigen::internal::pmadd(weight, at[j], sums[i][j]);
      }
    }
  }
  for (int i = 0; i < kW; ++i) {
    for (int j = 0; j < kX; ++j) {
      T sum = Eigen::internal::predux(sums[i][j]);
      for (Index e = d; e < depth; ++e) sum += w[i * w_stride + e] * x[j * x_stride + e];
      c[j * c_stride + i] = sum;
    }
  }
}

// c [m, n] = x [m, depth] w^T, w [n, depth]; m <= kFewRows. n is small enough for w to stay in the
// second-level cache while groups of rows of x pass.
template <class T>
void MultiplyFewRows(Index m, Index n, Index depth, const T* x, Index x_stride, const T* w,
                     Index w_stride, T* c, Index c_stride) {
  const auto columns = [&]<int kW, int kX>(Index row) {
    const T* x_row = x + row * x_stride;
    T* c_row = c + row * c_stride;
    Index i = 0;
    for (; i + kW <= n; i += kW) {
      DotTile<kW, kX>(w + i * w_stride, w_stride, x_row, x_stride, depth, c_row + i, c_stride);
    }
    for (; i < n; ++i) {
      DotTile<1, kX>(w + i * w_stride, w_stride, x_row, x_stride, depth, c_row + i, c_stride);
    }
  };
  Index row = 0;
  for (; row + 4 <= m; row += 4) columns.template operator()<4, 4>(row);
  if (row + 2 <= m) {
    columns.template operator()<8, 2>(row);
    row += 2;
  }
  if (row < m) columns.template operator()<8, 1>(row);
}

}  // namespace kla::internal

#undef KLA_UNROLL_8

#endif  // KLA_LAYER_HOST_FEW_ROWS_H_
