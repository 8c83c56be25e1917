// SPDX-License-Identifier: Apache-2.0
// tests/math: one token of the recurrence against the same equation in matrices,
//   S+ = a (I - beta k k^T) S + beta k v^T,   o = scale S+^T q.
#include "kla/math/recurrence.h"

#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kla/math/unit_key.h"

namespace kla::test {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

struct Token {
  Vector q, k, v;
  double g, beta, scale;
};

Token RandomToken(Index key_dim, Index value_dim) {
  return {
      Vector::Random(key_dim), Vector::Random(key_dim), Vector::Random(value_dim), -0.3, 0.4, 0.7};
}

Vector Step(Matrix& s, const Token& t) {
  Vector o(s.cols());
  internal::RecurrenceStep<double>({s.data(), s.rows(), s.cols(), s.cols(), 1}, t.q.data(),
                                   t.k.data(), t.v.data(), t.g, t.beta, t.scale, o.data());
  return o;
}

TEST(RecurrenceStepTest, IsTheEquationInMatrices) {
  for (const auto& [key_dim, value_dim] :
       {std::pair<Index, Index>{1, 1}, {1, 5}, {7, 1}, {6, 9}, {13, 4}}) {
    const Token t = RandomToken(key_dim, value_dim);
    const Matrix before = Matrix::Random(key_dim, value_dim);
    Matrix s = before;
    const Vector o = Step(s, t);
    const Matrix projector = Matrix::Identity(key_dim, key_dim) - t.beta * t.k * t.k.transpose();
    const Matrix expected =
        std::exp(t.g) * projector.lazyProduct(before) + t.beta * t.k * t.v.transpose();
    const double bound = 8 * static_cast<double>(key_dim) * 0x1p-53;
    EXPECT_LE((s - expected).cwiseAbs().maxCoeff(), 4 * bound);
    EXPECT_LE((o - t.scale * expected.transpose() * t.q).cwiseAbs().maxCoeff(),
              4 * bound * static_cast<double>(key_dim));
  }
}

TEST(RecurrenceStepTest, BothStateLayoutsGiveTheSameBits) {
  const Token t = RandomToken(5, 3);
  Matrix rows = Matrix::Random(5, 3);
  Matrix columns = rows.transpose();
  const Vector o = Step(rows, t);
  Vector o_columns(3);
  internal::RecurrenceStep<double>({columns.data(), 5, 3, 1, 5}, t.q.data(), t.k.data(), t.v.data(),
                                   t.g, t.beta, t.scale, o_columns.data());
  EXPECT_EQ(rows, columns.transpose());
  EXPECT_EQ(o, o_columns);
}

TEST(RecurrenceStepTest, FullDecayForgetsTheStateAndAZeroKeyKeepsIt) {
  Token t = RandomToken(4, 3);
  Matrix s = Matrix::Random(4, 3);
  Matrix kept = s;
  t.g = -std::numeric_limits<double>::infinity();
  Step(s, t);
  EXPECT_EQ(s, t.k * (t.beta * t.v).transpose());
  t.g = 0;
  t.k.setZero();
  const Matrix before = kept;
  const Vector o = Step(kept, t);
  EXPECT_EQ(kept, before);
  EXPECT_LE((o - t.scale * before.transpose() * t.q).cwiseAbs().maxCoeff(), 16 * 0x1p-53);
}

// The bridge to Gated DeltaNet: KLA(q, k, v, eta) = GatedDelta(q, r k, r v, beta = eta).
TEST(RecurrenceStepTest, KlaIsTheGatedDeltaRuleOnScaledInputs) {
  const double epsilon = 1e-6, eta = 0.6;
  for (const double length : {0.0, 1e-20, 1e-3, 1.0, 1e3, 1e30}) {
    Token t = RandomToken(8, 6);
    t.k *= length;
    const double n = t.k.squaredNorm(), r = internal::InverseNorm(n, epsilon);
    t.beta = Kla::Beta(eta, n, epsilon);
    Matrix kla = Matrix::Random(8, 6);
    Matrix gated_delta = kla;
    const Vector o = Step(kla, t);
    t.k *= r;
    t.v *= r;
    t.beta = Gdn::Beta(eta, 1.0, epsilon);
    const Vector o_gated_delta = Step(gated_delta, t);
    const double size = 1 + kla.norm();  // roundings of 8 products each
    EXPECT_LE((kla - gated_delta).norm(), 40 * 0x1p-53 * size) << length;
    EXPECT_LE((o - o_gated_delta).norm(), 40 * 0x1p-53 * size * t.q.norm()) << length;
  }
}

}  // namespace
}  // namespace kla::test
