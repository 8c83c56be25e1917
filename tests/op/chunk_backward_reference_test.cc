// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <random>

#include "op/chunk_backward_suite.h"

namespace kla::test {

INSTANTIATE_TYPED_TEST_SUITE_P(Reference, ChunkBackwardTest, ReferenceConfigs, ConfigName);

// Central differences of the loss <o, d_o> + <S_T, d_S_T>, evaluated by the double oracle.
template <class StepSize>
void ExpectGradientsMatchDifferences(double key_scale, std::uint64_t seed) {
  using C = Config<Reference, double, 6, 5, 16>;
  const Case c{.name = "differences",
               .tokens = 39,
               .key_heads = 2,
               .value_heads = 4,
               .cu_seqlens = {0, 20, 39},
               .inputs = Inputs::kOrdinary,
               .key_scale = key_scale};
  Tensors<double> x(c, C::kKeyDim, C::kValueDim, seed);
  const auto gradient = RunBackward<C, StepSize>(c, x);
  const auto loss = [&] {
    const OracleResult result = RunOracle<StepSize>(c, x);
    double sum = 0;
    const auto add = [&](const std::vector<double>& a, const std::vector<double>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    };
    add(result.o.Values(), x.d_o.Values());
    add(result.final_state.Values(), x.d_final_state.Values());
    return sum;
  };
  const auto check = [&](const char* what, auto& array, const std::vector<double>& actual) {
    std::size_t at = 0;
    array.ForEach([&](double& element) {
      if (at % 7 == seed % 7) {
        const double kept = element, h = 1e-5 * std::max(1.0, std::abs(kept));
        element = kept + h;
        const double above = loss();
        element = kept - h;
        const double below = loss();
        element = kept;
        const double expected = (above - below) / (2 * h);
        EXPECT_NEAR(actual[at], expected, 3e-8 * (1 + std::abs(expected))) << what << " " << at;
      }
      ++at;
    });
  };
  check("dq", x.q, gradient.dq.Values());
  check("dk", x.k, gradient.dk.Values());
  check("dv", x.v, gradient.dv.Values());
  check("dg", x.g, gradient.dg.Values());
  check("deta", x.eta, gradient.deta.Values());
  check("d_initial_state", x.initial_state, gradient.d_initial_state.Values());
}

TEST(ReferenceGradientTest, MatchesCentralDifferences) {
  ExpectGradientsMatchDifferences<Kla>(1.0, 1);
  ExpectGradientsMatchDifferences<RelaxedKaczmarz>(1.0, 2);
  ExpectGradientsMatchDifferences<Kaczmarz>(1.0, 3);
  ExpectGradientsMatchDifferences<Gdn>(1.0, 4);
  ExpectGradientsMatchDifferences<Longhorn>(0.3, 5);
  ExpectGradientsMatchDifferences<PlainDelta>(0.2, 6);
}

}  // namespace kla::test
