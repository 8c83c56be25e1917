// SPDX-License-Identifier: Apache-2.0
// tests/support: the grid of problems that every backend is run on, and random inputs for them.
#ifndef KLA_TESTS_SUPPORT_CASES_H_
#define KLA_TESTS_SUPPORT_CASES_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kla/core/layout.h"
#include "kla/op/problem.h"
#include "support/array.h"

namespace kla::test {

// Inputs that make implementations fail in different ways.
enum class Inputs {
  kOrdinary,     // keys of log-normal length, decay of a trained model
  kNoDecay,      // g = 0
  kStrongDecay,  // g down to -20, some -infinity
  kZeroKeys,     // every third key is 0, every fifth tiny
  kHugeKeys,     // |k|^2 beyond the range of float
};

struct Case {
  std::string name;
  Index batch = 1, tokens = 64, key_heads = 1, value_heads = 1;
  std::vector<std::int64_t> cu_seqlens = {};
  HeadGrouping grouping = HeadGrouping::kInterleaved;
  bool initial_state = true;
  bool transposed_state = false;
  bool state_in_place = false;  // final_state is initial_state, d_initial_state is d_final_state
  Placement placement = Placement::kContiguous;
  Inputs inputs = Inputs::kOrdinary;
  std::optional<double> scale = {};
  double key_scale = 1.0;  // on the components of k

  Index sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<Index>(cu_seqlens.size()) - 1;
  }
  IndexList offsets() const { return cu_seqlens.empty() ? IndexList() : IndexList(cu_seqlens); }
};

inline std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

// Lengths around the chunk, ragged and packed sequences, groupings, layouts, nasty values.
inline std::vector<Case> ChunkCases(Index chunk) {
  std::vector<Case> cases;
  for (const Index tokens : {Index{0}, Index{1}, chunk - 1, chunk, chunk + 1, 2 * chunk + 11}) {
    cases.push_back({.name = "tokens_" + std::to_string(tokens), .tokens = tokens});
  }
  cases.push_back(
      {.name = "batch_and_heads", .batch = 3, .tokens = 75, .key_heads = 2, .value_heads = 2});
  cases.push_back(
      {.name = "grouped_interleaved", .batch = 2, .tokens = 70, .key_heads = 2, .value_heads = 4});
  cases.push_back({.name = "grouped_tiled",
                   .tokens = 70,
                   .key_heads = 2,
                   .value_heads = 8,
                   .grouping = HeadGrouping::kTiled});
  cases.push_back({.name = "packed",
                   .tokens = 300,
                   .key_heads = 1,
                   .value_heads = 2,
                   .cu_seqlens = {0, 15, 15, 100, 101, 300, 300}});
  cases.push_back({.name = "packed_empty", .tokens = 0, .cu_seqlens = {0, 0, 0}});
  cases.push_back({.name = "no_initial_state", .tokens = 100, .initial_state = false});
  cases.push_back({.name = "transposed_state", .batch = 2, .tokens = 40, .transposed_state = true});
  cases.push_back({.name = "state_in_place",
                   .batch = 2,
                   .tokens = 4 * chunk + 3,
                   .key_heads = 2,
                   .value_heads = 2,
                   .state_in_place = true});
  cases.push_back({.name = "strided",
                   .batch = 2,
                   .tokens = 67,
                   .key_heads = 2,
                   .value_heads = 4,
                   .placement = Placement::kStrided});
  cases.push_back({.name = "strided_transposed_packed",
                   .tokens = 67,
                   .cu_seqlens = {0, 30, 67},
                   .transposed_state = true,
                   .placement = Placement::kStrided});
  cases.push_back({.name = "own_scale", .tokens = 65, .scale = 0.7});
  cases.push_back({.name = "no_decay", .tokens = 200, .inputs = Inputs::kNoDecay});
  cases.push_back({.name = "strong_decay", .tokens = 200, .inputs = Inputs::kStrongDecay});
  cases.push_back({.name = "zero_keys", .tokens = 130, .inputs = Inputs::kZeroKeys});
  cases.push_back({.name = "huge_keys", .tokens = 130, .inputs = Inputs::kHugeKeys});
  return cases;
}

// Everything that ChunkForward and DecodeStep read, and that ChunkBackward reads besides.
template <class T, class State = Accumulator<T>>
struct Tensors {
  using G = Accumulator<T>;

  Tensors() = default;
  Tensors(const Case& c, Index key_dim, Index value_dim, std::uint64_t seed)
      : q({c.batch, c.tokens, c.key_heads, key_dim}, c.placement),
        k({c.batch, c.tokens, c.key_heads, key_dim}, c.placement),
        v({c.batch, c.tokens, c.value_heads, value_dim}, c.placement),
        d_o({c.batch, c.tokens, c.value_heads, value_dim}, c.placement),
        g({c.batch, c.tokens, c.value_heads}, c.placement),
        eta({c.batch, c.tokens, c.value_heads}, c.placement),
        initial_state({c.sequences(), c.value_heads, key_dim, value_dim}, c.placement),
        d_final_state({c.sequences(), c.value_heads, key_dim, value_dim}, c.placement) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    q.Fill([&] { return normal(random); });
    v.Fill([&] { return normal(random); });
    d_o.Fill([&] { return normal(random); });
    eta.Fill([&] { return 1.0 / (1.0 + std::exp(-2.0 * normal(random))); });
    initial_state.Fill([&] { return 0.3 * normal(random); });
    d_final_state.Fill([&] { return 0.3 * normal(random); });
    g.Fill([&] {
      if (c.inputs == Inputs::kNoDecay) return 0.0;
      if (c.inputs != Inputs::kStrongDecay) return -0.1 * std::exp(normal(random));
      const double pick = uniform(random);
      if (pick < 0.05) return -std::numeric_limits<double>::infinity();
      return pick < 0.5 ? -20.0 * uniform(random) : -0.01 * uniform(random);
    });
    FillKeys(c, key_dim, random);
  }

  Array<KeyView<T>> q, k;
  Array<ValueView<T>> v, d_o;
  Array<GateView<G>> g, eta;
  Array<StateView<State>> initial_state, d_final_state;

 private:
  void FillKeys(const Case& c, Index key_dim, std::mt19937_64& random) {
    const Inputs inputs = c.inputs;
    std::normal_distribution<double> normal;
    Index at = 0;
    double length = 1.0;
    k.Fill([&] {
      if (at % key_dim == 0) {
        const Index row = at / key_dim;
        length = c.key_scale * std::exp(0.7 * normal(random));
        if (inputs == Inputs::kZeroKeys && row % 3 == 0) length = 0.0;
        if (inputs == Inputs::kZeroKeys && row % 5 == 1) length = 1e-12;
        // float16 ends at 65504: its squares still sum beyond that of the format.
        if (inputs == Inputs::kHugeKeys) length *= std::is_same_v<T, float16> ? 1e3 : 1e25;
      }
      ++at;
      return length * normal(random);
    });
  }
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_CASES_H_
