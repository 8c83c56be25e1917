// SPDX-License-Identifier: Apache-2.0
// KlaLayer on a device, projections included: one token of each sequence (Step), as the calls of a
// program and as a replayed graph, and a prefill (Forward). Parts are timed in the same run, and
// the floor beside them is the time to read the weights once at the bandwidth of a copy; 28 MB of
// weights fit in the L2 cache of an H200, so that a replayed Step may be faster.
//   KlaLayer::Step/Cuda/bf16/D1536/K96/V192/heads:12/batch:1
#include <chrono>
#include <cstdio>
#include <random>
#include <string>

#include "cuda_timing.cuh"
#include "kla/layer/cuda_layer.cuh"

namespace kla::bench {
namespace {

using T = bfloat16;
using Head = Shape<96, 192>;
constexpr Index kModel = 1536, kHeads = 12;

// Mean microseconds of a call when calls follow each other, as a program without graphs makes them.
template <class F>
double BackToBack(const Timer& timer, const F& queue) {
  constexpr int kCalls = 200;
  for (int i = 0; i < 20; ++i) queue(timer.stream());
  CheckCuda(cudaStreamSynchronize(timer.stream()), "warming up");
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) queue(timer.stream());
  CheckCuda(cudaStreamSynchronize(timer.stream()), "timing");
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
             .count() /
         kCalls;
}

void Print(const std::string& name, const char* how, double us, double floor_us) {
  std::printf("%-66s %-6s %9.2f us", name.c_str(), how, us);
  if (floor_us > 0) std::printf("   floor %.2f us", floor_us);
  std::printf("\n");
  std::fflush(stdout);
}

std::string Name(const char* operation, const std::string& sizes) {
  return std::string(operation) + "/Cuda/bf16/D1536/K96/V192/heads:12/" + sizes;
}

template <class Layer>
void BenchStep(const Timer& timer, const Layer& layer, double bandwidth, Index batch) {
  auto state = layer.MakeState(batch);
  const auto x = RandomArray<T>(batch * kModel, 0, 1, 1);
  const DeviceMemory<T> y(batch * kModel);
  const auto queue = [&](cudaStream_t stream) {
    layer.Step(ModelView<const T>(x.data(), {batch, 1, kModel}), state,
               ModelView<T>(y.data(), {batch, 1, kModel}), {}, {.stream = stream});
  };
  const LayerSizes& s = layer.sizes();
  const double weights = 2.0 * double(kModel * (s.projected_width() + s.value_width()));
  const double states = 8.0 * double(batch * s.state_size());
  const double floor = 1e6 * (weights + states) / bandwidth;
  const std::string name = Name("KlaLayer::Step", "batch:" + std::to_string(batch));
  Print(name, "cold", timer.Cold(queue), floor);
  Print(name, "eager", BackToBack(timer, queue), floor);
  Print(name, "replay", timer.Replayed(queue), floor);
}

// The products of a Step alone, replayed.
template <class Layer>
void BenchProducts(const Timer& timer, const Layer& layer, double bandwidth, Index batch) {
  const CudaProducts products;
  const DeviceMemory<unsigned char> memory(device::kStepProductBytes);
  const LayerSizes& s = layer.sizes();
  const auto bench = [&](const char* operation, Index columns, Index depth, const T* weight) {
    const auto a = RandomArray<T>(batch * depth, 0, 1, 2);
    const DeviceMemory<T> c(batch * columns);
    using internal::MatrixRef;
    const double us = timer.Replayed([&](cudaStream_t stream) {
      products.Multiply(MatrixRef<const T>{a.data(), batch, depth, depth},
                        MatrixRef<const T>{weight, columns, depth, depth},
                        MatrixRef<T>{c.data(), batch, columns, columns}, memory,
                        CudaExecutor{.stream = stream});
    });
    Print(Name(operation, "batch:" + std::to_string(batch)), "replay", us,
          2e6 * double(columns * depth) / bandwidth);
  };
  bench("InputProduct", s.projected_width(), kModel, layer.parameters().input_weight());
  bench("OutputProduct", kModel, s.value_width(), layer.parameters().output_weight());
}

template <class Layer>
void BenchForward(const Timer& timer, const Layer& layer, Index batch, Index tokens) {
  auto workspace = layer.MakeWorkspace(batch, tokens);
  const auto x = RandomArray<T>(batch * tokens * kModel, 0, 1, 3);
  const double us = timer.Cold(
      [&](cudaStream_t stream) {
        layer.Forward(ModelView<const T>(x.data(), {batch, tokens, kModel}), workspace, {},
                      {.stream = stream});
      },
      9);
  Print(Name("KlaLayer::Forward", "tokens:" + std::to_string(batch) + "x" + std::to_string(tokens)),
        "cold", us, 0);
}

void Main() {
  const Timer timer;
  const double bandwidth = CopyBandwidth(timer);
  KlaLayer<Cuda, Head, Kla, T> layer({.model_dim = kModel, .num_heads = kHeads});
  std::mt19937_64 random(1);
  layer.Initialize(random);
  for (const Index batch : {Index{1}, Index{4}, Index{16}, Index{256}}) {
    BenchStep(timer, layer, bandwidth, batch);
    BenchProducts(timer, layer, bandwidth, batch);
  }
  BenchForward(timer, layer, 1, 4096);
  BenchForward(timer, layer, 1, 32768);
  BenchForward(timer, layer, 8, 4096);
}

}  // namespace
}  // namespace kla::bench

int main() {
  return kla::bench::RunProgram([] { kla::bench::Main(); });
}
