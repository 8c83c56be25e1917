// SPDX-License-Identifier: Apache-2.0
// KlaLayer on a device, projections included: one token of each sequence (Step), as the calls of a
// program and as a replayed graph; a prefill (Forward); and a step of training (Forward and
// Backward). Parts are timed in the same run. The floor beside a Step is the time to read the
// weights once at the bandwidth of a copy; 28 MB of weights fit in the L2 cache of an H200, so that
// a replayed Step may be faster. The others' is that of their matrix products at the rate of a
// large one.
//   KlaLayer::Step/Cuda/bf16/D1536/K96/V192/heads:12/batch:1
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <utility>

#if !defined(KLA_BENCH_CUBLAS)
#define KLA_BENCH_CUBLAS
#endif
#include "cuda_timing.cuh"
#include "kla/cuda.cuh"

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
  const DeviceMemory<unsigned char> memory(internal::device::kStepProductBytes);
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

std::string TokensName(const char* operation, Index batch, Index tokens) {
  return Name(operation, "tokens:" + std::to_string(batch) + "x" + std::to_string(tokens));
}

// Microseconds of the layer's products for so many rows at `rate`, Backward having two for each of
// Forward's.
template <class Layer>
double ProductFloor(const Layer& layer, Index rows, double rate) {
  const LayerSizes& s = layer.sizes();
  return 2e6 * double(rows) * double(kModel * (s.projected_width() + s.value_width())) / rate;
}

// A prefill, of which nothing is kept.
template <class Layer>
void BenchForward(const Timer& timer, const Layer& layer, double rate, Index batch, Index tokens) {
  const typename Layer::Options options = {.keep_for_backward = false};
  auto workspace = layer.MakeWorkspace(batch, tokens, options);
  const auto x = RandomArray<T>(batch * tokens * kModel, 0, 1, 3);
  const double us = timer.Cold(
      [&](cudaStream_t stream) {
        layer.Forward(ModelView<const T>(x.data(), {batch, tokens, kModel}), workspace, options,
                      {.stream = stream});
      },
      9);
  Print(TokensName("KlaLayer::Forward", batch, tokens), "cold", us,
        ProductFloor(layer, batch * tokens, rate));
}

// Forward and Backward, and the latter alone.
template <class Layer>
void BenchTraining(const Timer& timer, const Layer& layer, double rate, Index batch, Index tokens) {
  auto workspace = layer.MakeWorkspace(batch, tokens);
  auto gradients = layer.MakeGradients();
  const Index rows = batch * tokens;
  const auto x = RandomArray<T>(rows * kModel, 0, 1, 3),
             dy = RandomArray<T>(rows * kModel, 0, 1, 4);
  const auto forward = [&](cudaStream_t stream) {
    layer.Forward(ModelView<const T>(x.data(), {batch, tokens, kModel}), workspace, {},
                  {.stream = stream});
  };
  const auto backward = [&](cudaStream_t stream) {
    layer.Backward(ModelView<const T>(dy.data(), {batch, tokens, kModel}), workspace, gradients,
                   GradientMode::kOverwrite, {.stream = stream});
  };
  const double floor = ProductFloor(layer, rows, rate);
  const double us = timer.Cold(
      [&](cudaStream_t stream) {
        forward(stream);
        backward(stream);
      },
      9);
  Print(TokensName("KlaLayer::Train", batch, tokens), "cold", us, 3 * floor);
  std::printf("%-66s        %9.2f M tokens/s, workspace %.2f GB\n", "", double(rows) / us,
              1e-9 * double(workspace.bytes()));
  Print(TokensName("KlaLayer::Backward", batch, tokens), "cold", timer.Cold(backward, 9),
        2 * floor);
}

void Main() {
  const Timer timer;
  const double bandwidth = CopyBandwidth(timer);
  const double rate = MatrixRate(timer);  // first, since it heats the card
  KlaLayer<Cuda, Head, Kla, T> layer({.model_dim = kModel, .num_heads = kHeads});
  std::mt19937_64 random(1);
  layer.Initialize(random);
  for (const Index batch : {Index{1}, Index{4}, Index{16}, Index{256}}) {
    BenchStep(timer, layer, bandwidth, batch);
    BenchProducts(timer, layer, bandwidth, batch);
  }
  using Sizes = std::pair<Index, Index>;
  for (const auto& [batch, tokens] : {Sizes{1, 4096}, Sizes{1, 32768}, Sizes{8, 4096}}) {
    BenchForward(timer, layer, rate, batch, tokens);
    BenchTraining(timer, layer, rate, batch, tokens);
  }
}

}  // namespace
}  // namespace kla::bench

int main() {
  return kla::bench::RunProgram([] { kla::bench::Main(); });
}
