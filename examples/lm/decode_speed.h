// SPDX-License-Identifier: Apache-2.0
// Language-model example, decoding: tokens per second after contexts of growing length.
#ifndef KLA_EXAMPLES_LM_DECODE_SPEED_H_
#define KLA_EXAMPLES_LM_DECODE_SPEED_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

#include "examples/lm/matrix.h"

namespace lm {

// One sequence on one thread: tokens per second of Step once `context` tokens have been read. The
// median over steps, so that a busy machine disturbs it little. A recurrent mixer reads real text
// up to `context`; a mixer with a cache gets one of that size, because reading 64K tokens by
// attention would take minutes and the speed of a step does not depend on what is cached.
template <class Model>
double DecodeTokensPerSecond(const Model& model, std::string_view text, std::int64_t context,
                             double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kFewestSteps = 5, kMostSteps = 2000, kPrefillWindow = 1024;
  typename Model::State state = model.MakeState(1);
  if constexpr (requires(std::mt19937_64 random) {
                  model.FillCaches(state, context, kMostSteps, random);
                }) {
    std::mt19937_64 random(1);
    model.FillCaches(state, context, kMostSteps, random);
  } else {
    typename Model::Workspace workspace;
    std::vector<std::int32_t> tokens;
    for (std::int64_t begin = 0; begin < context; begin += kPrefillWindow) {
      tokens.clear();
      for (std::int64_t i = begin; i < std::min(context, begin + kPrefillWindow); ++i) {
        tokens.push_back(
            static_cast<unsigned char>(text[static_cast<std::size_t>(i) % text.size()]));
      }
      const Window window{.batch = 1, .time = static_cast<std::int64_t>(tokens.size())};
      model.Prefill(tokens, window, workspace, state);
    }
  }
  const std::vector<std::int32_t> token{' '};
  Matrix<typename Model::Scalar> logits;
  std::vector<double> times;
  model.Step(token, state, logits);  // scratch memory is allocated here
  const Clock::time_point start = Clock::now();
  Clock::time_point before = start;
  for (std::int64_t i = 0; i + 1 < kMostSteps; ++i) {
    model.Step(token, state, logits);
    const Clock::time_point after = Clock::now();
    times.push_back(std::chrono::duration<double>(after - before).count());
    before = after;
    if (i + 1 >= kFewestSteps && after - start > std::chrono::duration<double>(seconds)) break;
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return 1.0 / times[times.size() / 2];
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_DECODE_SPEED_H_
