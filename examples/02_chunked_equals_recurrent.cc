// SPDX-License-Identifier: Apache-2.0
// The same layer twice. ChunkForward takes a whole sequence at once, in matrix products over chunks
// of tokens: training, and reading a prompt. DecodeStep takes one token after the other and keeps
// nothing but the state: generation. They compute the same function, so a model trained with the
// first is run with the second. Exit status 0 if their outputs agree to float precision.
#include <kla/kla.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using Head = kla::Shape</*key*/ 96, /*value*/ 192>;
using Backend = kla::DefaultBackend;
constexpr kla::Index kTokens = 1000, kHeads = 2, kKeyDim = 96, kValueDim = 192;

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::size_t size, auto make) {
    std::vector<float> data(size);
    std::generate(data.begin(), data.end(), make);
    return data;
  };
  const auto gaussian = [&] { return normal(random); };
  const std::vector<float> q = fill(kTokens * kHeads * kKeyDim, gaussian);
  const std::vector<float> k = fill(kTokens * kHeads * kKeyDim, gaussian);
  const std::vector<float> v = fill(kTokens * kHeads * kValueDim, gaussian);
  const std::vector<float> g =  // logarithm of the decay, so <= 0
      fill(kTokens * kHeads, [&] { return -0.05f * std::exp(normal(random)); });
  const std::vector<float> eta =
      fill(kTokens * kHeads, [&] { return 1 / (1 + std::exp(-normal(random))); });

  // All at once. A view is a pointer and the sizes of its axes; strides may follow.
  std::vector<float> chunked(v.size());
  kla::ChunkForward<Backend, Head>(
      kla::ChunkForwardArgs<float>{.q = {q.data(), {1, kTokens, kHeads, kKeyDim}},
                                   .k = {k.data(), {1, kTokens, kHeads, kKeyDim}},
                                   .v = {v.data(), {1, kTokens, kHeads, kValueDim}},
                                   .g = {g.data(), {1, kTokens, kHeads}},
                                   .eta = {eta.data(), {1, kTokens, kHeads}},
                                   .o = {chunked.data(), {1, kTokens, kHeads, kValueDim}}});

  // One by one.
  std::vector<float> recurrent(v.size());
  kla::DecodeState<Backend, Head> state(/*slots=*/1, kHeads);
  for (kla::Index t = 0; t < kTokens; ++t) {
    const kla::Index key = t * kHeads * kKeyDim, value = t * kHeads * kValueDim, gate = t * kHeads;
    kla::DecodeStep<Backend, Head>(
        kla::DecodeStepArgs<float>{.q = {q.data() + key, {1, 1, kHeads, kKeyDim}},
                                   .k = {k.data() + key, {1, 1, kHeads, kKeyDim}},
                                   .v = {v.data() + value, {1, 1, kHeads, kValueDim}},
                                   .g = {g.data() + gate, {1, 1, kHeads}},
                                   .eta = {eta.data() + gate, {1, 1, kHeads}},
                                   .o = {recurrent.data() + value, {1, 1, kHeads, kValueDim}}},
        state);
  }

  double difference = 0, size = 0;
  for (std::size_t i = 0; i < chunked.size(); ++i) {
    difference += std::pow(static_cast<double>(chunked[i]) - static_cast<double>(recurrent[i]), 2);
    size += std::pow(static_cast<double>(recurrent[i]), 2);
  }
  const double relative = std::sqrt(difference / size);
  // A float holds 24 bits; sums of 96 products over a memory of some tens of tokens cost a few.
  const double allowed = 32 * 0x1p-24;
  std::printf("backend %s, %d tokens, state of %.0f kB whatever the length\n",
              kla::BackendName().c_str(), static_cast<int>(kTokens),
              static_cast<double>(state.size_bytes()) / 1024);
  std::printf("relative difference of chunked and recurrent outputs: %.1e, allowed %.1e\n",
              relative, allowed);
  return relative <= allowed && size > 0 ? 0 : 1;
}
