// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: the synthetic tasks. Each has a part that draws and a part that writes a
// sequence from what was drawn, so that the latter can be held against sequences made by hand.
//
//   mqar, sniah   k1 v1 k2 v2 ... noise k2 noise k1 noise      label at a queried key: its value
//   palindrome    x1 x2 ... xn | xn ... x2                     label from | on: xn ... x1
//   stack         PUSH s v ... POP s QUERY ...                 label at QUERY: what s gives back
//
// Arora et al., Zoology, 2023 (multi-query associative recall); Hsieh et al., RULER, 2024 (single
// needle in a haystack); sizes as in Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587.
#ifndef KLA_BENCH_QUALITY_TASKS_H_
#define KLA_BENCH_QUALITY_TASKS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bench/quality/settings.h"
#include "examples/lm/matrix.h"
#include "examples/lm/trainer.h"

namespace quality {

using Token = std::int32_t;
inline constexpr Token kNoLabel = -1;

// One sequence of a batch, to be filled. Labels come in as kNoLabel.
struct Sequence {
  std::span<Token> tokens;
  std::span<Token> labels;
};

// In [0, count). The standard distributions differ between libraries, this does not; its bias is
// below count / 2^64.
inline std::int64_t Below(std::int64_t count, std::mt19937_64& random) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count));
}

// `picks` different tokens of [first, first + count), in random order.
inline std::vector<Token> DrawDistinct(Token first, std::int64_t count, std::int64_t picks,
                                       std::mt19937_64& random) {
  std::vector<Token> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), first);
  for (std::int64_t i = 0; i < picks; ++i) {
    std::swap(all[static_cast<std::size_t>(i)],
              all[static_cast<std::size_t>(i + Below(count - i, random))]);
  }
  all.resize(static_cast<std::size_t>(picks));
  return all;
}

// ---- Recall -------------------------------------------------------------------------------------

// `picks` different places of [0, count), drawn one after the other with density ∝ p^-0.1,
// p = place + 1, which favours early places a little.
inline std::vector<std::int64_t> DrawQueryPlaces(std::int64_t count, std::int64_t picks,
                                                 std::mt19937_64& random) {
  std::vector<double> cumulative;
  double total = 0.0;
  for (std::int64_t p = 1; p <= count; ++p) {
    cumulative.push_back(total += std::pow(static_cast<double>(p), -0.1));
  }
  std::vector<bool> taken(static_cast<std::size_t>(count), false);
  std::vector<std::int64_t> places;
  while (static_cast<std::int64_t>(places.size()) < picks) {
    const double u = lm::UniformUnit(random) * total;
    const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), u);
    const std::int64_t place = std::min<std::int64_t>(found - cumulative.begin(), count - 1);
    if (taken[static_cast<std::size_t>(place)]) continue;
    taken[static_cast<std::size_t>(place)] = true;
    places.push_back(place);
  }
  return places;
}

// Pair i at 2i and 2i + 1; key i again at place i of what follows the pairs, labelled with value i.
// Other tokens stay as they are.
inline void WriteRecall(std::span<const Token> keys, std::span<const Token> values,
                        std::span<const std::int64_t> places, Sequence s) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    s.tokens[2 * i] = keys[i];
    s.tokens[2 * i + 1] = values[i];
    const std::size_t query = 2 * keys.size() + static_cast<std::size_t>(places[i]);
    s.tokens[query] = keys[i];
    s.labels[query] = values[i];
  }
}

// Keys from the lower half of the vocabulary, values from the upper, noise from all of it. sniah is
// mqar with one pair.
inline void DrawRecall(const RunSettings& settings, Sequence s, std::mt19937_64& random) {
  const std::int64_t half = settings.vocabulary / 2, pairs = settings.pairs;
  const std::int64_t rest = static_cast<std::int64_t>(s.tokens.size()) - 2 * pairs;
  if (pairs < 1 || half < pairs || rest < pairs) {
    throw std::invalid_argument("quality: " + std::to_string(pairs) +
                                " pairs do not fit into vocabulary and length");
  }
  const std::vector<Token> keys = DrawDistinct(0, half, pairs, random);
  const std::vector<Token> values =
      DrawDistinct(static_cast<Token>(half), settings.vocabulary - half, pairs, random);
  for (Token& token : s.tokens) token = static_cast<Token>(Below(settings.vocabulary, random));
  WriteRecall(keys, values, DrawQueryPlaces(rest, pairs, random), s);
}

// ---- Palindrome ---------------------------------------------------------------------------------

inline constexpr Token kSeparator = 127;

// A sequence of 2n tokens from the n symbols x. The last label, x1, needs no token of its own.
inline void WritePalindrome(std::span<const Token> x, Sequence s) {
  const std::size_t n = x.size();
  for (std::size_t i = 0; i < n; ++i) {
    s.tokens[i] = x[i];
    s.labels[n + i] = x[n - 1 - i];
    s.tokens[n + i] = i == 0 ? kSeparator : x[n - i];
  }
}

inline void DrawPalindrome(const RunSettings&, Sequence s, std::mt19937_64& random) {
  if (s.tokens.size() % 2 != 0) {
    throw std::invalid_argument("quality: a palindrome has an even length");
  }
  std::vector<Token> x(s.tokens.size() / 2);
  for (Token& symbol : x) symbol = static_cast<Token>(Below(kSeparator, random));
  WritePalindrome(x, s);
}

// ---- Stacks -------------------------------------------------------------------------------------

// Tokens: three operations, then the names of the stacks, then the values.
inline constexpr Token kPush = 0, kPop = 1, kQuery = 2, kFirstStack = 3;

struct StackOperation {
  bool push;
  std::int64_t stack;
  Token value;  // pushed, or popped
};

// Three tokens an operation; one or two tokens at the end that no operation fills become PUSH.
inline void WriteStack(std::span<const StackOperation> operations, Sequence s) {
  std::fill(s.tokens.begin(), s.tokens.end(), kPush);
  for (std::size_t i = 0; i < operations.size(); ++i) {
    const StackOperation& operation = operations[i];
    s.tokens[3 * i] = operation.push ? kPush : kPop;
    s.tokens[3 * i + 1] = kFirstStack + static_cast<Token>(operation.stack);
    s.tokens[3 * i + 2] = operation.push ? operation.value : kQuery;
    if (!operation.push) s.labels[3 * i + 2] = operation.value;
  }
}

// Half of the operations push a random value on a random stack, half pop from a random stack that
// is not empty; while all are empty they push.
inline void DrawStack(const RunSettings& settings, Sequence s, std::mt19937_64& random) {
  const Token first_value = kFirstStack + static_cast<Token>(settings.pairs);
  const std::int64_t values = settings.vocabulary - first_value;
  if (settings.pairs < 1 || values < 1 || s.tokens.size() < 6) {
    throw std::invalid_argument("quality: the vocabulary or length is too small for the stacks");
  }
  std::vector<std::vector<Token>> stacks(static_cast<std::size_t>(settings.pairs));
  std::vector<StackOperation> operations;
  for (std::size_t i = 0; i < s.tokens.size() / 3; ++i) {
    std::vector<std::int64_t> filled;
    for (std::int64_t j = 0; j < settings.pairs; ++j) {
      if (!stacks[static_cast<std::size_t>(j)].empty()) filled.push_back(j);
    }
    const bool push = filled.empty() || Below(2, random) == 0;
    const std::int64_t stack =
        push ? Below(settings.pairs, random)
             : filled[static_cast<std::size_t>(Below(std::ssize(filled), random))];
    std::vector<Token>& content = stacks[static_cast<std::size_t>(stack)];
    if (push) content.push_back(first_value + static_cast<Token>(Below(values, random)));
    operations.push_back({push, stack, content.back()});
    if (!push) content.pop_back();
  }
  WriteStack(operations, s);
}

// ---- Batches ------------------------------------------------------------------------------------

enum class Stream : std::uint64_t { kTrain = 0, kTest = 1 };

// Batch `index` of a stream, a pure function of its arguments: a run resumes in the same order
// without saving where it was. The test stream does not depend on the seed of the run.
inline lm::Batch DrawBatch(const RunSettings& settings, Stream stream, std::int64_t index,
                           lm::Window window) {
  const std::uint64_t seed = stream == Stream::kTrain ? settings.seed : 0;
  std::seed_seq seeds{seed & 0xffffffffu, seed >> 32, static_cast<std::uint64_t>(stream),
                      static_cast<std::uint64_t>(window.time), static_cast<std::uint64_t>(index)};
  std::mt19937_64 random(seeds);
  const auto rows = static_cast<std::size_t>(window.rows());
  const auto time = static_cast<std::size_t>(window.time);
  lm::Batch batch{.window = window,
                  .tokens = std::vector<Token>(rows),
                  .labels = std::vector<Token>(rows, kNoLabel)};
  const auto draw = settings.task == "palindrome" ? DrawPalindrome
                    : settings.task == "stack"    ? DrawStack
                                                  : DrawRecall;
  for (std::size_t begin = 0; begin < rows; begin += time) {
    draw(settings,
         {std::span(batch.tokens).subspan(begin, time),
          std::span(batch.labels).subspan(begin, time)},
         random);
  }
  return batch;
}

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_TASKS_H_
