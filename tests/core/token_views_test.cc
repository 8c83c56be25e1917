// SPDX-License-Identifier: Apache-2.0
// tests/core: views out of rows of tokens, and of Eigen's matrices.
#include "kla/core/token_views.h"

#include <Eigen/Core>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kla/core/eigen_views.h"
#include "kla/core/layout.h"

namespace kla::test {
namespace {

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<float> Counting(Index count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

std::string MessageOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no exception";
}

TEST(TokenViewsTest, SplitQkvFindsEveryElement) {
  // H = 2, HV = 4, K = 3, V = 5 in rows of 2 x 6 + 20 = 32, stored 40 apart.
  const Index batch = 2, tokens = 3, pitch = 40;
  std::vector<float> data = Counting(batch * tokens * pitch);
  const ModelView<float> rows(data.data(), {batch, tokens, 32}, {tokens * pitch, pitch, 1});
  const auto [q, k, v] =
      SplitQkv(rows, {.key_heads = 2, .value_heads = 4, .key_dim = 3, .value_dim = 5});
  EXPECT_EQ(q.ShapeText(), "[2, 3, 2, 3]");
  EXPECT_EQ(k.ShapeText(), "[2, 3, 2, 3]");
  EXPECT_EQ(v.ShapeText(), "[2, 3, 4, 5]");
  for (Index b = 0; b < batch; ++b) {
    for (Index t = 0; t < tokens; ++t) {
      const auto row = static_cast<float>((b * tokens + t) * pitch);
      for (Index h = 0; h < 2; ++h) {
        for (Index i = 0; i < 3; ++i) {
          EXPECT_EQ(q(b, t, h, i), row + static_cast<float>(h * 3 + i));
          EXPECT_EQ(k(b, t, h, i), row + static_cast<float>(6 + h * 3 + i));
        }
      }
      for (Index h = 0; h < 4; ++h) {
        for (Index j = 0; j < 5; ++j) {
          EXPECT_EQ(v(b, t, h, j), row + static_cast<float>(12 + h * 5 + j));
        }
      }
    }
  }
  v(1, 2, 3, 4) = -1;
  EXPECT_EQ(data[5 * 40 + 31], -1);
  const auto constant = SplitQkv(ModelView<const float>(rows), {2, 4, 3, 5});
  static_assert(std::is_same_v<decltype(constant.q), KeyView<const float>>);
}

TEST(TokenViewsTest, SplitQkvSaysWhatIsWrong) {
  std::vector<float> data(64);
  const ModelView<float> rows(data.data(), {1, 2, 32});
  EXPECT_EQ(MessageOf([&] {
              SplitQkv(rows, {2, 4, 3, 6});
            }),
            "kla::SplitQkv: argument 'rows': expected [B, T, H K + H K + HV V] with 36 columns, "
            "given [1, 2, 32]");
  EXPECT_EQ(
      MessageOf([&] {
        SplitQkv(rows, {2, 3, 3, 5});
      }),
      "kla::SplitQkv: argument 'value_heads': expected a multiple of the 2 key heads, given 3");
  EXPECT_EQ(MessageOf([&] {
              SplitQkv(rows, {0, 4, 3, 5});
            }),
            "kla::SplitQkv: argument 'key_heads': expected a count > 0, given 0");
  EXPECT_EQ(MessageOf([&] {
              SplitQkv(rows, {2, 4, -3, 5});
            }),
            "kla::SplitQkv: argument 'key_dim': expected a length > 0, given -3");
  EXPECT_EQ(MessageOf([&] {
              SplitQkv(rows, {2, 4, 3, 0});
            }),
            "kla::SplitQkv: argument 'value_dim': expected a length > 0, given 0");
  EXPECT_EQ(MessageOf([&] { KeysOf(rows, 5); }),
            "kla::KeysOf: argument 'heads': expected a divisor of the width 32, given 5");
  EXPECT_EQ(MessageOf([&] { ValuesOf(rows, 0); }),
            "kla::ValuesOf: argument 'heads': expected a divisor of the width 32, given 0");
}

TEST(EigenViewsTest, RowsOfARowMajorMatrixAreTokens) {
  RowMatrix x(6, 8);
  std::iota(x.data(), x.data() + x.size(), 0.0f);
  const KeyView<float> keys = KeysOf(TokenRows(x, /*batch=*/2), 4);
  EXPECT_EQ(keys.ShapeText(), "[2, 3, 4, 2]");
  EXPECT_EQ(keys(1, 2, 3, 1), x(5, 7));
  EXPECT_EQ(keys(1, 0, 2, 0), x(3, 4));
  const GateView<float> gates = GatesOf(TokenRows(x));
  EXPECT_EQ(gates(0, 4, 3), x(4, 3));
  const ValueView<float> part = ValuesOf(TokenRows(x.middleCols(2, 6)), 3);  // a block of x
  EXPECT_EQ(part.stride<Time>(), 8);
  EXPECT_EQ(part(0, 5, 2, 1), x(5, 7));
}

TEST(EigenViewsTest, ColumnsOfAColumnMajorMatrixAreTokens) {
  Eigen::MatrixXf x(8, 6);
  std::iota(x.data(), x.data() + x.size(), 0.0f);
  const KeyView<float> keys = KeysOf(TokenColumns(x, /*batch=*/3), 2);
  EXPECT_EQ(keys.ShapeText(), "[3, 2, 2, 4]");
  EXPECT_EQ(keys(2, 1, 1, 3), x(7, 5));
  EXPECT_EQ(keys(1, 0, 1, 0), x(4, 2));
}

TEST(EigenViewsTest, MapsAndStrides) {
  std::vector<float> data = Counting(60);
  const Eigen::Map<const RowMatrix, 0, Eigen::OuterStride<>> x(data.data(), 5, 8,
                                                               Eigen::OuterStride<>(12));
  const auto rows = TokenRows(x);
  static_assert(std::is_same_v<decltype(rows), const ModelView<const float>>);
  EXPECT_EQ(rows(0, 4, 7), 4 * 12 + 7);
  using Strided = Eigen::Map<RowMatrix, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  EXPECT_EQ(MessageOf([&] { TokenRows(Strided(data.data(), 5, 4, Eigen::Stride<-1, -1>(12, 2))); }),
            "kla::TokenRows: argument 'x': expected a token's elements one after the other, given "
            "stride 2");
  EXPECT_EQ(MessageOf([&] { TokenRows(x, 2); }),
            "kla::TokenRows: argument 'batch': expected a divisor of the 5 tokens, given 2");
  EXPECT_EQ(MessageOf([&] { StateOf(Strided(data.data(), 5, 4, Eigen::Stride<-1, -1>(12, 2))); }),
            "kla::StateOf: argument 'x': expected inner stride 1, given 2");
}

TEST(EigenViewsTest, VectorsAreOneTokenOrOneGate) {
  Eigen::VectorXf column(6);
  column << 0, 1, 2, 3, 4, 5;
  EXPECT_EQ(GatesOf(TokenRows(column)).ShapeText(), "[1, 6, 1]");  // a gate of six tokens
  EXPECT_EQ(GatesOf(TokenRows(column))(0, 4, 0), 4);
  EXPECT_EQ(KeysOf(TokenColumns(column), 2).ShapeText(), "[1, 1, 2, 3]");  // one token
  EXPECT_EQ(KeysOf(TokenColumns(column), 2)(0, 0, 1, 1), 4);
  Eigen::RowVectorXf row = column;
  EXPECT_EQ(KeysOf(TokenRows(row), 2)(0, 0, 1, 1), 4);
  EXPECT_EQ(GatesOf(TokenColumns(row))(0, 4, 0), 4);
}

TEST(EigenViewsTest, StatesInEitherOrder) {
  RowMatrix rows(3, 5);
  std::iota(rows.data(), rows.data() + rows.size(), 0.0f);
  Eigen::MatrixXf columns = rows;
  const StateRef<const float> a = StateOf(rows), b = StateOf(std::as_const(columns));
  for (const StateRef<const float>& state : {a, b}) {
    EXPECT_EQ(state.key_dim, 3);
    EXPECT_EQ(state.value_dim, 5);
    for (Index i = 0; i < 3; ++i) {
      for (Index j = 0; j < 5; ++j) {
        EXPECT_EQ(state.Head(0, 0)[i * state.key_stride + j * state.value_stride], rows(i, j));
      }
    }
  }
}

TEST(EigenViewsTest, ConstnessIsKept) {
  Eigen::MatrixXf x(2, 2);
  static_assert(std::is_same_v<decltype(TokenColumns(x)), ModelView<float>>);
  static_assert(std::is_same_v<decltype(TokenColumns(std::as_const(x))), ModelView<const float>>);
  TokenColumns(x)(0, 1, 0) = 7;
  EXPECT_EQ(x(0, 1), 7);
}

}  // namespace
}  // namespace kla::test
