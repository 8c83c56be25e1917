// SPDX-License-Identifier: Apache-2.0
// The decode kernels of the backend Cuda on this processor: what only a device does (tile widths,
// lists in device memory, deferred writes). The suite of DecodeStep is in cuda_decode_*_test.cc.
#include <numeric>
#include <vector>

#include "backend/cuda/decode_on_host.h"
#include "op/decode_state_suite.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {
namespace {

using StateConfigs = ::testing::Types<
    Config<CudaDecodeOnHost, float, 13, 33, kAutoChunk, ShapeKnown::kDynamic>,
    Config<CudaDeferredOnHost<3>, float, 96, 20, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DecodeStateTest, StateConfigs, ConfigName);

using Head = Shape<64, 80>;

template <class Backend, class State = float>
using Pool = DecodeState<Backend, Head, State>;

// A case with a state in a pool, and one call of DecodeStep after the other.
template <class Backend>
struct Runner {
  explicit Runner(const Case& the_case, std::uint64_t seed = 7)
      : c(the_case), given(c, 64, 80, seed), o(given.v.extents()), pool(c.batch, c.value_heads) {
    pool.Load(given.initial_state.view());
  }
  DecodeStepArgs<float> Arguments(Index begin, Index count) {
    const auto cut = [&](const auto& view) {
      auto extents = view.extents();
      extents[1] = count;
      return std::remove_cvref_t<decltype(view)>(view.data() + begin * view.strides()[1], extents,
                                                 view.strides());
    };
    return {.q = cut(given.q.view()),
            .k = cut(given.k.view()),
            .v = cut(given.v.view()),
            .g = cut(given.g.view()),
            .eta = cut(given.eta.view()),
            .o = cut(o.view())};
  }
  void Step(Index begin, Index count) { DecodeStep<Backend, Head>(Arguments(begin, count), pool); }
  std::vector<double> State() const {
    Array<StateView<float>> state({c.batch, c.value_heads, 64, 80});
    pool.Store(state.view());
    return state.Values();
  }

  Case c;
  Tensors<float> given;
  Array<ValueView<float>> o;
  DecodeState<Backend, Head, float> pool;
};

const Case kTwoByThree{.name = "", .batch = 2, .tokens = 12, .key_heads = 3, .value_heads = 3};

TEST(CudaDecodeOnHost, TileWidthDoesNotChangeABit) {
  Runner<CudaDecodeOnHost> wide(kTwoByThree), narrow(kTwoByThree);
  const int before = multiprocessors_of_host;
  multiprocessors_of_host = 1;
  wide.Step(0, 12);
  multiprocessors_of_host = 10000;
  narrow.Step(0, 12);
  multiprocessors_of_host = before;
  EXPECT_TRUE(wide.o.SameBits(narrow.o));
  EXPECT_EQ(wide.State(), narrow.State());
}

// More sequences than one launch lists, in shuffled slots, listed on the host and on the device.
TEST(CudaDecodeOnHost, LongListsAndListsInDeviceMemory) {
  constexpr Index kCount = 300;
  const Case c{.name = "", .batch = kCount, .tokens = 1};
  std::vector<std::int32_t> slots(kCount);
  for (Index n = 0; n < kCount; ++n) {
    slots[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(n * 7 % kCount);
  }
  slots[270] = -1;
  Runner<CudaDecodeOnHost> plain(c), listed(c), on_device(c);
  auto args = listed.Arguments(0, 1);
  args.slots = slots;
  listed.pool.Load(listed.given.initial_state.view(), slots);
  DecodeStep<CudaDecodeOnHost, Head>(args, listed.pool);
  args = on_device.Arguments(0, 1);
  args.slots = IndexList::OnDevice(slots.data(), kCount);
  on_device.pool.Load(on_device.given.initial_state.view(), slots);
  DecodeStep<CudaDecodeOnHost, Head>(args, on_device.pool);
  plain.Step(0, 1);
  EXPECT_TRUE(on_device.o.SameBits(listed.o));
  EXPECT_EQ(on_device.State(), listed.State());
  for (Index n = 0; n < kCount; ++n) {
    const bool same = std::equal(plain.o.view().Row(n, 0, 0), plain.o.view().Row(n, 0, 0) + 80,
                                 listed.o.view().Row(n, 0, 0));
    EXPECT_EQ(same, n != 270) << n;
  }
}

TEST(CudaDecodeOnHost, PackedListsOnTheDevice) {
  const Case c{.name = "", .batch = 1, .tokens = 12};
  const std::vector<std::int64_t> offsets = {0, 5, 5, 12};
  Runner<CudaDecodeOnHost> host(c), device(c);
  DecodeState<CudaDecodeOnHost, Head> host_pool(3, 1), device_pool(3, 1);
  auto args = host.Arguments(0, 12);
  args.cu_seqlens = offsets;
  DecodeStep<CudaDecodeOnHost, Head>(args, host_pool);
  args = device.Arguments(0, 12);
  args.cu_seqlens = IndexList::OnDevice(offsets.data(), 4);
  DecodeStep<CudaDecodeOnHost, Head>(args, device_pool);
  EXPECT_TRUE(host.o.SameBits(device.o));
}

TEST(CudaDecodeOnHost, DeviceListsAreRefusedWhereTheyAreReadOnTheHost) {
  Runner<CudaDecodeOnHost> run({.name = "", .batch = 2, .tokens = 1});
  const std::vector<std::int32_t> slots = {0, 1};
  auto args = run.Arguments(0, 1);
  args.slots = IndexList::OnDevice(slots.data(), 2);
  DecodeState<Reference, Head> reference(2, 1);
  EXPECT_THROW((DecodeStep<Reference, Head>(args, reference)), std::invalid_argument);
  EXPECT_THROW(run.pool.Load(run.given.initial_state.view(), args.slots), std::invalid_argument);
  args.slots = IndexList::OnDevice(slots.data(), 1);
  EXPECT_THROW((DecodeStep<CudaDecodeOnHost, Head>(args, run.pool)), std::invalid_argument);
}

TEST(CudaDecodeOnHost, MisalignedPointersAreRefused) {
  Runner<CudaDecodeOnHost> run({.name = "", .batch = 1, .tokens = 1});
  auto args = run.Arguments(0, 1);
  const auto* shifted =
      reinterpret_cast<const float*>(reinterpret_cast<const char*>(args.g.data()) + 2);
  args.g = GateView<const float>(shifted, {1, 1, 1});
  EXPECT_THROW((DecodeStep<CudaDecodeOnHost, Head>(args, run.pool)), std::invalid_argument);
}

// Arrays in device memory go through kernels of their own, to the same bits.
template <class State>
void ExpectSameTransfers() {
  const Case c{.name = "", .batch = 3, .tokens = 0, .key_heads = 2, .value_heads = 2};
  const Tensors<float> given(c, 64, 80, 3);
  const std::vector<std::int64_t> slots = {3, -1, 0};
  std::vector<Array<StateView<float>>> rows;
  std::vector<Array<TransposedStateView<float>>> columns;
  for (const bool on_device : {false, true}) {
    HostPlatform::arrays_are_on_device = on_device;
    Pool<CudaDecodeOnHost, State> pool(4, 2);
    pool.Load(given.initial_state.view(), slots);
    rows.emplace_back(std::array<Index, 4>{4, 2, 64, 80}, Placement::kStrided);
    columns.emplace_back(std::array<Index, 4>{3, 2, 80, 64}, Placement::kStrided);
    pool.Store(rows.back().view());
    pool.Store(columns.back().view(), slots);
    HostPlatform::arrays_are_on_device = false;
    EXPECT_EQ(static_cast<float>(rows.back().view()(3, 1, 5, 7)),
              static_cast<float>(static_cast<State>(given.initial_state.view()(0, 1, 5, 7))));
    EXPECT_EQ(rows.back().view()(0, 1, 5, 7), columns.back().view()(2, 1, 7, 5));
    EXPECT_EQ(rows.back().view()(1, 1, 5, 7), 0.0f);
  }
  EXPECT_TRUE(rows[0].SameBits(rows[1]));
  EXPECT_TRUE(columns[0].SameBits(columns[1]));
}

TEST(CudaDecodeOnHost, LoadAndStoreOnTheDevice) {
  ExpectSameTransfers<float>();
  ExpectSameTransfers<bfloat16>();
  ExpectSameTransfers<float16>();
}

// ---- Deferred writes -------------------------------------------------------------------------

using Deferred = CudaDeferredOnHost<5>;

TEST(CudaDecodeDeferredOnHost, WritesTheMatrixEveryFewTokensOnly) {
  Runner<Deferred> run(kTwoByThree);
  const auto view = run.pool.view();
  const std::vector<float> stored(view.states, view.states + 2 * 3 * 80 * 64);
  const auto same = [&] { return std::equal(stored.begin(), stored.end(), view.states); };
  for (Index t = 0; t < 5; ++t) run.Step(t, 1);
  EXPECT_TRUE(same());
  run.Step(5, 1);
  EXPECT_FALSE(same());
  Runner<CudaDecodeOnHost> direct(kTwoByThree);
  direct.Step(0, 6);
  const auto expected = direct.State();
  ExpectClose("state", run.State(), expected, 0x1p-20 * Rms(expected), 0);
}

// A draft of three tokens, of which none or two are taken back.
TEST(CudaDecodeDeferredOnHost, RollbackTakesBackTheLastTokens) {
  for (const Index back : {Index{0}, Index{2}, Index{3}}) {
    for (const Index before : {Index{1}, Index{4}}) {  // 4: the draft needs the other bank
      Runner<Deferred> run(kTwoByThree);
      Runner<CudaDecodeOnHost> direct(kTwoByThree);
      run.Step(0, before);
      run.Step(before, 3);
      for (const Index slot : {0, 1}) run.pool.Rollback(slot, back);
      direct.Step(0, before + 3 - back);
      // The tokens after the accepted ones are others than the draft's: here 9 to 11.
      run.Step(9, 3);
      direct.Step(9, 3);
      const auto expected = direct.State(), o = direct.o.Values();
      ExpectClose("state", run.State(), expected, 0x1p-20 * Rms(expected), 0);
      for (Index n = 0; n < 2; ++n) {
        for (Index t = 9; t < 12; ++t) {
          for (Index j = 0; j < 80; ++j) {
            EXPECT_NEAR(run.o.view()(n, t, 2, j), direct.o.view()(n, t, 2, j), 1e-5);
          }
        }
      }
    }
  }
}

TEST(CudaDecodeDeferredOnHost, PendingTokensAreCopiedResetAndReplaced) {
  Runner<Deferred> run(kTwoByThree);
  run.Step(0, 3);
  auto copied = run.State();
  run.Step(3, 2);
  run.pool.Copy(0, 1);
  const auto state = run.State();
  const std::size_t half = state.size() / 2;
  EXPECT_TRUE(std::equal(state.begin(), state.begin() + static_cast<std::ptrdiff_t>(half),
                         state.begin() + static_cast<std::ptrdiff_t>(half)));
  run.Step(5, 1);
  run.pool.Reset(1);
  run.Step(6, 1);
  run.pool.Reset();
  EXPECT_EQ(Rms(run.State()), 0.0);
  run.Step(7, 1);
  run.pool.Load(run.given.initial_state.view());
  EXPECT_EQ(run.State(), run.given.initial_state.Values());
}

}  // namespace
}  // namespace kla::test
