// SPDX-License-Identifier: Apache-2.0
// core: views of Eigen's matrices, maps and blocks. Needs Eigen, so no other header includes it.
//   Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> q(tokens, 4 * 96);
//   .q = kla::KeysOf(kla::TokenRows(q), /*heads=*/4)          core/token_views.h
#ifndef KLA_CORE_EIGEN_VIEWS_H_
#define KLA_CORE_EIGEN_VIEWS_H_

#include <Eigen/Core>
#include <string>
#include <type_traits>

#include "kla/core/check.h"
#include "kla/core/scalar.h"
#include "kla/core/token_views.h"
#include "kla/core/view.h"

namespace kla {

namespace internal {

// Whether X is a matrix, or a reference to one, whose elements lie in memory that outlives it.
template <class X>
constexpr void CheckEigenMemory() {
  using Dense = std::remove_cvref_t<X>;
  static_assert((Eigen::internal::traits<Dense>::Flags & Eigen::DirectAccessBit) != 0,
                "kla: this Eigen expression has no memory of its own; assign it to a matrix first");
  static_assert(
      std::is_lvalue_reference_v<X> || !std::is_base_of_v<Eigen::PlainObjectBase<Dense>, Dense>,
      "kla: a view of this temporary Eigen matrix would dangle; give it a name first");
}

// Tokens along one axis of a matrix, their columns along the other, which must be contiguous.
template <class T>
ModelView<T> TokensOf(const char* function, T* data, Index tokens, Index width, Index token_stride,
                      Index column_stride, Index batch) {
  KLA_CHECK(batch > 0 && tokens % batch == 0, function, "batch",
            "a divisor of the " + std::to_string(tokens) + " tokens", std::to_string(batch));
  KLA_CHECK(width <= 1 || column_stride == 1, function, "x",
            "a token's elements one after the other", "stride " + std::to_string(column_stride));
  return ModelView<T>(data, {batch, tokens / batch, width},
                      {tokens / batch * token_stride, token_stride, 1});
}

}  // namespace internal

// Rows of x are tokens: x [B T, D] as [B, T, D]. For row-major matrices, and a column of one gate.
// The view is const where x is, copies nothing and must not outlive the memory of x.
template <class X>
auto TokenRows(X&& x, Index batch = 1) {
  using Dense = std::remove_cvref_t<X>;
  internal::CheckEigenMemory<X>();
  static_assert(Dense::IsRowMajor || Dense::ColsAtCompileTime == 1,
                "kla: the rows of this column-major matrix are not contiguous; declare it with "
                "Eigen::RowMajor, or keep a token in each column and call kla::TokenColumns");
  constexpr bool kRowMajor = Dense::IsRowMajor;
  return internal::TokensOf("TokenRows", x.data(), x.rows(), x.cols(),
                            kRowMajor ? x.outerStride() : x.innerStride(),
                            kRowMajor ? x.innerStride() : x.outerStride(), batch);
}

// Columns of x are tokens: x [D, B T] as [B, T, D]. For column-major matrices, Eigen's default.
template <class X>
auto TokenColumns(X&& x, Index batch = 1) {
  using Dense = std::remove_cvref_t<X>;
  internal::CheckEigenMemory<X>();
  static_assert(!Dense::IsRowMajor || Dense::RowsAtCompileTime == 1,
                "kla: the columns of this row-major matrix are not contiguous; declare it with "
                "Eigen::ColMajor, or keep a token in each row and call kla::TokenRows");
  constexpr bool kRowMajor = Dense::IsRowMajor;
  return internal::TokensOf("TokenColumns", x.data(), x.cols(), x.rows(),
                            kRowMajor ? x.innerStride() : x.outerStride(),
                            kRowMajor ? x.outerStride() : x.innerStride(), batch);
}

// x [K, V], the state of one head of one sequence, in either order: a StateView or, where x is
// column-major, a TransposedStateView. Arguments for states take both.
template <class X>
auto StateOf(X&& x) {
  using Dense = std::remove_cvref_t<X>;
  using T = std::remove_pointer_t<decltype(x.data())>;
  internal::CheckEigenMemory<X>();
  KLA_CHECK(x.innerStride() == 1, "StateOf", "x", "inner stride 1",
            std::to_string(x.innerStride()));
  const Index outer = x.outerStride(), size = outer * x.outerSize();
  if constexpr (Dense::IsRowMajor) {
    return StateView<T>(x.data(), {1, 1, x.rows(), x.cols()}, {size, size, outer, 1});
  } else {
    return TransposedStateView<T>(x.data(), {1, 1, x.cols(), x.rows()}, {size, size, outer, 1});
  }
}

}  // namespace kla

#endif  // KLA_CORE_EIGEN_VIEWS_H_
