// SPDX-License-Identifier: Apache-2.0
// build: one program with kernels for AVX2 and AVX-512; each runs where the processor has it, and
// agrees with the reference backend.
#include <kla/backend/reference/reference.h>
#include <kla/op/chunk_backward.h>
#include <kla/op/chunk_forward.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "two_isa.h"

namespace {

constexpr std::size_t kKeys = kTokens * kHeads * kKey;
constexpr std::size_t kValues = kTokens * kHeads * kValue;
constexpr std::size_t kGates = kTokens * kHeads;

struct Outputs {
  std::vector<float> o = std::vector<float>(kValues), o_decode = o, dv = o;
  std::vector<float> dq = std::vector<float>(kKeys), dk = dq;
  std::vector<float> dg = std::vector<float>(kGates), deta = dg;
};

// Each element is a sum of at most T (K + V) products, summed in another order: the worst case is
// that many roundings of the largest element; random signs leave about its square root; twice that.
bool Agree(const char* name, const std::vector<float>& given, const std::vector<double>& expected) {
  double largest = 0, error = 0;
  for (std::size_t i = 0; i < given.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    error = std::max(error, std::abs(given[i] - expected[i]));
  }
  const double bound = 2 * std::sqrt(kTokens * (kKey + kValue)) * 0x1p-24 * largest;
  const bool agree = error <= bound && largest > 0;
  std::printf("  %-8s error %.1e, bound %.1e%s\n", name, error, bound, agree ? "" : "  FAILED");
  return agree;
}

std::vector<double> Widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

}  // namespace

int main() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.05f, 0.95f);
  std::vector<float> q(kKeys), k(kKeys), v(kValues), d_o(kValues), g(kGates), eta(kGates);
  for (auto* x : {&q, &k, &v, &d_o}) {
    for (float& y : *x) y = normal(random);
  }
  for (float& y : g) y = -0.2f * uniform(random);
  for (float& y : eta) y = uniform(random);

  // The oracle, in double.
  const auto wide_q = Widen(q), wide_k = Widen(k), wide_v = Widen(v), wide_d_o = Widen(d_o),
             wide_g = Widen(g), wide_eta = Widen(eta);
  std::vector<double> o(kValues), dq(kKeys), dk(kKeys), dv(kValues), dg(kGates), deta(kGates);
  using Head = kla::Shape<kKey, kValue>;
  using Keys = kla::KeyView<const double>;
  using Values = kla::ValueView<const double>;
  using Gates = kla::GateView<const double>;
  const Keys key_q(wide_q.data(), {1, kTokens, kHeads, kKey});
  const Keys key_k(wide_k.data(), {1, kTokens, kHeads, kKey});
  const Values value_v(wide_v.data(), {1, kTokens, kHeads, kValue});
  const Values value_d_o(wide_d_o.data(), {1, kTokens, kHeads, kValue});
  const Gates gate_g(wide_g.data(), {1, kTokens, kHeads});
  const Gates gate_eta(wide_eta.data(), {1, kTokens, kHeads});
  kla::ChunkForward<kla::Reference, Head, kla::Kla, double>(
      {.q = key_q,
       .k = key_k,
       .v = value_v,
       .g = gate_g,
       .eta = gate_eta,
       .o = {o.data(), {1, kTokens, kHeads, kValue}}});
  kla::ChunkBackward<kla::Reference, Head, kla::Kla, double>(
      {.q = key_q,
       .k = key_k,
       .v = value_v,
       .g = gate_g,
       .eta = gate_eta,
       .d_o = value_d_o,
       .dq = {dq.data(), {1, kTokens, kHeads, kKey}},
       .dk = {dk.data(), {1, kTokens, kHeads, kKey}},
       .dv = {dv.data(), {1, kTokens, kHeads, kValue}},
       .dg = {dg.data(), {1, kTokens, kHeads}},
       .deta = {deta.data(), {1, kTokens, kHeads}}});

  bool agree = true;
  std::vector<std::string> names;
  const auto run = [&](const char* (*entry)(const TwoIsaCase&), const char* flag) {
    Outputs x;
    const std::string name = entry({q.data(), k.data(), v.data(), g.data(), eta.data(), d_o.data(),
                                    x.o.data(), x.dq.data(), x.dk.data(), x.dv.data(), x.dg.data(),
                                    x.deta.data(), x.o_decode.data()});
    std::printf("%s: %s\n", flag, name.c_str());
    names.push_back(name);
    agree = Agree("o", x.o, o) && agree;
    agree = Agree("o_decode", x.o_decode, o) && agree;
    agree = Agree("dq", x.dq, dq) && agree;
    agree = Agree("dk", x.dk, dk) && agree;
    agree = Agree("dv", x.dv, dv) && agree;
    agree = Agree("dg", x.dg, dg) && agree;
    agree = Agree("deta", x.deta, deta) && agree;
  };
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run(Run_avx2, "AVX2");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    run(Run_avx512, "AVX-512");
  }
  if (names.size() == 2 && names[0] == names[1]) {
    std::printf("FAILED: both objects were compiled for %s\n", names[0].c_str());
    agree = false;
  }
  if (names.empty()) std::printf("this processor has neither AVX2 nor AVX-512\n");
  return agree ? 0 : 1;
}
