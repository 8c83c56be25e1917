// SPDX-License-Identifier: Apache-2.0
// One program for many processors: the kernels compiled for AVX2 and for AVX-512
// (10_instruction_sets/forward.cc, twice, see CMakeLists.txt), and a switch that asks the
// processor. This file is compiled without -march, so that it runs everywhere, and includes no Simd
// kernel; where the processor has neither set, kla::Reference computes. Exit status 0 if every set
// that this processor has agrees with the reference.
#include <kla/backend/reference/reference.h>
#include <kla/op/chunk_forward.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "10_instruction_sets/forward.h"

const char* ForwardAnywhere(const Sequence& in, float* o) {
  kla::ChunkForward<kla::Reference, kla::Shape<kDim, kDim>>(
      kla::ChunkForwardArgs<float>{.q = {in.q, {1, kTokens, 1, kDim}},
                                   .k = {in.k, {1, kTokens, 1, kDim}},
                                   .v = {in.v, {1, kTokens, 1, kDim}},
                                   .g = {in.g, {1, kTokens, 1}},
                                   .eta = {in.eta, {1, kTokens, 1}},
                                   .o = {o, {1, kTokens, 1, kDim}}});
  return "Reference";
}

using Forward = const char* (*)(const Sequence&, float*);

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool HasAvx512() {  // what -march=x86-64-v4 takes for granted
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// The switch: once, at the start of a program.
Forward BestForward() {
  if (HasAvx512()) return ForwardForAvx512;
  if (HasAvx2()) return ForwardForAvx2;
  return ForwardAnywhere;
}

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(kTokens * kDim), k(q.size()), v(q.size()), o(q.size()), wanted(q.size());
  for (auto* x : {&q, &k, &v}) {
    for (float& y : *x) y = normal(random);
  }
  const std::vector<float> g(kTokens, -0.05f), eta(kTokens, 0.5f);
  const Sequence in{q.data(), k.data(), v.data(), g.data(), eta.data()};
  ForwardAnywhere(in, wanted.data());

  std::vector<Forward> usable = {BestForward()};
  if (HasAvx512()) usable.push_back(ForwardForAvx2);
  bool right = true;
  for (const Forward forward : usable) {
    std::fill(o.begin(), o.end(), NAN);
    const char* name = forward(in, o.data());
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < o.size(); ++i) {
      difference += std::pow(static_cast<double>(o[i]) - static_cast<double>(wanted[i]), 2);
      size += std::pow(static_cast<double>(wanted[i]), 2);
    }
    const double relative = std::sqrt(difference / size);
    const bool agrees = relative <= 32 * 0x1p-24;  // false for NaN
    std::printf("%-9s differs from the reference by %.1e%s\n", name, relative,
                agrees ? "" : "  TOO MUCH");
    right &= agrees;
  }
  return right ? 0 : 1;
}
