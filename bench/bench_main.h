// SPDX-License-Identifier: Apache-2.0
// bench: what every benchmark program shares: its header lines, counters and inputs.
//
// Compare figures of one run only, with their ceilings interleaved:
//   bench_decode_step --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
//                     --benchmark_min_time=0.1 --benchmark_report_aggregates_only=true
//                     --benchmark_out=decode.json
#ifndef KLA_BENCH_BENCH_MAIN_H_
#define KLA_BENCH_BENCH_MAIN_H_

#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "kla/kla.h"

namespace kla::bench {

// Printed above the results and written to the JSON: a slow build cannot go unnoticed.
inline const bool kContextIsSet = [] {
  benchmark::AddCustomContext("kla_backend", BackendName());
#if defined(__clang__)
  benchmark::AddCustomContext("compiler", "clang " __clang_version__);
#elif defined(__GNUC__)
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
#endif
#if !defined(NDEBUG)
  benchmark::AddCustomContext("warning", "built with assertions: figures mean nothing");
#endif
  return true;
}();

// Aligned as DecodeState's memory is.
template <class T>
using AlignedVector = std::vector<T, internal::CacheAlignedAllocator<T>>;

// The work of one iteration. Counters per second and, for each head and token, nanoseconds.
inline void SetCounters(benchmark::State& state, double heads_times_tokens, double flops,
                        double bytes) {
  using benchmark::Counter;
  constexpr auto kRate = Counter::kIsIterationInvariantRate;
  if (heads_times_tokens > 0) {
    state.counters["ns_per_head_token"] =
        Counter(heads_times_tokens * 1e-9, kRate | Counter::kInvert);
  }
  if (flops > 0) state.counters["FLOP/s"] = Counter(flops, kRate);
  if (bytes > 0) state.counters["bytes/s"] = Counter(bytes, kRate);
}

// Registers body(), run once an iteration. make() builds its data when the benchmark starts, and
// set_counters(state) says at its end what was done. Where the name has "threads:", they all work
// on one iteration: it takes what a clock shows, not what the calling thread computed.
template <class Make, class SetCounters>
void RegisterBody(const std::string& name, const Make& make, const SetCounters& set_counters) {
  auto* const registered = benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    auto body = make();
    body();
    for (auto _ : state) {
      body();
      benchmark::ClobberMemory();
    }
    set_counters(state);
  });
  if (name.find("threads:") != std::string::npos) registered->UseRealTime();
}

template <class Make>
void Register(const std::string& name, double heads_times_tokens, double flops, double bytes,
              const Make& make) {
  RegisterBody(name, make, [=](benchmark::State& state) {
    SetCounters(state, heads_times_tokens, flops, bytes);
  });
}

// 6KV flops a token and head: S^T k, S^T q and the update, a multiply and an addition each.
constexpr double RecurrenceFlops(Index key_dim, Index value_dim) {
  return 6.0 * static_cast<double>(key_dim) * static_cast<double>(value_dim);
}

inline std::string DimName(Index key_dim, Index value_dim) {
  // Appended: GCC 12 warns falsely about what "K" + ... inlines to.
  return std::string("K")
      .append(std::to_string(key_dim))
      .append("/V")
      .append(std::to_string(value_dim));
}

// q, k, v, g, eta and o of one batch row of `tokens` tokens, values of a trained model's size; in
// huge pages where the system grants them, as the memory of large tensors mostly is.
template <class T>
struct Inputs {
  Inputs(Index tokens, Index heads, Index key_dim, Index value_dim, Index batch = 1)
      : extents_k{batch, tokens, heads, key_dim},
        extents_v{batch, tokens, heads, value_dim},
        extents_g{batch, tokens, heads},
        q(Size(extents_k)),
        k(Size(extents_k)),
        v(Size(extents_v)),
        o(Size(extents_v)),
        g(Size(extents_g)),
        eta(Size(extents_g)) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (auto* array : {&q, &k, &v}) {
      for (T& x : *array) x = static_cast<T>(uniform(random));
    }
    for (auto& x : g) x = -0.05f * (1.0f + uniform(random));
    for (auto& x : eta) x = 0.5f + 0.4f * uniform(random);
  }

  template <class Extents>
  static std::size_t Size(const Extents& extents) {
    Index size = 1;
    for (const Index extent : extents) size *= extent;
    return static_cast<std::size_t>(size);
  }

  typename KeyView<T>::Sizes extents_k;
  typename ValueView<T>::Sizes extents_v;
  typename GateView<float>::Sizes extents_g;
  AlignedVector<T> q, k, v, o;
  AlignedVector<Accumulator<T>> g, eta;
};

}  // namespace kla::bench

#endif  // KLA_BENCH_BENCH_MAIN_H_
