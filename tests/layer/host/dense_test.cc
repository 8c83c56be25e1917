// SPDX-License-Identifier: Apache-2.0
// tests/layer: matrix products of every kind and cut, against plain loops in double.
#include "kla/layer/host/dense.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kla/core/executor.h"
#include "support/tolerance.h"

namespace kla::internal {
namespace {

template <class T>
struct Matrix {
  Matrix(Index row_count, Index column_count, std::uint32_t seed)
      : rows(row_count),
        columns(column_count),
        stride(column_count + 3),
        data(static_cast<std::size_t>(rows * stride)) {
    std::minstd_rand random(seed);
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (T& value : data) value = static_cast<T>(uniform(random));
  }
  MatrixRef<T> ref() { return {data.data(), rows, columns, stride}; }
  T at(Index i, Index j) const { return data[static_cast<std::size_t>(i * stride + j)]; }

  Index rows, columns, stride;
  std::vector<T> data;
};

template <Operand kA, Operand kB, class T>
void ExpectProduct(Index m, Index n, Index k, Result result) {
  Matrix<T> a(kA == Operand::kAsIs ? m : k, kA == Operand::kAsIs ? k : m, 1);
  Matrix<T> b(kB == Operand::kAsIs ? k : n, kB == Operand::kAsIs ? n : k, 2);
  Matrix<T> c(m, n, 3);
  const Matrix<T> before = c;
  Multiply<kA, kB>(a.ref(), b.ref(), c.ref(), result, Serial{});
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < c.stride; ++j) {
      if (j >= n) {
        EXPECT_EQ(c.at(i, j), before.at(i, j)) << "written outside";
        continue;
      }
      double sum = result == Result::kAccumulate ? static_cast<double>(before.at(i, j)) : 0;
      for (Index d = 0; d < k; ++d) {
        sum += static_cast<double>(kA == Operand::kAsIs ? a.at(i, d) : a.at(d, i)) *
               static_cast<double>(kB == Operand::kAsIs ? b.at(d, j) : b.at(j, d));
      }
      // A sum of k products of numbers below 1, in any order: |error| <= k u k.
      const double bound = test::kRoundoff<T> * static_cast<double>((k + 1) * (k + 1));
      ASSERT_NEAR(static_cast<double>(c.at(i, j)), sum, bound) << i << " " << j;
    }
  }
}

template <class T>
class DenseTest : public ::testing::Test {};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(DenseTest, Scalars);

TYPED_TEST(DenseTest, MatchesPlainLoops) {
  using enum Operand;
  for (const Result result : {Result::kOverwrite, Result::kAccumulate}) {
    for (const Index m : {0, 1, 2, 3, 4, 7, 8, 9, 130}) {
      for (const Index n : {1, 5, 63, 300}) {
        for (const Index k : {0, 1, 15, 40}) {
          ExpectProduct<kAsIs, kTransposed, TypeParam>(m, n, k, result);
          ExpectProduct<kAsIs, kAsIs, TypeParam>(m, n, k, result);
          ExpectProduct<kTransposed, kAsIs, TypeParam>(m, n, k, result);
        }
      }
    }
  }
}

// In decoding a sequence's result does not depend on who else is in the batch.
TYPED_TEST(DenseTest, FewRowsDoNotDependOnEachOther) {
  const Index depth = 150, columns = 70;
  Matrix<TypeParam> x(kFewRows, depth, 1), w(columns, depth, 2), all(kFewRows, columns, 3);
  Multiply<Operand::kAsIs, Operand::kTransposed>(x.ref(), w.ref(), all.ref(), Result::kOverwrite,
                                                 Serial{});
  for (Index rows = 1; rows < kFewRows; ++rows) {
    Matrix<TypeParam> some(rows, columns, 3);
    auto first = x.ref();
    first.rows = rows;
    Multiply<Operand::kAsIs, Operand::kTransposed>(first, w.ref(), some.ref(), Result::kOverwrite,
                                                   Serial{});
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < columns; ++j) EXPECT_EQ(some.at(i, j), all.at(i, j));
    }
  }
}

TEST(TilingTest, CoversLargeProductsInLargeTilesAndSplitsSmallOnes) {
  EXPECT_EQ(TilingOf(4096, 6936, false).rows, 512);
  EXPECT_EQ(TilingOf(512, 256, false).rows, 128);
  EXPECT_EQ(TilingOf(8, 6936, true).columns, 64);
}

}  // namespace
}  // namespace kla::internal
