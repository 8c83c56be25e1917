// SPDX-License-Identifier: Apache-2.0
// KlaLayer of the backend Cuda on this processor: the same host code and kernel bodies, with plain
// loops for cuBLAS and Reference for the chunk kernels, which have suites of their own.
#include "kla/layer/device_layer.h"

#include "backend/cuda_decode_on_host.h"
#include "kla/backend/reference/reference.h"
#include "layer/device_layer_suite.h"

namespace kla::test {
namespace {

struct PlainProducts {
  template <class A, class C, class Memory>
  void Multiply(const A& a, const A& b, const C& c, const Memory& memory,
                const Serial& /*executor*/) const {
    ASSERT_NE(memory.data(), nullptr);
    for (Index i = 0; i < c.rows; ++i) {
      for (Index j = 0; j < c.columns; ++j) {
        float sum = 0;
        for (Index d = 0; d < a.columns; ++d) {
          sum += static_cast<float>(a.data[i * a.stride + d]) *
                 static_cast<float>(b.data[j * b.stride + d]);
        }
        c.data[i * c.stride + j] = static_cast<std::remove_pointer_t<decltype(c.data)>>(sum);
      }
    }
  }
};

struct LayerHostPlatform : HostPlatform {
  using Products = PlainProducts;

  static auto MakeLauncher(const Executor&) { return device::HostLauncher(executor); }
  template <class T>
  static void Zero(T* data, Index count, const Executor&) {
    std::fill_n(data, count, T(0.0f));
  }
  template <class Shape, class StepSize, class T, class State>
  static std::size_t ChunkForwardBytes(const ChunkForwardArgs<T, State>&) {
    return 1;
  }
  template <class Shape, class StepSize, class T, class State>
  static void RunChunkForward(const ChunkForwardArgs<T, State>& args, void* memory,
                              std::size_t bytes, const Executor&) {
    ASSERT_TRUE(memory != nullptr && bytes == 1);
    ChunkForward<Reference, Shape, StepSize>(args);
  }

 private:
  static constexpr Serial executor = {};
};

struct OnHost {
  template <class Shape, class StepSize, class T, class State>
  using Layer = device::DeviceLayer<LayerHostPlatform, Shape, StepSize, T, State>;
  template <class T>
  static std::vector<T> Copy(const std::vector<T>& values) {
    return values;
  }
  template <class T>
  static std::vector<T> Values(const T* data, Index count) {
    return std::vector<T>(data, data + count);
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DeviceLayerTest, OnHost);

}  // namespace
}  // namespace kla::test
