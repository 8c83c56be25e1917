// SPDX-License-Identifier: Apache-2.0
// KlaLayer of the backend Cuda on a device, with its products and chunk kernels.
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kla/cuda.cuh"
#include "layer/device/kla_layer_suite.h"
#include "support/graph_replay.cuh"

namespace kla::test {
namespace {

// A copy in device memory.
template <class T>
struct DeviceArray {
  explicit DeviceArray(const std::vector<T>& values) : memory(static_cast<Index>(values.size())) {
    internal::device::CopyAndWait(values.data(), memory.data(), memory.size(), nullptr);
  }
  DeviceArray() = default;
  T* data() const { return memory.data(); }
  internal::device::DeviceMemory<T> memory;
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
    internal::device::CopyAndWait(data, values.data(), count, nullptr);
    return values;
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnDevice, DeviceLayerTest, OnDevice);

// The same bits, and not all of them zero.
template <class T>
void ExpectSame(const std::vector<T>& actual, const std::vector<T>& expected) {
  double sum = 0;
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(static_cast<float>(actual[i]), static_cast<float>(expected[i])) << i;
    sum += std::abs(static_cast<double>(static_cast<float>(actual[i])));
  }
  EXPECT_GT(sum, 0.0);
}

std::vector<bfloat16> RandomValues(Index count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<bfloat16> values(static_cast<std::size_t>(count));
  for (bfloat16& value : values) value = bfloat16(normal(random));
  return values;
}

// The paper's layer: a captured Step, replayed, is the Step; and the work of another stream.
TEST(CudaLayerTest, StepsAreCapturedAndReplayed) {
  using Layer = KlaLayer<Cuda, Shape<96, 192>, Kla, bfloat16>;
  Layer layer({.model_dim = 1536, .num_heads = 12});
  std::mt19937_64 random(1);
  layer.Initialize(random);
  const auto values = RandomValues(4 * 1536, random);
  const auto x = OnDevice::Copy(values);
  const auto y = OnDevice::Copy(values), expected = OnDevice::Copy(values);
  const ModelView<const bfloat16> rows(x.data(), {4, 1, 1536});
  constexpr int kTokens = 5;

  auto direct = layer.MakeState(4), replayed = layer.MakeState(4);
  for (int t = 0; t < kTokens; ++t) {
    layer.Step(rows, direct, ModelView<bfloat16>(expected.data(), {4, 1, 1536}));
  }
  Replay(
      [&](cudaStream_t stream) {
        layer.Step(rows, replayed, ModelView<bfloat16>(y.data(), {4, 1, 1536}), {},
                   {.stream = stream});
      },
      kTokens);
  ExpectSame(OnDevice::Values<bfloat16>(y.data(), 4 * 1536),
             OnDevice::Values<bfloat16>(expected.data(), 4 * 1536));
}

// A step of training likewise, packed sequences included.
TEST(CudaLayerTest, TrainingIsCapturedAndReplayed) {
  using Layer = KlaLayer<Cuda, Shape<16, 32>, Kla, bfloat16>;
  constexpr Index kModel = 64, kTokens = 300;
  Layer layer({.model_dim = kModel, .num_heads = 2, .num_value_heads = 4});
  std::mt19937_64 random(2);
  layer.Initialize(random);
  const auto x = OnDevice::Copy(RandomValues(kTokens * kModel, random));
  const auto dy = OnDevice::Copy(RandomValues(kTokens * kModel, random));
  const std::array<Index, 3> extents = {1, kTokens, kModel};
  const std::vector<std::int32_t> offsets = {0, 100, 100, 257, kTokens};
  const Layer::Options options = {.cu_seqlens = offsets};

  const auto train = [&](Layer::Workspace& workspace, Layer::Gradients& gradients,
                         cudaStream_t stream) {
    layer.Forward({x.data(), extents}, workspace, options, {.stream = stream});
    return layer.Backward({dy.data(), extents}, workspace, gradients, GradientMode::kOverwrite,
                          {.stream = stream});
  };
  auto workspace = layer.MakeWorkspace(1, kTokens, options);
  auto gradients = layer.MakeGradients(), replayed = layer.MakeGradients();
  const auto values = [&](const ModelView<const bfloat16>& dx) {
    return OnDevice::Values<bfloat16>(dx.data(), kTokens * kModel);
  };
  const auto parameters = [&](const Layer::Gradients& from) {
    KlaParameters<float> host(layer.sizes());
    from.Store(host);
    return std::vector<float>(host.values().begin(), host.values().end());
  };
  const auto expected = values(train(workspace, gradients, nullptr));
  ModelView<const bfloat16> dx;
  Replay([&](cudaStream_t stream) { dx = train(workspace, replayed, stream); }, 2);
  ExpectSame(values(dx), expected);
  ExpectSame(parameters(replayed), parameters(gradients));
}

}  // namespace
}  // namespace kla::test
