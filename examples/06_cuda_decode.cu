// SPDX-License-Identifier: Apache-2.0
// The same decoding code on the host and on a GPU: the backend is a tag, and the only other thing
// that changes is where the arrays lie. Sixteen sequences decode 64 tokens each, on the GPU as one
// captured graph that is replayed for every token. Exit status 0 if both give the same numbers, and
// if there is no GPU to try it on.
#include <kla/backend/reference/reference.h>

#include <cstdio>
#include <exception>
#include <kla/cuda.cuh>
#include <random>
#include <vector>

#include "cuda_memory.cuh"

using kla::Index;
using Head = kla::Shape<96, 192>;
constexpr Index kBatch = 16, kTokens = 64, kHeads = 12, kK = Head::kKeyDim, kV = Head::kValueDim;

// What every token of this example reads; a model would make it anew for each.
struct Inputs {
  std::vector<float> q, k, v, g, eta;
};

template <class Backend>
struct Decoder {
  explicit Decoder(const Inputs& inputs)
      : q(inputs.q),
        k(inputs.k),
        v(inputs.v),
        g(inputs.g),
        eta(inputs.eta),
        o(std::vector<float>(inputs.v.size())),
        state(kBatch, kHeads) {}

  // One token of every sequence. Identical for every backend; for Cuda it queues one kernel.
  template <class Executor>
  void Step(const Executor& executor) {
    kla::DecodeStep<Backend, Head>(
        kla::DecodeStepArgs<float>{.q = {q.data(), {kBatch, 1, kHeads, kK}},
                                   .k = {k.data(), {kBatch, 1, kHeads, kK}},
                                   .v = {v.data(), {kBatch, 1, kHeads, kV}},
                                   .g = {g.data(), {kBatch, 1, kHeads}},
                                   .eta = {eta.data(), {kBatch, 1, kHeads}},
                                   .o = {o.data(), {kBatch, 1, kHeads, kV}}},
        state, executor);
  }

  // Outputs of the last token, then all states, in host memory.
  std::vector<float> Results() {
    std::vector<float> results(static_cast<std::size_t>(kBatch * kHeads * kV));
    Memory<Backend>::ToHost(o.data(), results);
    std::vector<float> states(static_cast<std::size_t>(kBatch * kHeads * kK * kV));
    state.Store(kla::StateView<float>(states.data(), {kBatch, kHeads, kK, kV}));
    results.insert(results.end(), states.begin(), states.end());
    return results;
  }

  Memory<Backend> q, k, v, g, eta, o;
  kla::DecodeState<Backend, Head> state;
};

Inputs MakeInputs() {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](Index size, float mean, float deviation) {
    std::vector<float> values(static_cast<std::size_t>(size));
    for (float& value : values) value = mean + deviation * normal(random);
    return values;
  };
  return {.q = fill(kBatch * kHeads * kK, 0, 1),
          .k = fill(kBatch * kHeads * kK, 0, 1),
          .v = fill(kBatch * kHeads * kV, 0, 1),
          .g = fill(kBatch * kHeads, -0.1f, 0.02f),
          .eta = fill(kBatch * kHeads, 0.5f, 0.1f)};
}

std::vector<float> OnTheHost(const Inputs& inputs) {
  Decoder<kla::Reference> decoder(inputs);
  for (Index t = 0; t < kTokens; ++t) decoder.Step(kla::Serial{});
  return decoder.Results();
}

std::vector<float> OnTheDevice(const Inputs& inputs) {
  using kla::internal::device::CheckCuda;
  Decoder<kla::Cuda> decoder(inputs);
  cudaStream_t stream;
  CheckCuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  CheckCuda(cudaDeviceSynchronize(), "filling the inputs");
  // DecodeStep allocates nothing and waits for nothing, so a call can be captured...
  cudaGraph_t graph;
  cudaGraphExec_t token;
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  decoder.Step(kla::CudaExecutor{.stream = stream});
  CheckCuda(cudaStreamEndCapture(stream, &graph), "capture");
  CheckCuda(cudaGraphInstantiate(&token, graph, 0), "cudaGraphInstantiate");
  // ... and replayed.
  for (Index t = 0; t < kTokens; ++t) CheckCuda(cudaGraphLaunch(token, stream), "cudaGraphLaunch");
  CheckCuda(cudaStreamSynchronize(stream), "decoding");
  cudaGraphExecDestroy(token);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return decoder.Results();
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device here: nothing to compare\n");
    return 0;
  }
  try {
    const Inputs inputs = MakeInputs();
    const std::vector<float> host = OnTheHost(inputs), device = OnTheDevice(inputs);
    const double relative = RelativeDifference(host, device);
    std::printf("%d tokens of %d sequences, host against device: relative difference %.1e\n",
                static_cast<int>(kTokens), static_cast<int>(kBatch), relative);
    return relative < 1e-5 ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
