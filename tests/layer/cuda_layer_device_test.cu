// SPDX-License-Identifier: Apache-2.0
// KlaLayer of the backend Cuda on a device, with its products and chunk kernels.
#include <stdexcept>
#include <vector>

#include "kla/layer/cuda_layer.cuh"
#include "layer/device_layer_suite.h"

namespace kla::test {
namespace {

// A copy in device memory.
template <class T>
struct DeviceArray {
  explicit DeviceArray(const std::vector<T>& values) : memory(static_cast<Index>(values.size())) {
    device::CopyAndWait(values.data(), memory.data(), memory.size(), nullptr);
  }
  DeviceArray() = default;
  T* data() const { return memory.data(); }
  device::DeviceMemory<T> memory;
};

struct OnDevice {
  template <class Shape, class StepSize, class T, class State>
  using Layer = KlaLayer<Cuda, Shape, StepSize, T, State>;
  template <class T>
  static DeviceArray<T> Copy(const std::vector<T>& values) {
    return DeviceArray<T>(values);
  }
  template <class T>
  static std::vector<T> Values(const T* data, Index count) {
    std::vector<T> values(static_cast<std::size_t>(count), T(0.0f));
    device::CopyAndWait(data, values.data(), count, nullptr);
    return values;
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnDevice, DeviceLayerTest, OnDevice);

// The paper's layer: a captured Step, replayed, is the Step; and the work of another stream.
TEST(CudaLayerTest, StepsAreCapturedAndReplayed) {
  using Layer = KlaLayer<Cuda, Shape<96, 192>, Kla, bfloat16>;
  Layer layer({.model_dim = 1536, .num_heads = 12});
  std::mt19937_64 random(1);
  layer.Initialize(random);
  std::normal_distribution<float> normal;
  std::vector<bfloat16> values(4 * 1536);
  for (bfloat16& value : values) value = bfloat16(normal(random));
  const auto x = OnDevice::Copy(values);
  const auto y = OnDevice::Copy(values), expected = OnDevice::Copy(values);
  const ModelView<const bfloat16> rows(x.data(), {4, 1, 1536});
  constexpr int kTokens = 5;

  auto direct = layer.MakeState(4), replayed = layer.MakeState(4);
  for (int t = 0; t < kTokens; ++t) {
    layer.Step(rows, direct, ModelView<bfloat16>(expected.data(), {4, 1, 1536}));
  }
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t token;
  const auto check = [](cudaError_t status) { device::CheckCuda(status, "test"); };
  check(cudaDeviceSynchronize());
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  layer.Step(rows, replayed, ModelView<bfloat16>(y.data(), {4, 1, 1536}), {}, {.stream = stream});
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&token, graph, 0));
  for (int t = 0; t < kTokens; ++t) check(cudaGraphLaunch(token, stream));
  check(cudaStreamSynchronize(stream));
  const auto got = OnDevice::Values<bfloat16>(y.data(), 4 * 1536);
  const auto want = OnDevice::Values<bfloat16>(expected.data(), 4 * 1536);
  double sum = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].bits, want[i].bits) << i;
    sum += static_cast<double>(static_cast<float>(got[i])) * static_cast<float>(got[i]);
  }
  EXPECT_GT(sum, 0.0);
  check(cudaGraphExecDestroy(token));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace kla::test
