// SPDX-License-Identifier: Apache-2.0
// Kernels kept out of every source but one, with `extern template` (09_extern_template/kernels.h).
// A library of templates is compiled where it is used, by each source anew; so declared, this file
// takes 3.0 processor seconds instead of 7.1 (GCC 12, -O2, AVX2), and kernels.cc, compiled
// once, takes 6.3. kla::KlaLayer goes the same way: `extern template class`.
// Exit status 0 if the kernels of the other object compute the same in chunks and step by step.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "09_extern_template/kernels.h"

constexpr kla::Index kTokens = 100, kKeyDim = 96, kValueDim = 192;

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(kTokens * kKeyDim), k(q.size()), v(kTokens * kValueDim);
  for (auto* x : {&q, &k, &v}) {
    for (float& y : *x) y = normal(random);
  }
  const std::vector<float> g(kTokens, -0.05f), eta(kTokens, 0.5f);

  std::vector<float> chunked(v.size()), steps(v.size());
  kla::ChunkForward<kla::Simd, Head>(
      kla::ChunkForwardArgs<float>{.q = {q.data(), {1, kTokens, 1, kKeyDim}},
                                   .k = {k.data(), {1, kTokens, 1, kKeyDim}},
                                   .v = {v.data(), {1, kTokens, 1, kValueDim}},
                                   .g = {g.data(), {1, kTokens, 1}},
                                   .eta = {eta.data(), {1, kTokens, 1}},
                                   .o = {chunked.data(), {1, kTokens, 1, kValueDim}}});
  kla::DecodeState<kla::Simd, Head> state(/*slots=*/1, /*value_heads=*/1);
  for (kla::Index t = 0; t < kTokens; ++t) {
    kla::DecodeStep<kla::Simd, Head>(
        kla::DecodeStepArgs<float>{.q = {q.data() + t * kKeyDim, {1, 1, 1, kKeyDim}},
                                   .k = {k.data() + t * kKeyDim, {1, 1, 1, kKeyDim}},
                                   .v = {v.data() + t * kValueDim, {1, 1, 1, kValueDim}},
                                   .g = {g.data() + t, {1, 1, 1}},
                                   .eta = {eta.data() + t, {1, 1, 1}},
                                   .o = {steps.data() + t * kValueDim, {1, 1, 1, kValueDim}}},
        state);
  }

  double difference = 0, size = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    difference += std::pow(static_cast<double>(chunked[i]) - static_cast<double>(steps[i]), 2);
    size += std::pow(static_cast<double>(steps[i]), 2);
  }
  const double relative = std::sqrt(difference / size);
  const double allowed = 32 * 0x1p-24;  // as in 02_chunked_equals_recurrent.cc
  std::printf("relative difference of chunks and steps: %.1e, allowed %.1e\n", relative, allowed);
  return relative <= allowed && size > 0 ? 0 : 1;
}
