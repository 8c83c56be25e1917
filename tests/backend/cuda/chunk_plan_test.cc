// SPDX-License-Identifier: Apache-2.0
// What the chunk kernels of the backend Cuda do with a card: which of them fit its shared memory,
// into how many segments its multiprocessors cut a sequence; and the largest sizes, on the host.
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "backend/cuda/on_host.h"
#include "op/chunk_backward_suite.h"
#include "op/chunk_forward_suite.h"

namespace kla::test {
// Their cases are run in op/chunk_*_cuda_on_host_test.cc; here they lend their comparisons.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkForwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkBackwardTest);
namespace {

template <int kTerms, int kKeyDim>
using ConfigOf =
    internal::device::ChunkConfig<Kla, std::conditional_t<kTerms == 1, bfloat16, float>, float,
                                  Shape<kKeyDim, 64>, kTerms>;

template <int kLimit, int kTerms, int... kKeyDims>
void ExpectAllFit(std::integer_sequence<int, kKeyDims...>) {
  const auto expect = [](int key_dim, int forward, int backward) {
    EXPECT_LE(forward, kLimit) << "K " << key_dim << ", terms " << kTerms;
    EXPECT_LE(backward, kLimit) << "K " << key_dim << ", terms " << kTerms;
  };
  (expect(kKeyDims,
          internal::device::ChunkKernels<ConfigOf<kTerms, kKeyDims>, kLimit>::kForwardBytes,
          internal::device::ChunkKernels<ConfigOf<kTerms, kKeyDims>, kLimit>::kBackwardBytes),
   ...);
}

// Panels of 16, 32 and 64 columns, the widest pass, the largest sizes.
using KeyDims = std::integer_sequence<int, 16, 48, 64, 96, 128, 160, 192, 240, 256>;

TEST(ChunkPlanTest, EveryShapeFitsComputeCapability80And90) {
  ExpectAllFit<internal::device::kSharedOf90, 1>(KeyDims{});
  ExpectAllFit<internal::device::kSharedOf90, 2>(KeyDims{});
  ExpectAllFit<internal::device::kSharedOf90, 3>(KeyDims{});
  ExpectAllFit<internal::device::kSharedOf80, 1>(KeyDims{});
  ExpectAllFit<internal::device::kSharedOf80, 2>(KeyDims{});
  ExpectAllFit<internal::device::kSharedOf80, 3>(KeyDims{});
}

TEST(ChunkPlanTest, ShapesOfOneTermFitComputeCapability86) {
  ExpectAllFit<internal::device::kSharedOf86, 1>(KeyDims{});
}

TEST(ChunkPlanTest, WhatDoesNotFitIsRefusedByName) {
  using C = Config<CudaOnHost<3, internal::device::kSharedOf86>, float, 128, 16>;
  const Case c{.name = "too large", .tokens = 10};
  const Given<C> given(c, 1);
  try {
    RunBackward<C>(c, given.tensors);
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("given 101376"), std::string::npos) << error.what();
  }
}

// A call that is refused before a kernel runs: what was expected, by its exception's text.
template <class Call>
void ExpectRefused(const Call& call, const std::string& argument, const std::string& expected) {
  try {
    call();
    FAIL() << "no exception: " << argument;
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(argument), std::string::npos) << text;
    EXPECT_NE(text.find(expected), std::string::npos) << text;
  }
}

// ChunkForward of a small case whose o stays as it was.
struct SmallForward {
  using C = Config<CudaOnHost<1>, bfloat16, 64, 64>;
  using Kernels = internal::device::ChunkConfig<Kla, bfloat16, float, C::Shape, 1>;
  Given<C> given{Case{.name = "small", .tokens = 10}, 1};
  Array<ValueView<bfloat16>> o{given.tensors.v.extents()};
  ChunkForwardArgs<bfloat16, float> args{.q = given.tensors.q.view(),
                                         .k = given.tensors.k.view(),
                                         .v = given.tensors.v.view(),
                                         .g = given.tensors.g.view(),
                                         .eta = given.tensors.eta.view(),
                                         .o = o.view()};
  Serial serial;
  std::size_t bytes = internal::device::ForwardBytes<Kernels>(args, Launcher().card());

  BlocksOnHost<Serial, internal::device::kSharedOf90> Launcher() const {
    return CudaOnHost<1>::LauncherOn(serial);
  }
  void Run(void* workspace, std::size_t size) const {
    internal::device::RunChunkForward<Kernels>(args, Launcher(), workspace, size);
  }
};

TEST(ChunkPlanTest, AWorkspaceThatIsMissingShortOrMisalignedIsRefused) {
  const SmallForward forward;
  const PoisonedMemory memory(forward.bytes + 256);
  const auto before = forward.o.Values();
  ExpectRefused([&] { forward.Run(nullptr, 0); }, "workspace", std::to_string(forward.bytes));
  ExpectRefused([&] { forward.Run(memory.data(), forward.bytes - 1); }, "workspace",
                std::to_string(forward.bytes));
  ExpectRefused([&] { forward.Run(memory.data() + 128, forward.bytes); }, "workspace", "256 bytes");
  EXPECT_EQ(forward.o.Values(), before);
  forward.Run(memory.data(), forward.bytes);
  EXPECT_NE(forward.o.Values(), before);
}

TEST(ChunkPlanTest, MisalignedPointersAreRefused) {
  SmallForward forward;
  const PoisonedMemory memory(forward.bytes);
  const auto run = [&] { forward.Run(memory.data(), forward.bytes); };
  const auto shifted = [](const auto* pointer) {
    return reinterpret_cast<decltype(pointer)>(reinterpret_cast<const char*>(pointer) + 1);
  };
  const auto args = forward.args;
  forward.args.k = KeyView<const bfloat16>(shifted(args.k.data()), args.k.extents());
  ExpectRefused(run, "k", "aligned to 2 bytes");
  forward.args = args;
  forward.args.eta = GateView<const float>(shifted(args.eta.data()), args.eta.extents());
  ExpectRefused(run, "eta", "aligned to 4 bytes");
}

TEST(ChunkPlanTest, TheLargestLimitThatACardReachesIsTaken) {
  const auto taken = [](int bytes) {
    return internal::device::WithSharedLimit(internal::device::SharedLimits<300, 200, 100>{},
                                             {132, bytes},
                                             [](auto limit) { return static_cast<int>(limit); });
  };
  EXPECT_EQ(taken(400), 300);
  EXPECT_EQ(taken(300), 300);
  EXPECT_EQ(taken(299), 200);
  EXPECT_EQ(taken(50), 100);  // and refused by the check that follows
}

Index Segments(Index sequences, Index chunks, Index value_heads, Index tiles, Index processors) {
  return internal::device::SegmentCount({.chunks = sequences * chunks,
                                         .longest = chunks,
                                         .columns = value_heads * tiles,
                                         .map_columns = 2 * value_heads * tiles,
                                         .maps_side_by_side = 3,
                                         .processors = processors});
}

TEST(ChunkPlanTest, FewHeadsAreSplitManyAreNot) {
  EXPECT_EQ(Segments(1, 512, 64, 2, 132), 1);
  EXPECT_EQ(Segments(8, 64, 16, 2, 132), 1);
  EXPECT_EQ(Segments(1, 0, 1, 1, 132), 1);
  EXPECT_EQ(Segments(1, 3, 1, 1, 132), 1);
  const Index split = Segments(1, 512, 8, 2, 132);
  EXPECT_GE(split, 4);
  EXPECT_LE(split, 16);
  EXPECT_LE(Segments(1, 512, 8, 2, 16), 1);  // a card that 16 blocks fill
  EXPECT_GE(Segments(1, 1 << 20, 1, 1, 132), 16);
}

// float32 of three terms with K beyond 192: what is read of a chunk no longer fits at once.
using Largest = Config<CudaOnHost<3, internal::device::kSharedOf80, 2>, float, 240, 16>;
class LargestForwardTest : public ChunkForwardTest<Largest> {};
class LargestBackwardTest : public ChunkBackwardTest<Largest> {};
const Case kLargest{.name = "largest", .tokens = 150, .value_heads = 2};

TEST_F(LargestForwardTest, MatchesOracle) { ExpectMatchesOracle(kLargest, 1); }
TEST_F(LargestBackwardTest, MatchesReference) { ExpectMatchesReference(kLargest, 2); }

}  // namespace
}  // namespace kla::test
