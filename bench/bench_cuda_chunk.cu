// SPDX-License-Identifier: Apache-2.0
// ChunkForward and ChunkBackward on a device, kernel by kernel, with the rate at which the products
// of the chunk form (math/chunk_form.h) were done. Names are paths, as in the other benchmarks:
//   ChunkForward/Cuda/bf16/K128/V128/heads:16:64/tokens:1x32768
// Times are medians of runs between device events; inputs are far larger than the L2 cache.
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda_timing.cuh"
#include "kla/backend/cuda/chunk.cuh"

namespace kla::bench {
namespace {

// Launches on a stream and notes an event before each kernel.
struct EventLauncher : internal::device::TileLauncher {
  std::vector<std::pair<std::string, cudaEvent_t>>* events;

  template <class Body>
  void Launch(const char* step, const Body& body, Index blocks) const {
    Mark(step);
    TileLauncher::Launch(step, body, blocks);
  }
  void Mark(const char* step) const {
    cudaEvent_t event;
    CheckCuda(cudaEventCreate(&event), "cudaEventCreate");
    CheckCuda(cudaEventRecord(event, stream), "cudaEventRecord");
    events->push_back({step, event});
  }
};

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

// Runs `queue(launcher)` and prints the median time of the whole and of each step.
template <class F>
void Measure(const std::string& name, double flops, const F& queue) {
  std::map<std::string, std::vector<double>> steps;
  std::vector<double> totals;
  for (int run = -2; run < 9; ++run) {
    std::vector<std::pair<std::string, cudaEvent_t>> events;
    const EventLauncher launcher{{nullptr}, &events};
    queue(launcher);
    launcher.Mark("end");
    CheckCuda(cudaDeviceSynchronize(), name.c_str());
    for (std::size_t i = 0; i + 1 < events.size(); ++i) {
      float ms = 0;
      CheckCuda(cudaEventElapsedTime(&ms, events[i].second, events[i + 1].second), "elapsed");
      if (run >= 0) steps[events[i].first].push_back(ms);
    }
    float ms = 0;
    CheckCuda(cudaEventElapsedTime(&ms, events.front().second, events.back().second), "elapsed");
    if (run >= 0) totals.push_back(ms);
    for (const auto& event : events) cudaEventDestroy(event.second);
  }
  const double total = Median(totals);
  std::printf("%-64s %8.3f ms %6.0f TFLOP/s", name.c_str(), total, 1e-9 * flops / total);
  for (const auto& [step, times] : steps) {
    const auto colon = step.find(": ");
    std::printf("  %s %.3f", step.substr(colon + 2).c_str(), Median(times));
  }
  std::printf("\n");
  std::fflush(stdout);
}

struct Sizes {
  Index batch, tokens, key_heads, value_heads;
};

template <class Head, class T>
void Run(const Sizes& n, bool backward) {
  constexpr Index kK = Head::kKeyDim, kV = Head::kValueDim;
  using C = typename internal::device::ChunkConfigOf<Cuda, Head, Kla, T, float>::Type;
  const Index rows = n.batch * n.tokens;
  const auto q = RandomArray<T>(rows * n.key_heads * kK, 0, 1, 1);
  const auto k = RandomArray<T>(rows * n.key_heads * kK, 0, 1, 2);
  const auto v = RandomArray<T>(rows * n.value_heads * kV, 0, 1, 3);
  const auto d_o = RandomArray<T>(rows * n.value_heads * kV, 0, 1, 4);
  const auto g = RandomArray<float>(rows * n.value_heads, -0.1f, 0.03f, 5);
  const auto eta = RandomArray<float>(rows * n.value_heads, 0.5f, 0.1f, 6);
  DeviceMemory<T> o(rows * n.value_heads * kV);
  DeviceMemory<float> state(n.batch * n.value_heads * kK * kV);
  const KeyView<T> q_view(q.data(), {n.batch, n.tokens, n.key_heads, kK});
  const KeyView<T> k_view(k.data(), {n.batch, n.tokens, n.key_heads, kK});
  const ValueView<T> v_view(v.data(), {n.batch, n.tokens, n.value_heads, kV});
  const GateView<float> g_view(g.data(), {n.batch, n.tokens, n.value_heads});
  const GateView<float> eta_view(eta.data(), {n.batch, n.tokens, n.value_heads});
  const StateView<float> state_view(state.data(), {n.batch, n.value_heads, kK, kV});
  const std::string shape = std::string("/Cuda/") + (sizeof(T) == 2 ? "bf16" : "f32") + "/K" +
                            std::to_string(kK) + "/V" + std::to_string(kV) +
                            "/heads:" + std::to_string(n.key_heads) + ":" +
                            std::to_string(n.value_heads) + "/tokens:" + std::to_string(n.batch) +
                            "x" + std::to_string(n.tokens);
  const double chunks = static_cast<double>(rows) / 64 * static_cast<double>(n.value_heads);
  if (!backward) {
    const ChunkForwardArgs<T> args{.q = q_view,
                                   .k = k_view,
                                   .v = v_view,
                                   .g = g_view,
                                   .eta = eta_view,
                                   .o = {o.data(), v_view.extents()},
                                   .final_state = state_view};
    const DeviceMemory<unsigned char> workspace(
        static_cast<Index>(ChunkForwardWorkspaceBytes<Cuda, Head>(args)));
    // K K^T, Q K^T, T E, P V' and, of [K, V], K S, Q S and the update.
    const double flops = chunks * 128.0 * (64.0 * 2 * kK + 64.0 * 2 * kV + 3.0 * kK * kV);
    Measure("ChunkForward" + shape, flops, [&](const auto& launcher) {
      internal::device::RunChunkForward<C>(args, launcher, workspace.data(), workspace.Bytes());
    });
  } else {
    DeviceMemory<T> dq(q.size()), dk(k.size()), dv(v.size());
    DeviceMemory<float> dg(g.size()), deta(g.size());
    const ChunkBackwardArgs<T> args{.q = q_view,
                                    .k = k_view,
                                    .v = v_view,
                                    .g = g_view,
                                    .eta = eta_view,
                                    .d_o = {d_o.data(), v_view.extents()},
                                    .dq = {dq.data(), q_view.extents()},
                                    .dk = {dk.data(), k_view.extents()},
                                    .dv = {dv.data(), v_view.extents()},
                                    .dg = {dg.data(), g_view.extents()},
                                    .deta = {deta.data(), g_view.extents()},
                                    .d_initial_state = state_view};
    const DeviceMemory<unsigned char> workspace(
        static_cast<Index>(ChunkBackwardWorkspaceBytes<Cuda, Head>(args)));
    // The forward products without those of O, then P^T dO, T^T dV', Y, dA, X K, X^T Q, M K and
    // M^T K, and of [K, V] K dS, Q^T dO, K^T Z, I_q, F and R.
    const double flops = chunks * 128.0 * (64.0 * 6 * kK + 64.0 * 5 * kV + 8.0 * kK * kV);
    Measure("ChunkBackward" + shape, flops, [&](const auto& launcher) {
      internal::device::RunChunkBackward<C>(args, launcher, workspace.data(), workspace.Bytes());
    });
  }
}

void RunAll(const char* only) {
  const auto wanted = [&](const char* name) { return only == nullptr || !std::strcmp(only, name); };
  if (wanted("128")) {
    Run<Shape<128, 128>, bfloat16>({1, 32768, 16, 64}, false);
    Run<Shape<128, 128>, bfloat16>({1, 32768, 16, 32}, false);
    Run<Shape<128, 128>, bfloat16>({1, 32768, 2, 8}, false);
    Run<Shape<128, 128>, bfloat16>({8, 4096, 16, 16}, false);
    Run<Shape<128, 128>, bfloat16>({1, 32768, 16, 32}, true);
    Run<Shape<128, 128>, bfloat16>({8, 4096, 16, 16}, true);
  }
  if (wanted("96")) {
    Run<Shape<96, 192>, bfloat16>({1, 32768, 12, 12}, false);
    Run<Shape<96, 192>, bfloat16>({8, 4096, 12, 12}, false);
    Run<Shape<96, 192>, bfloat16>({1, 32768, 12, 12}, true);
    Run<Shape<96, 192>, bfloat16>({8, 4096, 12, 12}, true);
  }
  // One sequence of a million tokens, to set beside 32K: the time of a token should not grow.
  if (wanted("1M")) Run<Shape<96, 192>, bfloat16>({1, Index{1} << 20, 12, 12}, false);
}

}  // namespace
}  // namespace kla::bench

int main(int argc, char** argv) {
  return kla::bench::RunProgram([&] { kla::bench::RunAll(argc > 1 ? argv[1] : nullptr); });
}
