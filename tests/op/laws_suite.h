// SPDX-License-Identifier: Apache-2.0
// What the update must do whatever computes it: the laws of a relaxed Kaczmarz step
//   r = v - S~^T k,   S = S~ + beta k r^T,   S~ = exp(g) S_before,   rho = beta n,   n = |k|^2
// on every backend, in recurrent and in chunked form. Norms and residuals are taken in double from
// the numbers that the operation was given and has returned.
#ifndef KLA_TESTS_OP_LAWS_SUITE_H_
#define KLA_TESTS_OP_LAWS_SUITE_H_

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "support/array.h"
#include "support/configs.h"
#include "support/tolerance.h"

namespace kla::test {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

struct Token {
  Vector q, k, v;
  double g = 0, eta = 1;
};

struct Constants {
  double epsilon = 1e-6, scale = 1;
};

enum class Form { kRecurrent, kChunked };

// One head of a Config: everything below is of sequences of Token, rounded to the element type.
template <class C>
struct Laws {
  using T = typename C::T;
  using R = Accumulator<T>;
  static constexpr Index kK = C::kKeyDim, kV = C::kValueDim;
  static constexpr Form kForms[] = {Form::kRecurrent, Form::kChunked};

  explicit Laws(std::uint64_t seed) : random(seed) {}

  static double Round(double x) { return static_cast<double>(static_cast<T>(static_cast<R>(x))); }

  Vector RandomVector(Index size, double length = 1) {
    std::normal_distribution<double> normal;
    const double unit = length / std::sqrt(static_cast<double>(size));
    return Vector::NullaryExpr(size, [&] { return Round(unit * normal(random)); });
  }
  Matrix RandomState() {
    std::normal_distribution<double> normal;
    return Matrix::NullaryExpr(kK, kV, [&] { return Round(normal(random)); });
  }
  Token RandomToken(double key_length, double g, double eta) {
    return {RandomVector(kK), RandomVector(kK, key_length), RandomVector(kV), Round(g), Round(eta)};
  }

  // The arguments of an operation.
  struct Arrays {
    Arrays(const std::vector<Token>& tokens, const Matrix& initial)
        : count(static_cast<Index>(tokens.size())),
          q({1, count, 1, kK}),
          k({1, count, 1, kK}),
          v({1, count, 1, kV}),
          o({1, count, 1, kV}),
          g({1, count, 1}),
          eta({1, count, 1}),
          state({1, 1, kK, kV}) {
      const auto copy = [](const Vector& from, T* to) {
        for (const double x : from) *to++ = static_cast<T>(static_cast<R>(x));
      };
      for (Index t = 0; t < count; ++t) {
        const Token& token = tokens[static_cast<std::size_t>(t)];
        copy(token.q, q.view().Row(0, t, 0));
        copy(token.k, k.view().Row(0, t, 0));
        copy(token.v, v.view().Row(0, t, 0));
        g.view()(0, t, 0) = static_cast<R>(token.g);
        eta.view()(0, t, 0) = static_cast<R>(token.eta);
      }
      std::copy_n(initial.data(), kK * kV, state.view().data());
    }
    Matrix Finish(Matrix& final_state) const {
      std::copy_n(state.view().data(), kK * kV, final_state.data());
      Matrix output(count, kV);
      const std::vector<double> values = o.Values();
      std::copy(values.begin(), values.end(), output.data());
      return output;
    }

    Index count;
    Array<KeyView<T>> q, k;
    Array<ValueView<T>> v, o;
    Array<GateView<R>> g, eta;
    Array<StateView<R>> state;
  };

  // Applies the tokens to `state` and returns their outputs [T, V].
  template <class StepSize = Kla, class Shape = typename C::Shape>
  static Matrix Apply(Form form, const std::vector<Token>& tokens, Matrix& state,
                      const Constants& constants = {}) {
    Arrays a(tokens, state);
    if (form == Form::kRecurrent) {
      DecodeState<typename C::Backend, Shape, R> pool(1, 1);
      pool.Load(a.state.view());
      DecodeStep<typename C::Backend, Shape, StepSize>(
          DecodeStepArgs<T>{.q = a.q.view(),
                            .k = a.k.view(),
                            .v = a.v.view(),
                            .g = a.g.view(),
                            .eta = a.eta.view(),
                            .o = a.o.view(),
                            .scale = constants.scale,
                            .epsilon = constants.epsilon},
          pool);
      pool.Store(a.state.view());
    } else {
      ChunkForward<typename C::Backend, Shape, StepSize>(
          ChunkForwardArgs<T>{.q = a.q.view(),
                              .k = a.k.view(),
                              .v = a.v.view(),
                              .g = a.g.view(),
                              .eta = a.eta.view(),
                              .o = a.o.view(),
                              .initial_state = a.state.view(),
                              .final_state = a.state.view(),
                              .scale = constants.scale,
                              .epsilon = constants.epsilon});
    }
    return a.Finish(state);
  }

  // Rounding errors of the state after some tokens whose states and writes have at most this norm.
  static double Error(Index tokens, double norm) {
    return kRoundoff<R> * Growth(tokens, kK, kV) * norm;
  }
  // |v| / |k|, the norm of what a full projection writes; with epsilon, what v~ is.
  static double WrittenNorm(const Token& token, double epsilon) {
    return token.v.norm() / std::sqrt(token.k.squaredNorm() + epsilon);
  }
  static double Rho(const Token& token, double epsilon) {
    const double n = token.k.squaredNorm();
    return token.eta * n / (n + epsilon);
  }

  std::mt19937_64 random;
};

template <class C>
class LawsTest : public ::testing::Test {};
TYPED_TEST_SUITE_P(LawsTest);

// eta = 1, epsilon = 0: the state answers the key with exactly v ...
TYPED_TEST_P(LawsTest, AFullStepAnswersTheKeyWithTheValue) {
  using L = Laws<TypeParam>;
  L laws(1);
  for (const Form form : L::kForms) {
    for (const double length : {1e-12, 1e-3, 1.0, 1e3, 1e12}) {
      const Token token = laws.RandomToken(length, -0.3, 1.0);
      Matrix state = laws.RandomState() * 1e-3;
      state = state.unaryExpr(&L::Round);
      const double size = state.norm() + L::WrittenNorm(token, 0);
      L::Apply(form, {token}, state, {.epsilon = 0});
      const Vector answer = state.transpose() * token.k;
      EXPECT_LE((answer - token.v).norm(), token.k.norm() * L::Error(1, size)) << length;
    }
  }
}

// ... and no other such state is closer to the old one in Frobenius norm.
TYPED_TEST_P(LawsTest, AFullStepIsTheOrthogonalProjection) {
  using L = Laws<TypeParam>;
  L laws(2);
  for (const Form form : L::kForms) {
    const Token token = laws.RandomToken(1.7, -0.2, 1.0);
    Matrix state = laws.RandomState();
    const Matrix decayed = std::exp(token.g) * state;
    const double error = L::Error(1, state.norm() + L::WrittenNorm(token, 0));
    L::Apply(form, {token}, state, {.epsilon = 0});
    const Matrix moved = state - decayed;
    const double n = token.k.squaredNorm();
    const Vector residual = token.v - decayed.transpose() * token.k;
    EXPECT_NEAR(moved.norm(), residual.norm() / std::sqrt(n), error);
    for (int trial = 0; trial < 20; ++trial) {
      // Any other state that answers k with v differs by a Z with Z^T k = 0.
      Matrix z = laws.RandomState();
      z -= token.k * (z.transpose() * token.k).transpose() / n;
      const double distance = (moved + z).norm();
      EXPECT_GE(distance, moved.norm() - error);
      EXPECT_NEAR(distance * distance, moved.squaredNorm() + z.squaredNorm(), 4 * distance * error);
    }
  }
}

TYPED_TEST_P(LawsTest, TheResidualShrinksByOneMinusRho) {
  using L = Laws<TypeParam>;
  L laws(3);
  for (const Form form : L::kForms) {
    for (const double eta : {0.0, 0.25, 1.0, 1.5, 2.0}) {
      for (const double length : {1e-4, 1e-2, 1.0, 1e4}) {
        const Token token = laws.RandomToken(length, -0.5, eta);
        Matrix state = laws.RandomState();
        const Vector before = token.v - std::exp(token.g) * state.transpose() * token.k;
        const double error = L::Error(1, state.norm() + 2 * L::WrittenNorm(token, 1e-6));
        L::Apply(form, {token}, state);
        const Vector after = token.v - state.transpose() * token.k;
        EXPECT_LE((after - (1 - L::Rho(token, 1e-6)) * before).norm(), token.k.norm() * error)
            << "eta " << eta << ", |k| " << length;
      }
    }
  }
}

// With v = 0 and the identity as state the operation returns I - beta k k^T itself: symmetric, with
// the eigenvector k of eigenvalue 1 - rho and every vector orthogonal to k of eigenvalue 1.
TYPED_TEST_P(LawsTest, TheUpdateHasEigenvaluesOneMinusRhoAndOne) {
  using L = Laws<TypeParam>;
  static_assert(L::kV >= L::kK);
  L laws(4);
  for (const Form form : L::kForms) {
    for (const double eta : {0.1, 1.0, 1.9}) {
      for (const double length : {1e-3, 1.0, 1e6}) {
        Token token = laws.RandomToken(length, 0.0, eta);
        token.v.setZero();
        Matrix state = Matrix::Identity(L::kK, L::kV);
        L::Apply(form, {token}, state);
        const Matrix update = state.leftCols(L::kK);
        const double error = L::Error(1, 1 + eta);
        EXPECT_LE((update - update.transpose()).norm(), 2 * error);
        const Vector along = update * token.k - (1 - L::Rho(token, 1e-6)) * token.k;
        EXPECT_LE(along.norm(), 2 * error * token.k.norm());
        for (int trial = 0; trial < 10; ++trial) {
          Vector across = laws.RandomVector(L::kK);
          across -= token.k * (token.k.dot(across) / token.k.squaredNorm());
          EXPECT_LE((update * across - across).norm(), 2 * error * across.norm());
        }
      }
    }
  }
}

TYPED_TEST_P(LawsTest, TheUpdateIsNonExpansiveForRhoUpToTwoAndNoFurther) {
  using L = Laws<TypeParam>;
  L laws(5);
  for (const Form form : L::kForms) {
    for (const double eta : {0.0, 0.5, 1.0, 1.7, 2.0}) {
      for (int trial = 0; trial < 5; ++trial) {
        Token token = laws.RandomToken(1.0, 0.0, eta);
        token.v.setZero();
        Matrix state = laws.RandomState();
        const double before = state.norm();
        L::Apply(form, {token}, state);
        EXPECT_LE(state.norm(), before + L::Error(1, 3 * before)) << eta;
      }
    }
    Token token = laws.RandomToken(1.0, 0.0, 2.5);
    token.v.setZero();
    Matrix state = (token.k * Vector::Ones(L::kV).transpose()).unaryExpr(&L::Round);
    const double before = state.norm();
    L::Apply(form, {token}, state);
    EXPECT_NEAR(state.norm(), 1.5 * before, 1e-5 * before);  // |1 - rho|, epsilon aside
  }
}

// v = S*^T k for one and the same S*: |S - S*|^2 falls by rho (2 - rho) |r|^2 / n with every token.
TYPED_TEST_P(LawsTest, EveryStepApproachesAConsistentTarget) {
  using L = Laws<TypeParam>;
  L laws(6);
  for (const Form form : L::kForms) {
    const Matrix target = laws.RandomState();
    Matrix state = laws.RandomState();
    for (int t = 0; t < 40; ++t) {
      const double eta = 0.05 + 1.9 * t / 39.0;
      Token token = laws.RandomToken(std::exp(0.1 * (t % 20) - 1), 0.0, eta);
      token.v = (target.transpose() * token.k).unaryExpr(&L::Round);
      const Vector residual = token.v - state.transpose() * token.k;
      const double n = token.k.squaredNorm(), rho = L::Rho(token, 1e-6);
      const double before = (state - target).squaredNorm();
      // v is rounded to its type, which is not quite consistent any more.
      const double error =
          L::Error(1, state.norm() + target.norm()) + kRoundoff<typename L::T> * target.norm();
      L::Apply(form, {token}, state);
      const double after = (state - target).squaredNorm();
      EXPECT_NEAR(before - after, rho * (2 - rho) * residual.squaredNorm() / n,
                  4 * std::sqrt(before) * error)
          << t;
      EXPECT_LE(after, before + 4 * std::sqrt(before) * error);
    }
    EXPECT_LT((state - target).norm(), 0.9 * target.norm());  // it has moved at all
  }
}

// k -> c k: what is written is divided by c, what is erased stays.
TYPED_TEST_P(LawsTest, ScalingTheKeyScalesWhatIsWrittenAndNotWhatIsErased) {
  using L = Laws<TypeParam>;
  L laws(7);
  for (const Form form : L::kForms) {
    for (const double c : {-1.0, 0x1p-30, 0x1p30, 0x1p3}) {  // exact in every type
      const Constants constants{.epsilon = 0};
      Token token = laws.RandomToken(1.0, -0.1, 0.7);
      Token scaled = token;
      scaled.k *= c;
      Matrix written = Matrix::Zero(L::kK, L::kV), written_scaled = written;
      L::Apply(form, {token}, written, constants);
      L::Apply(form, {scaled}, written_scaled, constants);
      EXPECT_LE((c * written_scaled - written).norm(), L::Error(1, written.norm())) << c;
      token.v.setZero();
      scaled.v.setZero();
      Matrix erased = laws.RandomState(), erased_scaled = erased;
      L::Apply(form, {token}, erased, constants);
      L::Apply(form, {scaled}, erased_scaled, constants);
      EXPECT_LE((erased_scaled - erased).norm(), L::Error(1, erased.norm())) << c;
    }
  }
}

// |S| <= a |S_before| + eta |v| |k| / (n + epsilon), and that last term is at most
// eta |v| / (2 sqrt(epsilon)), reached at |k| = sqrt(epsilon).
TYPED_TEST_P(LawsTest, TheStateStaysWithinTheNormBound) {
  using L = Laws<TypeParam>;
  L laws(8);
  constexpr double kEpsilon = 1e-4;
  for (const Form form : L::kForms) {
    for (const double length : {0.0, 1e-20, 1e-6, 1e-3, 1e-2, 0.1, 1.0, 1e4, 1e15}) {
      for (const double eta : {0.3, 1.0}) {
        const Token token = laws.RandomToken(length, -0.7, eta);
        Matrix state = laws.RandomState();
        const double k = token.k.norm(), v = token.v.norm();
        const double write = eta * v * k / (k * k + kEpsilon);
        const double bound = std::exp(token.g) * state.norm() + write;
        const double error = L::Error(1, state.norm() + L::WrittenNorm(token, kEpsilon));
        L::Apply(form, {token}, state, {.epsilon = kEpsilon});
        EXPECT_LE(state.norm(), bound + error) << length;
        EXPECT_LE(write, eta * v / (2 * std::sqrt(kEpsilon)) * (1 + 1e-12));
      }
    }
    Token worst = laws.RandomToken(1.0, 0.0, 1.0);
    worst.k = (worst.k * (std::sqrt(kEpsilon) / worst.k.norm())).unaryExpr(&L::Round);
    Matrix state = Matrix::Zero(L::kK, L::kV);
    L::Apply(form, {worst}, state, {.epsilon = kEpsilon});
    EXPECT_NEAR(state.norm() / (worst.v.norm() / (2 * std::sqrt(kEpsilon))), 1.0,
                L::Error(1, 2.0) + 4 * kRoundoff<typename L::T>);
  }
}

// Tokens that a careless implementation gets wrong: keys and queries of length 0, tiny and huge,
// decay from none to all, eta = 0 and 1, values of 0.
template <class C>
std::vector<Token> NastyTokens(Index count, double largest_key, Laws<C>& laws) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double lengths[] = {0,          1e-30, 1e-18, 1e-8, 1e-3, 1, std::min(1e12, largest_key),
                            largest_key};
  const double gates[] = {0, 0, -0.1, -3, -80, -1e5, -kInfinity};
  const double etas[] = {0, 0.4, 1};
  const auto pick = [&](const auto& list) { return list[laws.random() % std::size(list)]; };
  std::vector<Token> tokens;
  for (Index t = 0; t < count; ++t) {
    tokens.push_back(laws.RandomToken(pick(lengths), pick(gates), pick(etas)));
    if (t % 11 == 5) tokens.back().v.setZero();
    if (t % 7 == 3) tokens.back().q.setZero();
    if (t % 7 == 4) tokens.back().q = laws.RandomVector(Laws<C>::kK, 1e20);
  }
  return tokens;
}

// The recurrence with raw keys. |k|^2 and beta are long double: their range holds every square.
struct ExactRun {
  using Real = long double;
  struct Policy {
    Real (*beta)(Real eta, Real norm2, Real epsilon);
    bool normalize_query, normalize_key;
  };

  ExactRun(const Policy& policy, const std::vector<Token>& tokens, const Matrix& initial)
      : state(initial), size(initial.norm()) {
    constexpr double kEpsilon = 1e-6;
    double log_decay = 0;
    for (const Token& token : tokens) {
      Eigen::Matrix<Real, Eigen::Dynamic, 1> k = token.k.cast<Real>();
      Real n = k.squaredNorm();
      if (policy.normalize_key) {
        k /= std::sqrt(n + Real{kEpsilon});
        n = k.squaredNorm();
      }
      const Real beta = policy.beta(Real{token.eta}, n, Real{kEpsilon});
      state *= std::exp(token.g);
      Vector residual = token.v;
      for (Index i = 0; i < state.rows(); ++i) {
        residual -= static_cast<double>(k[i]) * state.row(i).transpose();
      }
      for (Index i = 0; i < state.rows(); ++i) {
        state.row(i) += static_cast<double>(beta * k[i]) * residual.transpose();
      }
      Vector q = token.q;
      if (policy.normalize_query) q /= std::sqrt(q.squaredNorm() + kEpsilon);
      outputs.push_back(state.transpose().lazyProduct(q));
      query_norms.push_back(q.norm());
      size = std::max({size, state.norm(),
                       token.v.norm() / static_cast<double>(std::sqrt(n + Real{kEpsilon}))});
      log_decay += std::min(-token.g, 1000.0);
    }
    gate_error = 0x1p-53 * log_decay;
  }

  Matrix state;
  double size;        // of the largest state and of what is written at most
  double gate_error;  // of exp(G_i - G_j): one roundoff of double of the sums G
  std::vector<Vector> outputs;
  std::vector<double> query_norms;
};

template <class C, class StepSize>
void ExpectRightOnNastyInputs(double largest_key) {
  using L = Laws<C>;
  SCOPED_TRACE(std::string(StepSize::kName));
  L laws(9);
  const std::vector<Token> tokens = NastyTokens(150, largest_key, laws);
  const Matrix initial = laws.RandomState();
  const ExactRun exact(
      {&StepSize::template Beta<long double>, StepSize::kNormalizeQuery, StepSize::kNormalizeKey},
      tokens, initial);
  const double error = L::Error(150, exact.size) + exact.gate_error * exact.size;
  for (const Form form : L::kForms) {
    Matrix state = initial;
    const Matrix outputs = L::template Apply<StepSize>(form, tokens, state);
    ASSERT_TRUE(outputs.allFinite());
    ASSERT_TRUE(state.allFinite());
    EXPECT_LE((state - exact.state).norm(), error);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const Vector difference = outputs.row(static_cast<Index>(t)).transpose() - exact.outputs[t];
      ASSERT_LE(difference.norm(),
                exact.query_norms[t] * error + kRoundoff<typename L::T> * exact.outputs[t].norm())
          << "token " << t;
    }
  }
}

TYPED_TEST_P(LawsTest, NastyInputsGiveFiniteAndRightResults) {
  // |k|^2 = 1e60 is far outside float; 1e280 is as far as double goes.
  const double huge = std::is_same_v<typename TypeParam::T, double> ? 1e140 : 1e30;
  ExpectRightOnNastyInputs<TypeParam, Kla>(huge);
  ExpectRightOnNastyInputs<TypeParam, RelaxedKaczmarz>(huge);
  ExpectRightOnNastyInputs<TypeParam, Kaczmarz>(huge);
  ExpectRightOnNastyInputs<TypeParam, Gdn>(huge);
  ExpectRightOnNastyInputs<TypeParam, Longhorn>(huge);
  ExpectRightOnNastyInputs<TypeParam, PlainDelta>(1.0);  // expands by eta n beyond
}

// epsilon = 0 as well: a key of length 0 writes and erases nothing.
TYPED_TEST_P(LawsTest, AZeroKeyOnlyDecaysEvenWithoutEpsilon) {
  using L = Laws<TypeParam>;
  L laws(10);
  for (const Form form : L::kForms) {
    const Token token = laws.RandomToken(0.0, -0.5, 1.0);
    const Matrix initial = laws.RandomState();
    Matrix state = initial;
    const Matrix o = L::Apply(form, {token}, state, {.epsilon = 0});
    const Matrix expected = std::exp(token.g) * initial;
    EXPECT_LE((state - expected).norm(), L::Error(1, initial.norm()));
    EXPECT_TRUE(o.allFinite());
  }
}

// In one call, cut at any points and resumed from the state, chunked by 16, 32 or 64 or step by
// step: the same function.
TYPED_TEST_P(LawsTest, SplitAnywhereAndResumedIsTheSameFunction) {
  using L = Laws<TypeParam>;
  using C16 = Shape<L::kK, L::kV, 16>;
  using C32 = Shape<L::kK, L::kV, 32>;
  using C64 = Shape<L::kK, L::kV, 64>;
  L laws(11);
  constexpr Index kTokens = 150;
  std::vector<Token> tokens;
  for (Index t = 0; t < kTokens; ++t) {
    tokens.push_back(laws.RandomToken(std::exp(0.3 * static_cast<double>(t % 7) - 1),
                                      -0.01 * static_cast<double>(t % 5),
                                      0.2 + 0.15 * static_cast<double>(t % 6)));
  }
  const Matrix initial = laws.RandomState();
  Matrix state = initial;
  double size = initial.norm();
  for (const Token& token : tokens) size = std::max(size, 2 * L::WrittenNorm(token, 1e-6));
  const Matrix whole = L::Apply(Form::kRecurrent, tokens, state);
  size = std::max(size, state.norm());
  // Two computations, each off by Error.
  const double error = 2 * L::Error(kTokens, size);
  using Run = std::function<Matrix(const std::vector<Token>&, Matrix&)>;
  const auto expect_same = [&](const char* how, const std::vector<Index>& cuts, const Run& run) {
    SCOPED_TRACE(how + internal::ShapeString(cuts.data(), cuts.size()));
    Matrix resumed = initial, outputs(kTokens, L::kV);
    Index begin = 0;
    for (const Index end : cuts) {
      const std::vector<Token> piece(tokens.begin() + begin, tokens.begin() + end);
      outputs.middleRows(begin, end - begin) = run(piece, resumed);
      begin = end;
    }
    EXPECT_LE((resumed - state).norm(), error);
    for (Index t = 0; t < kTokens; ++t) {
      const Vector difference = outputs.row(t) - whole.row(t);
      EXPECT_LE(difference.norm(), error + 2 * kRoundoff<typename L::T> * whole.row(t).norm()) << t;
    }
  };
  std::vector<std::vector<Index>> all_cuts = {
      {kTokens}, {1, kTokens}, {64, 128, kTokens}, {0, 16, 16, 47, kTokens - 1, kTokens}};
  for (int trial = 0; trial < 4; ++trial) {
    std::vector<Index> cuts = {kTokens};
    for (int i = 0; i < 5; ++i) cuts.push_back(static_cast<Index>(laws.random() % (kTokens + 1)));
    std::sort(cuts.begin(), cuts.end());
    all_cuts.push_back(cuts);
  }
  std::vector<Index> each(kTokens);
  for (Index t = 0; t < kTokens; ++t) each[static_cast<std::size_t>(t)] = t + 1;
  all_cuts.push_back(each);
  for (const std::vector<Index>& cuts : all_cuts) {
    expect_same("recurrent ", cuts,
                [](const auto& piece, Matrix& s) { return L::Apply(Form::kRecurrent, piece, s); });
    expect_same("chunks of 16 ", cuts, [](const auto& piece, Matrix& s) {
      return L::template Apply<Kla, C16>(Form::kChunked, piece, s);
    });
    expect_same("chunks of 32 ", cuts, [](const auto& piece, Matrix& s) {
      return L::template Apply<Kla, C32>(Form::kChunked, piece, s);
    });
    expect_same("chunks of 64 ", cuts, [](const auto& piece, Matrix& s) {
      return L::template Apply<Kla, C64>(Form::kChunked, piece, s);
    });
  }
}

// The bridge to Gated DeltaNet: KLA(q, k, v, eta) = GatedDelta(q, r k, r v, beta = eta).
struct GatedDelta : PlainDelta {
  static constexpr std::string_view kName = "GatedDelta";
  static constexpr bool kNormalizeQuery = true;
};

TYPED_TEST_P(LawsTest, KlaIsTheGatedDeltaRuleOnScaledInputs) {
  using L = Laws<TypeParam>;
  L laws(12);
  std::vector<Token> tokens, scaled;
  double size = 1;
  for (int t = 0; t < 80; ++t) {
    const double length = t % 9 == 0 ? 0.0 : std::exp(0.5 * (t % 7) - 1.5);
    tokens.push_back(laws.RandomToken(length, -0.02 * (t % 4), 0.1 + 0.1 * (t % 10)));
    scaled.push_back(tokens.back());
    const double r = 1 / std::sqrt(tokens.back().k.squaredNorm() + 1e-6);
    scaled.back().k = (r * tokens.back().k).unaryExpr(&L::Round);
    scaled.back().v = (r * tokens.back().v).unaryExpr(&L::Round);
    size = std::max(size, L::WrittenNorm(tokens.back(), 1e-6));
  }
  for (const Form form : L::kForms) {
    Matrix state = laws.RandomState(), same = state;
    size = std::max(size, state.norm());
    const Matrix o = L::Apply(form, tokens, state);
    const Matrix o_same = L::template Apply<GatedDelta>(form, scaled, same);
    const double error = 2 * L::Error(80, size);
    EXPECT_LE((state - same).norm(), error);
    EXPECT_LE((o - o_same).rowwise().norm().maxCoeff(), error);
  }
}

REGISTER_TYPED_TEST_SUITE_P(
    LawsTest, AFullStepAnswersTheKeyWithTheValue, AFullStepIsTheOrthogonalProjection,
    TheResidualShrinksByOneMinusRho, TheUpdateHasEigenvaluesOneMinusRhoAndOne,
    TheUpdateIsNonExpansiveForRhoUpToTwoAndNoFurther, EveryStepApproachesAConsistentTarget,
    ScalingTheKeyScalesWhatIsWrittenAndNotWhatIsErased, TheStateStaysWithinTheNormBound,
    NastyInputsGiveFiniteAndRightResults, AZeroKeyOnlyDecaysEvenWithoutEpsilon,
    SplitAnywhereAndResumedIsTheSameFunction, KlaIsTheGatedDeltaRuleOnScaledInputs);

template <class B>
using LawConfigs = ::testing::Types<Config<B, float, 24, 40>, Config<B, double, 16, 16>>;

}  // namespace kla::test

#endif  // KLA_TESTS_OP_LAWS_SUITE_H_
