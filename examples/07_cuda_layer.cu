// SPDX-License-Identifier: Apache-2.0
// The same layer code on the host and on a GPU: the backend is a tag, and the only other thing that
// changes is where the arrays lie. A layer computes its gradients on a sequence, as a step of
// training does; then it reads the sequence as a prompt and decodes token by token, its output
// being its next input. Exit status 0 if both give the same numbers, and if there is no GPU to try
// it on.
#define EIGEN_NO_CUDA  // of Eigen, nothing runs on the device here
#include <kla/backend/reference/reference.h>
#include <kla/layer.h>

#include <cstdio>
#include <exception>
#include <kla/cuda.cuh>
#include <random>
#include <vector>

#include "cuda_memory.cuh"

using kla::Index;
using Head = kla::Shape<96, 192>;
constexpr Index kModel = 512, kHeads = 4, kPrompt = 100, kTokens = 20;

template <class Backend>
kla::KlaLayer<Backend, Head> MakeLayer() {
  kla::KlaLayer<Backend, Head> layer({.model_dim = kModel, .num_heads = kHeads});
  std::mt19937_64 random(1);
  layer.Initialize(random);  // the same numbers everywhere
  return layer;
}

// Gradients of all parameters, in host memory.
std::vector<float> Values(const kla::KlaParameters<float>& host) {
  return {host.values().begin(), host.values().end()};
}
template <class OnDevice>
std::vector<float> Values(const OnDevice& gradients) {
  kla::KlaParameters<float> host(gradients.sizes());
  gradients.Store(host);
  return Values(host);
}

// Of the sum of y dy, where y is the layer's output for x.
template <class Backend>
std::vector<float> Gradients(const std::vector<float>& x, const std::vector<float>& dy) {
  const auto layer = MakeLayer<Backend>();
  Memory<Backend> input(x), given(dy);
  auto workspace = layer.MakeWorkspace(1, kPrompt);
  auto gradients = layer.MakeGradients();
  layer.Forward({input.data(), {1, kPrompt, kModel}}, workspace);
  layer.Backward({given.data(), {1, kPrompt, kModel}}, workspace, gradients);
  return Values(gradients);
}

// The output for the prompt's last token, and the last token decoded.
template <class Backend>
std::vector<float> PrefillAndDecode(const std::vector<float>& prompt) {
  const auto layer = MakeLayer<Backend>();
  auto state = layer.MakeState(/*slots=*/1);

  Memory<Backend> x(prompt);
  const kla::ForwardOptions<decltype(state)> options = {.final_state = &state,
                                                        .keep_for_backward = false};
  auto workspace = layer.MakeWorkspace(1, kPrompt, options);
  const kla::ModelView<const float> y =
      layer.Forward({x.data(), {1, kPrompt, kModel}}, workspace, options);
  std::vector<float> results(kModel);
  Memory<Backend>::ToHost(y.Row(0, kPrompt - 1), results);

  Memory<Backend> token(results);
  const kla::ModelView<float> row(token.data(), {1, 1, kModel});
  for (Index t = 0; t < kTokens; ++t) layer.Step(row, state, row);
  std::vector<float> last(kModel);
  Memory<Backend>::ToHost(token.data(), last);
  results.insert(results.end(), last.begin(), last.end());
  return results;
}

std::vector<float> RandomSequence(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(kPrompt * kModel));
  for (float& value : values) value = normal(random);
  return values;
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device here: nothing to compare\n");
    return 0;
  }
  try {
    std::mt19937_64 random(2);
    const std::vector<float> prompt = RandomSequence(random), dy = RandomSequence(random);
    const double trained =
        RelativeDifference(Gradients<kla::Reference>(prompt, dy), Gradients<kla::Cuda>(prompt, dy));
    const double decoded = RelativeDifference(PrefillAndDecode<kla::Reference>(prompt),
                                              PrefillAndDecode<kla::Cuda>(prompt));
    std::printf(
        "host against device, relative differences: gradients %.1e; %d tokens read and %d "
        "decoded %.1e\n",
        trained, static_cast<int>(kPrompt), static_cast<int>(kTokens), decoded);
    return trained < 1e-3 && decoded < 1e-3 ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
