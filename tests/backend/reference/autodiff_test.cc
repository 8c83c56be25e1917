// SPDX-License-Identifier: Apache-2.0
// tests/backend: the gradients of ChunkBackward against forward-mode differentiation, by Eigen's
// AutoDiffScalar as element type: of the one-token recurrence with raw keys, as the paper has it,
// and of the Reference backend's own ChunkForward. No step width, so no difference quotient's
// error.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/AutoDiff>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kla/kla.h"
#include "kla/math/recurrence.h"
#include "support/step_sizes.h"

namespace kla::test {
namespace {

using Dual = Eigen::AutoDiffScalar<Eigen::VectorXd>;

// Three sequences packed in one row, one of them empty, over a chunk boundary; two key heads, four
// value heads. Every number that enters is an independent variable.
constexpr Index kTokens = 21, kHeads = 2, kValueHeads = 4, kK = 3, kV = 2;
const std::vector<std::int32_t> kOffsets = {0, 18, 18, kTokens};
constexpr Index kSequences = 3;
constexpr double kEpsilon = 1e-3, kScale = 0.6;

// The variables of the problem, one array after the other, and the weights of the loss
//   L = sum w_o o + sum w_S S_final
struct Variables {
  static constexpr Index kKeys = kTokens * kHeads * kK, kValues = kTokens * kValueHeads * kV,
                         kGates = kTokens * kValueHeads,
                         kStates = kSequences * kValueHeads * kK * kV;
  static constexpr Index kCount = 2 * kKeys + kValues + 2 * kGates + kStates;

  explicit Variables(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const auto fill = [&](std::vector<double>& x, Index count, const auto& make) {
      x.resize(static_cast<std::size_t>(count));
      for (double& e : x) e = make();
    };
    fill(q, kKeys, [&] { return normal(random); });
    fill(k, kKeys, [&] { return 0.6 * normal(random); });
    fill(v, kValues, [&] { return normal(random); });
    fill(g, kGates, [&] { return -0.5 * uniform(random) * uniform(random); });
    fill(eta, kGates, [&] { return 0.1 + 0.8 * uniform(random); });
    fill(state, kStates, [&] { return normal(random); });
    fill(weight_o, kValues, [&] { return normal(random); });
    fill(weight_state, kStates, [&] { return normal(random); });
    std::fill_n(k.begin() + 4 * kHeads * kK, kK, 0.0);  // a key of length 0
    g[5] = -18;                                         // and a gate that is nearly shut
  }
  std::vector<double> q, k, v, g, eta, state, weight_o, weight_state;
};

// An array of Duals seeded with its place in the gradient.
std::vector<Dual> Seed(const std::vector<double>& values, Index& next) {
  std::vector<Dual> out;
  for (const double value : values) {
    out.emplace_back(value, Eigen::VectorXd::Unit(Variables::kCount, next++));
  }
  return out;
}

struct DualVariables {
  explicit DualVariables(const Variables& x) {
    Index next = 0;
    q = Seed(x.q, next);
    k = Seed(x.k, next);
    v = Seed(x.v, next);
    g = Seed(x.g, next);
    eta = Seed(x.eta, next);
    state = Seed(x.state, next);
  }
  std::vector<Dual> q, k, v, g, eta, state;
};

// The gradient of sum w x.
void Accumulate(const std::vector<double>& weights, const std::vector<Dual>& x,
                Eigen::VectorXd& gradient) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i].derivatives().size() > 0) gradient += weights[i] * x[i].derivatives();
  }
}

template <class T>
struct Views {
  static KeyView<const T> Keys(const std::vector<T>& x) {
    return {x.data(), {1, kTokens, kHeads, kK}};
  }
  static ValueView<const T> Values(const std::vector<T>& x) {
    return {x.data(), {1, kTokens, kValueHeads, kV}};
  }
  static GateView<const T> Gates(const std::vector<T>& x) {
    return {x.data(), {1, kTokens, kValueHeads}};
  }
  static StateView<const T> States(const std::vector<T>& x) {
    return {x.data(), {kSequences, kValueHeads, kK, kV}};
  }
};

// S <- a S + beta k (v - a S^T k)^T in the variables as they are, token by token.
template <class StepSize>
Eigen::VectorXd GradientOfRecurrence(const Variables& x, HeadGrouping grouping) {
  DualVariables d(x);
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(Variables::kCount);
  std::vector<Dual> outputs(x.weight_o.size());
  const auto normalized = [](const Dual* row, bool normalize) {
    std::vector<Dual> out(row, row + kK);
    Dual norm2(0);
    for (const Dual& e : out) norm2 += e * e;
    if (normalize) {
      for (Dual& e : out) e = Dual(e / Dual(sqrt(Dual(norm2 + kEpsilon))));
    }
    return out;
  };
  for (Index n = 0; n < kSequences; ++n) {
    for (Index hv = 0; hv < kValueHeads; ++hv) {
      const Index h = grouping == HeadGrouping::kTiled ? hv % kHeads : hv / (kValueHeads / kHeads);
      const internal::StateMatrix<Dual> state{d.state.data() + (n * kValueHeads + hv) * kK * kV, kK,
                                              kV, kV, 1};
      for (Index t = kOffsets[static_cast<std::size_t>(n)];
           t < kOffsets[static_cast<std::size_t>(n) + 1]; ++t) {
        const auto q = normalized(&d.q[static_cast<std::size_t>((t * kHeads + h) * kK)],
                                  StepSize::kNormalizeQuery);
        const auto k = normalized(&d.k[static_cast<std::size_t>((t * kHeads + h) * kK)],
                                  StepSize::kNormalizeKey);
        Dual norm2(0);
        for (const Dual& e : k) norm2 += e * e;
        const auto gate = static_cast<std::size_t>(t * kValueHeads + hv);
        const Dual beta = StepSize::Beta(d.eta[gate], norm2, Dual(kEpsilon));
        internal::RecurrenceStep(state, q.data(), k.data(), &d.v[gate * kV], d.g[gate], beta,
                                 Dual(kScale), &outputs[gate * kV]);
      }
    }
  }
  Accumulate(x.weight_o, outputs, gradient);
  Accumulate(x.weight_state, d.state, gradient);
  return gradient;
}

using Head = Shape<kK, kV, 16>;

template <class StepSize>
Eigen::VectorXd GradientOfChunkForward(const Variables& x, HeadGrouping grouping) {
  using V = Views<Dual>;
  DualVariables d(x);
  std::vector<Dual> outputs(x.weight_o.size()), final_state(x.weight_state.size());
  ChunkForward<Reference, Head, StepSize>(ChunkForwardArgs<Dual>{
      .q = V::Keys(d.q),
      .k = V::Keys(d.k),
      .v = V::Values(d.v),
      .g = V::Gates(d.g),
      .eta = V::Gates(d.eta),
      .o = ValueView<Dual>(outputs.data(), {1, kTokens, kValueHeads, kV}),
      .initial_state = V::States(d.state),
      .final_state = StateView<Dual>(final_state.data(), {kSequences, kValueHeads, kK, kV}),
      .cu_seqlens = kOffsets,
      .scale = kScale,
      .epsilon = kEpsilon,
      .grouping = grouping});
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(Variables::kCount);
  Accumulate(x.weight_o, outputs, gradient);
  Accumulate(x.weight_state, final_state, gradient);
  return gradient;
}

template <class StepSize>
Eigen::VectorXd GradientOfChunkBackward(const Variables& x, HeadGrouping grouping) {
  using V = Views<double>;
  Eigen::VectorXd gradient = Eigen::VectorXd::Constant(Variables::kCount, NAN);
  double* next = gradient.data();
  const auto take = [&](Index count) { return std::exchange(next, next + count); };
  double* dq = take(Variables::kKeys);
  double* dk = take(Variables::kKeys);
  double* dv = take(Variables::kValues);
  double* dg = take(Variables::kGates);
  double* deta = take(Variables::kGates);
  double* d_state = take(Variables::kStates);
  ChunkBackward<Reference, Head, StepSize>(ChunkBackwardArgs<double>{
      .q = V::Keys(x.q),
      .k = V::Keys(x.k),
      .v = V::Values(x.v),
      .g = V::Gates(x.g),
      .eta = V::Gates(x.eta),
      .d_o = V::Values(x.weight_o),
      .dq = KeyView<double>(dq, {1, kTokens, kHeads, kK}),
      .dk = KeyView<double>(dk, {1, kTokens, kHeads, kK}),
      .dv = ValueView<double>(dv, {1, kTokens, kValueHeads, kV}),
      .dg = GateView<double>(dg, {1, kTokens, kValueHeads}),
      .deta = GateView<double>(deta, {1, kTokens, kValueHeads}),
      .initial_state = V::States(x.state),
      .d_final_state = V::States(x.weight_state),
      .d_initial_state = StateView<double>(d_state, {kSequences, kValueHeads, kK, kV}),
      .cu_seqlens = kOffsets,
      .scale = kScale,
      .epsilon = kEpsilon,
      .grouping = grouping});
  return gradient;
}

template <class S>
class ReferenceAutodiffTest : public testing::Test {
 protected:
  // Both sides sum the same products in different order: at most as many roundoffs of an array's
  // largest entry as a gradient has terms, kTokens (kK + kV) for each of kTokens later tokens.
  static void ExpectSame(const Eigen::VectorXd& actual, const Eigen::VectorXd& expected) {
    ASSERT_TRUE(expected.allFinite());
    ASSERT_TRUE(actual.allFinite());
    const struct {
      const char* name;
      Index count;
    } arrays[] = {{"dq", Variables::kKeys},    {"dk", Variables::kKeys},
                  {"dv", Variables::kValues},  {"dg", Variables::kGates},
                  {"deta", Variables::kGates}, {"d_initial_state", Variables::kStates}};
    Index begin = 0;
    for (const auto& [name, count] : arrays) {
      const auto want = expected.segment(begin, count), got = actual.segment(begin, count);
      const double largest = want.cwiseAbs().maxCoeff();
      // Kaczmarz does not look at eta; everything else must matter.
      const bool unused = std::is_same_v<S, Kaczmarz> && std::string(name) == "deta";
      EXPECT_EQ(largest > 0, !unused) << name;
      Index at = 0;
      const double worst = (got - want).cwiseAbs().maxCoeff(&at);
      EXPECT_LE(worst, kTokens * kTokens * (kK + kV) * 0x1p-53 * largest)
          << name << " at " << at << ": " << got[at] << ", expected " << want[at];
      begin += count;
    }
  }
};

TYPED_TEST_SUITE(ReferenceAutodiffTest, StepSizes, StepSizeName);

TYPED_TEST(ReferenceAutodiffTest, BackwardIsTheGradientOfTheRecurrence) {
  for (const HeadGrouping grouping : {HeadGrouping::kInterleaved, HeadGrouping::kTiled}) {
    const Variables x(1);
    this->ExpectSame(GradientOfChunkBackward<TypeParam>(x, grouping),
                     GradientOfRecurrence<TypeParam>(x, grouping));
  }
}

TYPED_TEST(ReferenceAutodiffTest, BackwardIsTheGradientOfChunkForward) {
  for (const HeadGrouping grouping : {HeadGrouping::kInterleaved, HeadGrouping::kTiled}) {
    const Variables x(2);
    this->ExpectSame(GradientOfChunkBackward<TypeParam>(x, grouping),
                     GradientOfChunkForward<TypeParam>(x, grouping));
  }
}

// A pool of Duals: DecodeStep is differentiable as well, in any split of the tokens over calls.
TYPED_TEST(ReferenceAutodiffTest, DecodeStepHasTheSameGradient) {
  using V = Views<Dual>;
  const Variables x(3);
  DualVariables d(x);
  std::vector<Dual> outputs(x.weight_o.size()), final_state(x.weight_state.size());
  DecodeState<Reference, Head, Dual> pool(kSequences, kValueHeads);
  pool.Load(V::States(d.state));
  DecodeStep<Reference, Head, TypeParam>(
      DecodeStepArgs<Dual>{.q = V::Keys(d.q),
                           .k = V::Keys(d.k),
                           .v = V::Values(d.v),
                           .g = V::Gates(d.g),
                           .eta = V::Gates(d.eta),
                           .o = ValueView<Dual>(outputs.data(), {1, kTokens, kValueHeads, kV}),
                           .cu_seqlens = kOffsets,
                           .scale = kScale,
                           .epsilon = kEpsilon},
      pool);
  pool.Store(StateView<Dual>(final_state.data(), {kSequences, kValueHeads, kK, kV}));
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(Variables::kCount);
  Accumulate(x.weight_o, outputs, gradient);
  Accumulate(x.weight_state, final_state, gradient);
  this->ExpectSame(GradientOfChunkBackward<TypeParam>(x, HeadGrouping::kInterleaved), gradient);
}

}  // namespace
}  // namespace kla::test
