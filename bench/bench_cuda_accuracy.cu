// SPDX-License-Identifier: Apache-2.0
// ChunkForward and ChunkBackward on inputs from files, results to files, for compare_fla.py, which
// compares them with float64:
//   bench_cuda_accuracy FOLDER <128 or 96> <Kla or Gdn> BATCH TOKENS HEADS
// Reads q, k, v, d_o (bfloat16) and g, beta (float32); writes o, dq, dk, dv (bfloat16) and S, dg,
// dbeta (float32). Raw, contiguous, [B, T, heads, ...].
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_timing.cuh"
#include "kla/backend/cuda/chunk.cuh"
#include "kla/backend/cuda/runtime/device_memory.cuh"

namespace kla::bench {
namespace {

using internal::device::DeviceMemory;

template <class T>
DeviceMemory<T> Read(const std::string& path, Index count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(T));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(values.data()), bytes)) {
    throw std::runtime_error("cannot read " + path);
  }
  DeviceMemory<T> memory(count);
  internal::device::CopyAndWait(values.data(), memory.data(), count, nullptr);
  return memory;
}

template <class T>
void Write(const std::string& path, const DeviceMemory<T>& memory) {
  std::vector<T> values(static_cast<std::size_t>(memory.size()));
  internal::device::CopyAndWait(memory.data(), values.data(), memory.size(), nullptr);
  std::ofstream file(path, std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(memory.Bytes());
  if (!file.write(reinterpret_cast<const char*>(values.data()), bytes)) {
    throw std::runtime_error("cannot write " + path);
  }
}

template <class Head, class StepSize>
void Run(const std::string& folder, Index batch, Index tokens, Index heads) {
  using T = bfloat16;
  constexpr Index kK = Head::kKeyDim, kV = Head::kValueDim;
  const Index rows = batch * tokens * heads;
  const auto q = Read<T>(folder + "/q", rows * kK), k = Read<T>(folder + "/k", rows * kK);
  const auto v = Read<T>(folder + "/v", rows * kV), d_o = Read<T>(folder + "/d_o", rows * kV);
  const auto g = Read<float>(folder + "/g", rows), eta = Read<float>(folder + "/beta", rows);
  const DeviceMemory<T> o(rows * kV), dq(rows * kK), dk(rows * kK), dv(rows * kV);
  const DeviceMemory<float> dg(rows), deta(rows), state(batch * heads * kK * kV);
  const KeyView<const T>::Sizes keys = {batch, tokens, heads, kK};
  const ValueView<const T>::Sizes values = {batch, tokens, heads, kV};
  const GateView<const float>::Sizes gates = {batch, tokens, heads};
  const auto with_workspace = [](std::size_t bytes, const auto& run) {
    const DeviceMemory<unsigned char> workspace(static_cast<Index>(bytes));
    run(CudaExecutor{.workspace = workspace.data(), .workspace_bytes = bytes});
    internal::device::CheckCuda(cudaDeviceSynchronize(), "bench_cuda_accuracy");
  };

  const ChunkForwardArgs<T> forward{
      .q = {q.data(), keys},
      .k = {k.data(), keys},
      .v = {v.data(), values},
      .g = {g.data(), gates},
      .eta = {eta.data(), gates},
      .o = {o.data(), values},
      .final_state = StateView<float>(state.data(), {batch, heads, kK, kV})};
  with_workspace(ChunkForwardWorkspaceBytes<Cuda, Head, StepSize>(forward),
                 [&](const auto& on) { ChunkForward<Cuda, Head, StepSize>(forward, on); });
  const ChunkBackwardArgs<T> backward{.q = forward.q,
                                      .k = forward.k,
                                      .v = forward.v,
                                      .g = forward.g,
                                      .eta = forward.eta,
                                      .d_o = {d_o.data(), values},
                                      .dq = {dq.data(), keys},
                                      .dk = {dk.data(), keys},
                                      .dv = {dv.data(), values},
                                      .dg = {dg.data(), gates},
                                      .deta = {deta.data(), gates}};
  with_workspace(ChunkBackwardWorkspaceBytes<Cuda, Head, StepSize>(backward),
                 [&](const auto& on) { ChunkBackward<Cuda, Head, StepSize>(backward, on); });
  Write(folder + "/o", o);
  Write(folder + "/S", state);
  Write(folder + "/dq", dq);
  Write(folder + "/dk", dk);
  Write(folder + "/dv", dv);
  Write(folder + "/dg", dg);
  Write(folder + "/dbeta", deta);
}

template <class Head>
void RunStepSize(const std::string& name, const std::string& folder, Index batch, Index tokens,
                 Index heads) {
  if (name == "Gdn") return Run<Head, Gdn>(folder, batch, tokens, heads);
  if (name == "Kla") return Run<Head, Kla>(folder, batch, tokens, heads);
  throw std::runtime_error("the step size is Kla or Gdn");
}

void Main(int argc, char** argv) {
  if (argc != 7) throw std::runtime_error("six arguments are needed: see the head of the source");
  const std::string folder = argv[1], key_dim = argv[2], step_size = argv[3];
  const Index batch = std::stol(argv[4]), tokens = std::stol(argv[5]), heads = std::stol(argv[6]);
  if (key_dim == "128") {
    RunStepSize<Shape<128, 128>>(step_size, folder, batch, tokens, heads);
  } else if (key_dim == "96") {
    RunStepSize<Shape<96, 192>>(step_size, folder, batch, tokens, heads);
  } else {
    throw std::runtime_error("the key dimension is 128 (V = 128) or 96 (V = 192)");
  }
}

}  // namespace
}  // namespace kla::bench

int main(int argc, char** argv) {
  return kla::bench::RunProgram([&] { kla::bench::Main(argc, argv); });
}
