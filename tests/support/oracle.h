// SPDX-License-Identifier: Apache-2.0
// tests/support: the recurrence of the paper in double, token by token, with the raw step size:
// shares no scaling with the backends, which compute in unit-key form.
#ifndef KLA_TESTS_SUPPORT_ORACLE_H_
#define KLA_TESTS_SUPPORT_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "kla/math/recurrence.h"
#include "support/cases.h"

namespace kla::test {

struct OracleResult {
  Array<ValueView<double>> o;            // [B, T, HV, V]
  Array<StateView<double>> final_state;  // [N, HV, K, V]
  double max_state_norm = 0;             // Frobenius, over all tokens and heads
  double max_query_norm = 0;             // after normalisation
};

inline double Norm(const double* x, Index count) {
  double sum = 0;
  for (Index i = 0; i < count; ++i) sum += x[i] * x[i];
  return std::sqrt(sum);
}

// Epsilon as in the operations.
template <class StepSize>
OracleResult RunOracle(const Case& c, const Tensors<double>& given, double epsilon = 1e-6) {
  const auto &q = given.q, &k = given.k;
  const auto& v = given.v;
  const auto &g = given.g, &eta = given.eta;
  OracleResult result;
  result.o = Array<ValueView<double>>(v.extents());
  result.final_state = ToDouble<StateView>(given.initial_state);
  const Index key_dim = q.extents()[3], value_dim = v.extents()[3];
  const double scale = c.scale.value_or(1.0 / std::sqrt(static_cast<double>(key_dim)));
  const Problem problem{.batch = c.batch,
                        .tokens = c.tokens,
                        .key_heads = c.key_heads,
                        .value_heads = c.value_heads,
                        .key_dim = key_dim,
                        .value_dim = value_dim,
                        .sequences = c.sequences(),
                        .scale = scale,
                        .epsilon = epsilon,
                        .grouping = c.grouping};
  if (!c.initial_state) result.final_state.Fill([] { return 0.0; });
  for (Index n = 0; n < c.sequences(); ++n) {
    const SequenceSpan span = SequenceAt(c.offsets(), c.tokens, n);
    for (Index hv = 0; hv < c.value_heads; ++hv) {
      const Index h = problem.KeyHeadOf(hv);
      double* data = result.final_state.view().Row(n, hv, Index{0});
      const internal::StateMatrix<double> state{data, key_dim, value_dim, value_dim, 1};
      result.max_state_norm = std::max(result.max_state_norm, Norm(data, key_dim * value_dim));
      for (Index t = span.begin; t < span.begin + span.length; ++t) {
        std::vector<double> q_row(q.view().Row(span.batch, t, h),
                                  q.view().Row(span.batch, t, h) + key_dim);
        std::vector<double> k_row(k.view().Row(span.batch, t, h),
                                  k.view().Row(span.batch, t, h) + key_dim);
        const auto normalize = [&](std::vector<double>& x) {
          const double norm = Norm(x.data(), key_dim);
          for (double& e : x) e /= std::sqrt(norm * norm + epsilon);
        };
        if (StepSize::kNormalizeQuery) normalize(q_row);
        if (StepSize::kNormalizeKey) normalize(k_row);
        const double norm = Norm(k_row.data(), key_dim);
        const double beta = StepSize::Beta(eta.view()(span.batch, t, hv), norm * norm, epsilon);
        internal::RecurrenceStep(state, q_row.data(), k_row.data(), v.view().Row(span.batch, t, hv),
                                 g.view()(span.batch, t, hv), beta, scale,
                                 result.o.view().Row(span.batch, t, hv));
        result.max_state_norm = std::max(result.max_state_norm, Norm(data, key_dim * value_dim));
        result.max_query_norm = std::max(result.max_query_norm, Norm(q_row.data(), key_dim));
      }
    }
  }
  return result;
}

// Compiled once, in exact.cc.
extern template OracleResult RunOracle<Kla>(const Case&, const Tensors<double>&, double);
extern template OracleResult RunOracle<RelaxedKaczmarz>(const Case&, const Tensors<double>&,
                                                        double);
extern template OracleResult RunOracle<Kaczmarz>(const Case&, const Tensors<double>&, double);
extern template OracleResult RunOracle<Gdn>(const Case&, const Tensors<double>&, double);
extern template OracleResult RunOracle<Longhorn>(const Case&, const Tensors<double>&, double);
extern template OracleResult RunOracle<PlainDelta>(const Case&, const Tensors<double>&, double);

// q, k, v, g, eta and the initial state of `given`, converted to double.
template <class StepSize, class T, class State>
requires(!std::is_same_v<T, double> || !std::is_same_v<State, double>) OracleResult
    RunOracle(const Case& c, const Tensors<T, State>& given, double epsilon = 1e-6) {
  Tensors<double> exact;
  exact.q = ToDouble<KeyView>(given.q);
  exact.k = ToDouble<KeyView>(given.k);
  exact.v = ToDouble<ValueView>(given.v);
  exact.g = ToDouble<GateView>(given.g);
  exact.eta = ToDouble<GateView>(given.eta);
  exact.initial_state = ToDouble<StateView>(given.initial_state);
  return RunOracle<StepSize>(c, exact, epsilon);
}

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_ORACLE_H_
