// SPDX-License-Identifier: Apache-2.0
// DecodeStep and DecodeState of the backend Cuda on a device: the suites that every backend passes,
// and what only a device has: streams, graphs, lists and states in its memory.
#include <vector>

#include "kla/cuda.cuh"
#include "op/decode_state_suite.h"
#include "op/decode_step_suite.h"
#include "support/device_copy.cuh"

namespace kla::test {

// A backend whose arguments are in device memory, given arrays of the host.
template <class Backend>
struct FromHost {
  static constexpr std::string_view kName = Backend::kName;
  static constexpr std::string_view kInstructionSet = Backend::kInstructionSet;
};

}  // namespace kla::test

namespace kla {

template <class Backend>
inline constexpr bool kTakesDeviceLists<test::FromHost<Backend>> = true;

template <class Backend, HeadShape Shape, class State>
class DecodeState<test::FromHost<Backend>, Shape, State>
    : public DecodeState<Backend, Shape, State> {
 public:
  DecodeState(Index slots, Index value_heads, Index key_dim, Index value_dim)
      : DecodeState<Backend, Shape, State>(slots, value_heads, key_dim, value_dim) {}
};

template <class StepSize, class T, class State, class Backend, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, test::FromHost<Backend>, Shape> {
  template <class Exec>
  static void Run(const DecodeStepArgs<T>& args,
                  DecodeState<test::FromHost<Backend>, Shape, State>& state, const Exec&) {
    const test::DeviceCopy q(args.q), k(args.k);
    const test::DeviceCopy v(args.v);
    const test::DeviceCopy g(args.g), eta(args.eta);
    const test::DeviceCopy o(args.o);
    DecodeStepArgs<T> on_device = args;
    on_device.q = q.view();
    on_device.k = k.view();
    on_device.v = v.view();
    on_device.g = g.view();
    on_device.eta = eta.view();
    on_device.o = o.view();
    DecodeStep<Backend, Shape, StepSize, T, State>(on_device, state, CudaExecutor{});
    o.CopyBack();
  }
};

// The law against the chunk form is tested with the chunk form of Reference.
template <class StepSize, class T, class State, class Backend, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::FromHost<Backend>, Shape>
    : Kernel<ChunkForwardOp<StepSize, T, State>, Reference, Shape> {};

namespace test {
namespace {

using Host = FromHost<Cuda>;
using DeviceConfigs = ::testing::Types<
    Config<Host, float, 128, 128>, Config<Host, bfloat16, 96, 192>,
    Config<Host, float16, 64, 64, kAutoChunk, ShapeKnown::kStatic, float16>,
    Config<Host, bfloat16, 256, 256, kAutoChunk, ShapeKnown::kStatic, bfloat16>,
    Config<Host, float, 20, 12>, Config<Host, float, 400, 8, kAutoChunk, ShapeKnown::kDynamic>,
    Config<FromHost<CudaDeferred<16>>, float, 128, 128>,
    Config<FromHost<CudaDeferred<3>>, bfloat16, 96, 20, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnDevice, DecodeStepTest, DeviceConfigs, ConfigName);

using DeviceStateConfigs = ::testing::Types<
    Config<Host, float, 13, 33, kAutoChunk, ShapeKnown::kDynamic>,
    Config<FromHost<CudaDeferred<3>>, float, 96, 20, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnDevice, DecodeStateTest, DeviceStateConfigs, ConfigName);

using Head = Shape<128, 128>;

// Tensors of a Case in device memory.
struct OnDevice {
  explicit OnDevice(const Case& c, std::uint64_t seed = 5)
      : tensors(c, 128, 128, seed),
        o_host(tensors.v.extents()),
        q(KeyView<const float>(tensors.q.view())),
        k(KeyView<const float>(tensors.k.view())),
        v(ValueView<const float>(tensors.v.view())),
        g(GateView<const float>(tensors.g.view())),
        eta(GateView<const float>(tensors.eta.view())),
        o(o_host.view()),
        states(tensors.initial_state.view()) {}
  DecodeStepArgs<float> Arguments() const {
    return {.q = q.view(),
            .k = k.view(),
            .v = v.view(),
            .g = g.view(),
            .eta = eta.view(),
            .o = o.view()};
  }
  std::vector<double> Output() {
    o.CopyBack();
    return o_host.Values();
  }

  Tensors<float> tensors;
  Array<ValueView<float>> o_host;
  DeviceCopy<KeyView<const float>> q, k;
  DeviceCopy<ValueView<const float>> v;
  DeviceCopy<GateView<const float>> g, eta;
  DeviceCopy<ValueView<float>> o;
  DeviceCopy<StateView<float>> states;
};

std::vector<double> Contents(const DecodeState<Cuda, Head>& pool) {
  Array<StateView<float>> state({pool.slots(), pool.value_heads(), 128, 128});
  pool.Store(state.view());
  return state.Values();
}

TEST(CudaDecodeOnDevice, StatesInDeviceMemory) {
  OnDevice given({.name = "", .batch = 3, .tokens = 1, .key_heads = 2, .value_heads = 2});
  DecodeState<Cuda, Head> from_host(3, 2), from_device(3, 2);
  from_host.Load(given.tensors.initial_state.view());
  from_device.Load(given.states.view());
  EXPECT_EQ(Contents(from_host), Contents(from_device));
  EXPECT_EQ(Contents(from_host), given.tensors.initial_state.Values());
  from_device.Reset();
  from_host.Store(given.states.view());
  from_device.Load(given.states.view());
  EXPECT_EQ(Contents(from_host), Contents(from_device));
}

// A captured call, replayed with other slots each time, equals calls one after the other.
TEST(CudaDecodeOnDevice, GraphReplayWithSlotsInDeviceMemory) {
  OnDevice given({.name = "", .batch = 3, .tokens = 2, .key_heads = 2, .value_heads = 4});
  DecodeState<Cuda, Head> called(5, 4), replayed(5, 4);
  const std::vector<std::vector<std::int32_t>> slots = {{4, 0, 2}, {1, -1, 4}, {3, 2, 0}};
  for (const auto& list : slots) {
    auto args = given.Arguments();
    args.slots = list;
    DecodeStep<Cuda, Head>(args, called);
  }
  const internal::device::DeviceMemory<std::int32_t> list(3);
  cudaStream_t stream;
  internal::device::CheckCuda(cudaStreamCreate(&stream), "cudaStreamCreate");
  auto args = given.Arguments();
  args.slots = IndexList::OnDevice(list.data(), 3);
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  internal::device::CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal),
                              "capture");
  DecodeStep<Cuda, Head>(args, replayed, CudaExecutor{.stream = stream});
  internal::device::CheckCuda(cudaStreamEndCapture(stream, &graph), "capture");
  internal::device::CheckCuda(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  for (const auto& values : slots) {
    internal::device::CopyAndWait(values.data(), list.data(), 3, stream);
    internal::device::CheckCuda(cudaGraphLaunch(ready, stream), "cudaGraphLaunch");
  }
  internal::device::CheckCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  EXPECT_EQ(Contents(called), Contents(replayed));
  EXPECT_GT(Rms(Contents(called)), 0.0);
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

// The same bits on every run: a moving result would be a race.
TEST(CudaDecodeOnDevice, SameBitsOnEveryRun) {
  OnDevice given({.name = "", .batch = 64, .tokens = 3, .key_heads = 8, .value_heads = 16});
  std::vector<double> first;
  for (int run = 0; run < 5; ++run) {
    DecodeState<Cuda, Head> pool(64, 16);
    pool.Load(given.states.view());
    DecodeStep<Cuda, Head>(given.Arguments(), pool);
    DecodeStep<Cuda, Head>(given.Arguments(), pool);
    const auto o = given.Output();
    if (first.empty()) first = o;
    EXPECT_EQ(o, first);
  }
}

TEST(CudaDecodeOnDevice, AFailedLaunchIsAnException) {
  try {
    internal::device::CheckCuda(cudaErrorInvalidConfiguration, "DecodeStep");
    FAIL() << "no exception";
  } catch (const CudaError& error) {
    EXPECT_EQ(error.code(), cudaErrorInvalidConfiguration);
    EXPECT_NE(std::string(error.what()).find("DecodeStep: cudaErrorInvalidConfiguration"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace test
}  // namespace kla
