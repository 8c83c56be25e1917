// SPDX-License-Identifier: Apache-2.0
// Decoding on a device: DecodeStep with immediate and deferred writes, and LayerStep, beside the
// bandwidth of a copy measured in the same run. Names are paths, as in the other benchmarks:
//   DecodeStep/Cuda/bf16/f32state/K128/V128/heads:16/batch:256
// `cold`: the L2 cache holds nothing of the data; `replay`: one call of a replayed graph of 50,
// data in L2 where it fits. `bytes` counts the fewest that a call must move.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda_timing.cuh"
#include "kla/cuda.cuh"

namespace kla::bench {
namespace {

double copy_bandwidth = 0;

void Print(const std::string& name, const char* how, double us, double bytes) {
  const double rate = bytes / (1e-6 * us);
  std::printf("%-66s %-6s %9.2f us %8.0f GB/s %5.1f %% of copy\n", name.c_str(), how, us,
              1e-9 * rate, 100 * rate / copy_bandwidth);
  std::fflush(stdout);
}

template <class T>
const char* NameOf() {
  return std::is_same_v<T, float> ? "f32" : std::is_same_v<T, bfloat16> ? "bf16" : "f16";
}

// Arguments of DecodeStep and a pool, in device memory.
template <class Backend, class Head, class T, class State>
struct DecodeProblem {
  static constexpr Index kK = Head::kKeyDim, kV = Head::kValueDim;

  DecodeProblem(Index batch_size, Index token_count, Index head_count)
      : batch(batch_size),
        tokens(token_count),
        heads(head_count),
        q(RandomArray<T>(batch * tokens * heads * kK, 0, 1, 1)),
        k(RandomArray<T>(batch * tokens * heads * kK, 0, 1, 2)),
        v(RandomArray<T>(batch * tokens * heads * kV, 0, 1, 3)),
        g(RandomArray<float>(batch * tokens * heads, -0.1f, 0.03f, 4)),
        eta(RandomArray<float>(batch * tokens * heads, 0.5f, 0.1f, 5)),
        o(batch * tokens * heads * kV),
        pool(batch, heads) {
    const auto states = RandomArray<State>(batch * heads * kK * kV, 0, 0.3f, 6);
    pool.Load(TransposedStateView<State>(states.data(), {batch, heads, kV, kK}));
    CheckCuda(cudaDeviceSynchronize(), "filling the pool");
  }

  DecodeStepArgs<T> Arguments() const {
    return {.q = {q.data(), {batch, tokens, heads, kK}},
            .k = {k.data(), {batch, tokens, heads, kK}},
            .v = {v.data(), {batch, tokens, heads, kV}},
            .g = {g.data(), {batch, tokens, heads}},
            .eta = {eta.data(), {batch, tokens, heads}},
            .o = {o.data(), {batch, tokens, heads, kV}}};
  }
  double StateBytes() const { return double(batch * heads * kK * kV) * sizeof(State); }
  double Bytes() const {
    return 2 * StateBytes() + double(batch * tokens * heads) * (2 * kK + 2 * kV) * sizeof(T);
  }
  std::string Name(const std::string& operation) const {
    return operation + "/" + std::string(Backend::kName) + "/" + NameOf<T>() + "/" +
           NameOf<State>() + "state/K" + std::to_string(kK) + "/V" + std::to_string(kV) +
           "/heads:" + std::to_string(heads) + "/batch:" + std::to_string(batch) +
           (tokens > 1 ? "/tokens:" + std::to_string(tokens) : "");
  }

  Index batch, tokens, heads;
  DeviceMemory<T> q, k, v;
  DeviceMemory<float> g, eta;
  DeviceMemory<T> o;
  DecodeState<Backend, Head, State> pool;
};

template <class Backend, class Head, class T, class State, class StepSize = Kla>
void BenchDecode(const Timer& timer, Index batch, Index heads, Index tokens = 1) {
  DecodeProblem<Backend, Head, T, State> problem(batch, tokens, heads);
  const auto queue = [&](cudaStream_t stream) {
    DecodeStep<Backend, Head, StepSize>(problem.Arguments(), problem.pool,
                                        CudaExecutor{.stream = stream});
  };
  const std::string name = problem.Name(std::is_same_v<StepSize, Kla>
                                            ? "DecodeStep"
                                            : "DecodeStep<" + std::string(StepSize::kName) + ">");
  // Deferred writes are paid every few tokens: the mean over a graph, not one call.
  if constexpr (std::is_same_v<Backend, Cuda>) {
    Print(name, "cold", timer.Cold(queue), problem.Bytes());
  }
  Print(name, "replay", timer.Replayed(queue, 48), problem.Bytes());
}

// The same kernel with tiles of a given width (backend/cuda/decode/launch.h picks one).
template <class Head, int kColumns>
void BenchTileWidth(const Timer& timer, Index batch, Index heads) {
  using T = bfloat16;
  DecodeProblem<Cuda, Head, T, float> problem(batch, 1, heads);
  const auto args = problem.Arguments();
  const auto inputs = internal::device::InputsOf(args, MakeProblem(args));
  using Body = internal::device::DecodeBody<Kla, Head::kKeyDim, kColumns, false,
                                            internal::device::UniformSequences, T, float>;
  const Body body{inputs, problem.pool.view(),
                  internal::device::UniformSequences{.first = 0, .tokens = 1}};
  const Index splits = (Head::kValueDim + Body::kBlockColumns - 1) / Body::kBlockColumns;
  const auto queue = [&](cudaStream_t stream) {
    internal::device::DeviceLauncher(stream).Launch("DecodeStep", body, batch * heads * splits);
  };
  const std::string name = problem.Name("TileWidth:" + std::to_string(kColumns));
  Print(name, "cold", timer.Cold(queue), problem.Bytes());
  if (batch < 16) Print(name, "replay", timer.Replayed(queue), problem.Bytes());
}

template <class Head, class T>
void BenchLayerStep(const Timer& timer, Index batch, Index heads) {
  const Index channels = heads * (2 * Head::kKeyDim + Head::kValueDim);
  const Index values = heads * Head::kValueDim, width = channels + values + 2 * heads;
  const auto projected = RandomArray<T>(batch * width, 0, 1, 1);
  const DeviceMemory<T> o(batch * values);
  const auto conv = RandomArray<float>(4 * channels, 0, 0.5f, 2);
  const auto small = RandomArray<float>(3 * heads, 0, 1, 3);
  const auto norm = RandomArray<float>(Head::kValueDim, 1, 0.1f, 4);
  LayerState<Cuda, Head, T> state(batch, heads, heads);
  const auto queue = [&](cudaStream_t stream) {
    LayerStep<Cuda, Head>(
        LayerStepArgs<T>{.projected = RowView<const T>(projected.data(), {batch, width}),
                         .o = RowView<T>(o.data(), {batch, values}),
                         .conv = conv.data(),
                         .a_log = small.data(),
                         .dt_bias = small.data() + heads,
                         .step_bias = small.data() + 2 * heads,
                         .norm = norm.data()},
        state, CudaExecutor{.stream = stream});
  };
  const double bytes = 8.0 * double(batch * values * Head::kKeyDim) +
                       double(batch) * sizeof(T) * double(5 * channels + 2 * values + 2 * heads);
  const std::string name = std::string("LayerStep/Cuda/") + NameOf<T>() + "/f32state/K" +
                           std::to_string(Head::kKeyDim) + "/V" + std::to_string(Head::kValueDim) +
                           "/heads:" + std::to_string(heads) + "/batch:" + std::to_string(batch);
  Print(name, "cold", timer.Cold(queue), bytes);
  Print(name, "replay", timer.Replayed(queue), bytes);
}

// With --tile-widths, also every width of the tile; with --quick, only what has a target; with
// --profile, nothing but one call of DecodeStep, for a profiler.
void Main(int argc, char** argv) {
  bool widths = false, quick = false, profile = false;
  for (int i = 1; i < argc; ++i) {
    widths = widths || std::strcmp(argv[i], "--tile-widths") == 0;
    quick = quick || std::strcmp(argv[i], "--quick") == 0;
    profile = profile || std::strcmp(argv[i], "--profile") == 0;
  }
  if (profile) {
    DecodeProblem<Cuda, Shape<128, 128>, bfloat16, float> problem(256, 1, 16);
    DecodeStep<Cuda, Shape<128, 128>>(problem.Arguments(), problem.pool);
    CheckCuda(cudaDeviceSynchronize(), "DecodeStep");
    return;
  }
  cudaDeviceProp device{};
  CheckCuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::printf("%s, compute capability %d.%d, %d multiprocessors, %d MiB of L2\n", device.name,
              device.major, device.minor, device.multiProcessorCount, device.l2CacheSize >> 20);
  const Timer timer;
  copy_bandwidth = CopyBandwidth(timer);
  std::printf("%-66s %-6s %12s %8.0f GB/s\n", "Ceiling/Copy/1GiB", "cold", "",
              1e-9 * copy_bandwidth);
  std::printf("%-66s %-6s %12s %8.0f GB/s\n", "Ceiling/InPlaceScale/f32/268MB", "cold", "",
              1e-9 * InPlaceBandwidth(timer));
#if defined(KLA_BENCH_CUBLAS)
  std::printf("%-66s %-6s %12s %8.0f TFLOP/s\n", "Ceiling/Matrix/bf16/8192", "cold", "",
              1e-12 * MatrixRate(timer));
#else
  std::printf("%-66s skipped: built without cuBLAS\n", "Ceiling/Matrix/bf16/8192");
#endif

  using bf16 = bfloat16;
  using Square = Shape<128, 128>;
  using Paper = Shape<96, 192>;
  BenchDecode<Cuda, Square, bf16, float>(timer, 1, 16);
  BenchDecode<Cuda, Square, bf16, float>(timer, 256, 16);
  BenchDecode<Cuda, Paper, bf16, float>(timer, 1, 12);
  BenchDecode<Cuda, Paper, bf16, float>(timer, 256, 12);
  BenchLayerStep<Paper, bf16>(timer, 1, 12);
  BenchLayerStep<Paper, bf16>(timer, 256, 12);
  if (!quick) {
    BenchDecode<Cuda, Square, bf16, float>(timer, 8, 16);
    BenchDecode<Cuda, Square, bf16, float>(timer, 32, 16);
    BenchDecode<Cuda, Square, bf16, float>(timer, 256, 16, 4);
    BenchDecode<Cuda, Square, bf16, float>(timer, 256, 16, 16);
    BenchDecode<Cuda, Square, bf16, bf16>(timer, 256, 16);
    BenchDecode<Cuda, Square, bf16, float, Gdn>(timer, 256, 16);
    BenchDecode<Cuda, Shape<64, 64>, bf16, float>(timer, 256, 16);
    BenchDecode<Cuda, Shape<256, 256>, bf16, float>(timer, 64, 16);
    BenchDecode<CudaDeferred<8>, Square, bf16, float>(timer, 256, 16);
    BenchDecode<CudaDeferred<16>, Square, bf16, float>(timer, 256, 16);
  }
  if (widths) {
    for (const Index batch : {Index{1}, Index{8}, Index{256}}) {
      BenchTileWidth<Square, 1>(timer, batch, 16);
      BenchTileWidth<Square, 2>(timer, batch, 16);
      BenchTileWidth<Square, 4>(timer, batch, 16);
      BenchTileWidth<Paper, 1>(timer, batch, 12);
      BenchTileWidth<Paper, 2>(timer, batch, 12);
      BenchTileWidth<Paper, 4>(timer, batch, 12);
    }
  }
}

}  // namespace
}  // namespace kla::bench

int main(int argc, char** argv) {
  return kla::bench::RunProgram([&] { kla::bench::Main(argc, argv); });
}
