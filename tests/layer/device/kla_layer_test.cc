// SPDX-License-Identifier: Apache-2.0
// KlaLayer of the backend Cuda on this processor: the same host code and kernel bodies, with plain
// loops for cuBLAS.
#include "kla/layer/device/kla_layer.h"

#include <utility>
#include <vector>

#include "backend/cuda/decode_on_host.h"
#include "backend/cuda/on_host.h"
#include "kla/backend/cuda/layer/row_product.h"
#include "kla/backend/reference/reference.h"
#include "kla/layer.h"
#include "layer/device/kla_layer_suite.h"
#include "support/array.h"

namespace kla::test {
namespace {

// ChunkForward and ChunkBackward of Cuda in the memory that the layer gives them.
struct ChunksOfLayer {
  static constexpr std::string_view kName = "ChunksOfLayer";
  using Launcher = BlocksOnHost<Serial, internal::device::kSharedOf90>;
  template <class StepSize, class T, class State, class Shape>
  using Config = internal::device::ChunkConfig<StepSize, T, State, Shape,
                                               std::is_same_v<T, float> ? 2 : 1>;  // as Cuda

  struct Executor : Serial {
    void* memory;
    std::size_t bytes;
  };
  static constexpr Serial kSerial = {};
  static Launcher MakeLauncher() { return {kSerial, /*segments=*/1, {}}; }
};

}  // namespace
}  // namespace kla::test

namespace kla {

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::ChunksOfLayer, Shape> {
  static void Run(const ChunkForwardArgs<T, State>& args,
                  const test::ChunksOfLayer::Executor& executor) {
    internal::device::RunChunkForward<test::ChunksOfLayer::Config<StepSize, T, State, Shape>>(
        args, test::ChunksOfLayer::MakeLauncher(), executor.memory, executor.bytes);
  }
};

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, test::ChunksOfLayer, Shape> {
  static void Run(const ChunkBackwardArgs<T, State>& args,
                  const test::ChunksOfLayer::Executor& executor) {
    internal::device::RunChunkBackward<test::ChunksOfLayer::Config<StepSize, T, State, Shape>>(
        args, test::ChunksOfLayer::MakeLauncher(), executor.memory, executor.bytes);
  }
};

}  // namespace kla

namespace kla::test {
namespace {

struct PlainProducts {
  template <class A, class C, class Memory>
  bool Multiply(const A& a, const A& b, const C& c, const Memory& memory, const Serial& executor,
                bool /*overlaps*/ = false) const {
    EXPECT_NE(memory.data(), nullptr);
    if (internal::device::MultiplyRow(
            a, b, c, internal::device::HostLauncher(executor, /*multiprocessors=*/2)))
      return true;
    Fill(c, a.columns, false, [&](Index i, Index j, Index d) { return Product(a, i, d, b, j, d); });
    return false;
  }
  template <class A, class C, class Memory>
  void MultiplyAsIs(const A& a, const A& b, const C& c, const Memory& memory, const Serial&) const {
    EXPECT_NE(memory.data(), nullptr);
    Fill(c, a.columns, false, [&](Index i, Index j, Index d) { return Product(a, i, d, b, d, j); });
  }
  template <class A, class C, class Memory>
  void MultiplyTransposed(const A& a, const A& b, const C& c, bool accumulate, const Memory& memory,
                          const Serial&) const {
    EXPECT_NE(memory.data(), nullptr);
    Fill(c, a.rows, accumulate,
         [&](Index i, Index j, Index d) { return Product(a, d, i, b, d, j); });
  }

 private:
  template <class A>
  static float Product(const A& a, Index i, Index j, const A& b, Index k, Index l) {
    return static_cast<float>(a.data[i * a.stride + j]) *
           static_cast<float>(b.data[k * b.stride + l]);
  }
  template <class C, class F>
  static void Fill(const C& c, Index depth, bool accumulate, const F& product) {
    for (Index i = 0; i < c.rows; ++i) {
      for (Index j = 0; j < c.columns; ++j) {
        auto& to = c.data[i * c.stride + j];
        float sum = accumulate ? static_cast<float>(to) : 0.0f;
        for (Index d = 0; d < depth; ++d) sum += product(i, j, d);
        to = static_cast<std::remove_reference_t<decltype(to)>>(sum);
      }
    }
  }
};

struct LayerHostPlatform : HostPlatform {
  using Products = PlainProducts;
  template <HeadShape Shape, class T, class State>
  using LayerState = internal::device::PooledLayerState<HostPlatform, Shape, T, State>;

  // Here, kernels run one after the other whatever is asked for.
  struct Overlapping : internal::device::HostLauncher<Serial> {
    using internal::device::HostLauncher<Serial>::HostLauncher;
    static constexpr bool kOverlaps = true;
  };
  static auto MakeOverlappingLauncher(const Executor&) { return Overlapping(executor); }

  static auto MakeLauncher(const Executor&) { return internal::device::HostLauncher(executor); }
  template <class T>
  static void Zero(T* data, Index count, const Executor&) {
    std::fill_n(data, count, T(0.0f));
  }
  template <class Shape, class StepSize, class T, class State>
  static std::size_t ChunkForwardBytes(const ChunkForwardArgs<T, State>& args) {
    using Config = ChunksOfLayer::Config<StepSize, T, State, Shape>;
    return internal::device::ForwardBytes<Config>(args, ChunksOfLayer::MakeLauncher().card());
  }
  template <class Shape, class StepSize, class T, class State>
  static void RunChunkForward(const ChunkForwardArgs<T, State>& args, void* memory,
                              std::size_t bytes, const Executor&) {
    ChunkForward<ChunksOfLayer, Shape, StepSize>(args, ChunksOfLayer::Executor{{}, memory, bytes});
  }
  template <class Shape, class StepSize, class T, class State>
  static std::size_t ChunkBackwardBytes(const ChunkBackwardArgs<T, State>& args) {
    using Config = ChunksOfLayer::Config<StepSize, T, State, Shape>;
    return internal::device::BackwardBytes<Config, ChunksOfLayer::Launcher::Limits>(
        args, ChunksOfLayer::MakeLauncher().card());
  }
  template <class Shape, class StepSize, class T, class State>
  static void RunChunkBackward(const ChunkBackwardArgs<T, State>& args, void* memory,
                               std::size_t bytes, const Executor&) {
    ChunkBackward<ChunksOfLayer, Shape, StepSize>(args, ChunksOfLayer::Executor{{}, memory, bytes});
  }

 private:
  static constexpr Serial executor = {};
};

struct OnHost {
  template <class Shape, class StepSize, class T, class State>
  using Layer = internal::device::DeviceLayer<LayerHostPlatform, Shape, StepSize, T, State>;
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

class DeviceLayerOnHostTest : public DeviceLayerTest<OnHost> {};

TEST_F(DeviceLayerOnHostTest, EveryStepSizeAndTypeHasGradients) {
  using Head = Shape<16, 16>;
  const KlaLayerConfig config = {.model_dim = 24, .num_heads = 1, .num_value_heads = 2};
  ExpectBackward<Head, RelaxedKaczmarz, float>(config, 1, 40, 10);
  ExpectBackward<Head, Longhorn, float>(config, 1, 40, 11);
  ExpectBackward<Head, Gdn, bfloat16>(config, 1, 40, 12);
  ExpectBackward<Head, Kla, float16>(config, 1, 40, 13);
}

// Sequences that continue from states, and parts of more than the least number of rows.
TEST_F(DeviceLayerOnHostTest, ContinuedSequencesMatchTheLayerOnACpu) {
  using Head = Shape<16, 16>;
  constexpr Index kModel = 8, kBefore = 9, kRows = 4500;
  static_assert(kRows >
                internal::device::RowParts::kLeastRows * internal::device::RowParts::kMostParts);
  const KlaLayerConfig config = {.model_dim = kModel, .num_heads = 1, .num_value_heads = 2};
  const Setup<Head, Kla, float, float> s(config, 4 * kBefore + kRows, 14);
  KlaLayer<Reference, Head, Kla, double> cpu(config);
  std::copy(s.host.values().begin(), s.host.values().end(), cpu.parameters().values().begin());
  const std::vector<std::int64_t> offsets = {0, 0, 1, 40, 4399, kRows}, slots = {1, 2, -1, 0, 3};
  std::mt19937_64 random(15);
  std::normal_distribution<float> normal;
  std::vector<float> dy(kRows * kModel);
  for (float& value : dy) value = normal(random);
  const std::vector<double> exact_dy = Doubles(dy);

  const auto run = [&](const auto& layer, const auto* x, const auto* given, auto gradients) {
    using T = std::remove_cvref_t<decltype(*x)>;
    auto state = layer.MakeState(4);
    auto before = layer.MakeWorkspace(4, kBefore, {.final_state = &state});
    layer.Forward({x, {4, kBefore, kModel}}, before, {.final_state = &state});
    const typename std::remove_cvref_t<decltype(layer)>::Options options = {
        .cu_seqlens = offsets, .initial_state = &state, .final_state = &state, .slots = slots};
    auto workspace = layer.MakeWorkspace(1, kRows, options);
    layer.Forward({x + 4 * kBefore * kModel, {1, kRows, kModel}}, workspace, options);
    const auto dx =
        layer.Backward(ModelView<const T>(given, {1, kRows, kModel}), workspace, gradients);
    return std::pair(std::vector<T>(dx.data(), dx.data() + kRows * kModel), std::move(gradients));
  };
  const auto [dx, gradients] = run(s.layer, s.x.data(), dy.data(), s.layer.MakeGradients());
  const auto [expected_dx, expected] =
      run(cpu, s.exact_x.data(), exact_dy.data(), cpu.MakeGradients());
  ExpectGradients<float>(Doubles(dx), OnHost(gradients), expected_dx, expected, kRows);
}

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
  ASSERT_TRUE(
      internal::device::MultiplyRow(MatrixRef<const T>{a.view().data(), 1, depth, depth},
                                    MatrixRef<const T>{b.view().data(), columns, depth, stride},
                                    MatrixRef<T>{c.view().data(), 1, columns, columns},
                                    internal::device::HostLauncher(Serial{}, multiprocessors)));
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
