// SPDX-License-Identifier: Apache-2.0
// The same layer code on the host and on a GPU: the backend is a tag, and the only other thing that
// changes is where the arrays lie. A layer reads a prompt and then decodes token by token, its
// output being its next input. Exit status 0 if both give the same numbers, and if there is no GPU
// to try it on.
#define EIGEN_NO_CUDA  // of Eigen, nothing runs on the device here
#include <kla/backend/reference/reference.h>
#include <kla/layer/kla_layer.h>

#include <cstdio>
#include <exception>
#include <kla/layer/cuda_layer.cuh>
#include <random>
#include <vector>

#include "cuda_memory.cuh"

using kla::Index;
using Head = kla::Shape<96, 192>;
constexpr Index kModel = 512, kHeads = 4, kPrompt = 100, kTokens = 20;

// The output for the prompt's last token, and the last token decoded. Identical for every backend.
template <class Backend>
std::vector<float> PrefillAndDecode(const std::vector<float>& prompt) {
  kla::KlaLayer<Backend, Head> layer({.model_dim = kModel, .num_heads = kHeads});
  std::mt19937_64 random(1);
  layer.Initialize(random);  // the same numbers everywhere
  auto state = layer.MakeState(/*slots=*/1);

  Memory<Backend> x(prompt);
  auto workspace = layer.MakeWorkspace(1, kPrompt, {.final_state = &state});
  const kla::ModelView<const float> y =
      layer.Forward({x.data(), {1, kPrompt, kModel}}, workspace,
                    {.final_state = &state, .keep_for_backward = false});
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

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device here: nothing to compare\n");
    return 0;
  }
  try {
    std::mt19937_64 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> prompt(static_cast<std::size_t>(kPrompt * kModel));
    for (float& value : prompt) value = normal(random);

    const std::vector<float> host = PrefillAndDecode<kla::Reference>(prompt);
    const std::vector<float> device = PrefillAndDecode<kla::Cuda>(prompt);
    const double difference = RelativeDifference(host, device);
    std::printf("%d tokens read and %d decoded, host against device: relative difference %.1e\n",
                static_cast<int>(kPrompt), static_cast<int>(kTokens), difference);
    return difference < 1e-3 ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
