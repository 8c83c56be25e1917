// SPDX-License-Identifier: Apache-2.0
// KlaLayer of the backend Cuda on this processor: the same host code and kernel bodies, with plain
// loops for cuBLAS and Reference for the chunk kernels, which have suites of their own.
#include "kla/layer/device_layer.h"

#include "backend/cuda_decode_on_host.h"
#include "kla/backend/cuda/row_product.h"
#include "kla/backend/reference/reference.h"
#include "layer/device_layer_suite.h"
#include "support/array.h"

namespace kla::test {
namespace {

struct PlainProducts {
  template <class A, class C, class Memory>
  bool Multiply(const A& a, const A& b, const C& c, const Memory& memory, const Serial& executor,
                bool /*overlaps*/ = false) const {
    EXPECT_NE(memory.data(), nullptr);
    if (device::MultiplyRow(a, b, c, device::HostLauncher(executor, /*multiprocessors=*/2)))
      return true;
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
    return false;
  }
};

struct LayerHostPlatform : HostPlatform {
  using Products = PlainProducts;

  // Here, kernels run one after the other whatever is asked for.
  struct Overlapping : device::HostLauncher<Serial> {
    using device::HostLauncher<Serial>::HostLauncher;
    static constexpr bool kOverlaps = true;
  };
  static auto MakeOverlappingLauncher(const Executor&) { return Overlapping(executor); }

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

// Depths that are and are not whole rounds of all lanes; one warp a column, and several.
template <class T>
void ExpectRowProduct(Index columns, Index depth, int multiprocessors) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const Index stride = depth + 16;
  Array<RowView<T>> a({1, depth}), b({columns, stride}), c({1, columns});
  a.Fill([&] { return normal(random); });
  b.Fill([&] { return normal(random); });
  using internal::MatrixRef;
  ASSERT_TRUE(device::MultiplyRow(MatrixRef<const T>{a.view().data(), 1, depth, depth},
                                  MatrixRef<const T>{b.view().data(), columns, depth, stride},
                                  MatrixRef<T>{c.view().data(), 1, columns, columns},
                                  device::HostLauncher(Serial{}, multiprocessors)));
  std::vector<double> expected;
  for (Index j = 0; j < columns; ++j) {
    expected.push_back(0);
    for (Index d = 0; d < depth; ++d) {
      expected.back() += static_cast<double>(static_cast<float>(a.view()(0, d))) *
                         static_cast<double>(static_cast<float>(b.view()(j, d)));
    }
  }
  EXPECT_TRUE(c.PaddingIsIntact());
  ExpectClose("c", c.Values(), expected,
              kRoundoff<float> * std::sqrt(static_cast<double>(depth)) * Rms(expected),
              kRoundoff<T>);
}

TEST(RowProductTest, MatchesItsSum) {
  for (const int multiprocessors : {0, 132}) {
    ExpectRowProduct<float>(13, 128 * 4, multiprocessors);
    ExpectRowProduct<float>(8, 1000, multiprocessors);
    ExpectRowProduct<bfloat16>(9, 2304, multiprocessors);
    ExpectRowProduct<bfloat16>(1, 7000, multiprocessors);
    ExpectRowProduct<float16>(3, 8, multiprocessors);
  }
}

}  // namespace
}  // namespace kla::test
