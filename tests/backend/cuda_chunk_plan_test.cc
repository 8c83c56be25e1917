// SPDX-License-Identifier: Apache-2.0
// What the chunk kernels of the backend Cuda do with a card: which of them fit its shared memory,
// into how many segments its multiprocessors cut a sequence; and the largest sizes, on the host.
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "backend/cuda_on_host.h"
#include "op/chunk_backward_suite.h"
#include "op/chunk_forward_suite.h"

namespace kla::test {
// Their cases are run in op/chunk_*_cuda_on_host_test.cc; here they lend their comparisons.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkForwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkBackwardTest);
namespace {

template <int kTerms, int kKeyDim>
using ConfigOf = device::ChunkConfig<Kla, std::conditional_t<kTerms == 1, bfloat16, float>, float,
                                     Shape<kKeyDim, 64>, kTerms>;

template <int kLimit, int kTerms, int... kKeyDims>
void ExpectAllFit(std::integer_sequence<int, kKeyDims...>) {
  const auto expect = [](int key_dim, int forward, int backward) {
    EXPECT_LE(forward, kLimit) << "K " << key_dim << ", terms " << kTerms;
    EXPECT_LE(backward, kLimit) << "K " << key_dim << ", terms " << kTerms;
  };
  (expect(kKeyDims, device::ChunkKernels<ConfigOf<kTerms, kKeyDims>, kLimit>::kForwardBytes,
          device::ChunkKernels<ConfigOf<kTerms, kKeyDims>, kLimit>::kBackwardBytes),
   ...);
}

// Panels of 16, 32 and 64 columns, the widest pass, the largest sizes.
using KeyDims = std::integer_sequence<int, 16, 48, 64, 96, 128, 160, 192, 240, 256>;

TEST(ChunkPlanTest, EveryShapeFitsComputeCapability80And90) {
  ExpectAllFit<device::kSharedOf90, 1>(KeyDims{});
  ExpectAllFit<device::kSharedOf90, 2>(KeyDims{});
  ExpectAllFit<device::kSharedOf90, 3>(KeyDims{});
  ExpectAllFit<device::kSharedOf80, 1>(KeyDims{});
  ExpectAllFit<device::kSharedOf80, 2>(KeyDims{});
  ExpectAllFit<device::kSharedOf80, 3>(KeyDims{});
}

TEST(ChunkPlanTest, ShapesOfOneTermFitComputeCapability86) {
  ExpectAllFit<device::kSharedOf86, 1>(KeyDims{});
}

TEST(ChunkPlanTest, WhatDoesNotFitIsRefusedByName) {
  using C = Config<CudaOnHost<3, device::kSharedOf86>, float, 128, 16>;
  const Case c{.name = "too large", .tokens = 10};
  const Given<C> given(c, 1);
  try {
    RunBackward<C>(c, given.tensors);
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("given 101376"), std::string::npos) << error.what();
  }
}

TEST(ChunkPlanTest, TheLargestLimitThatACardReachesIsTaken) {
  const auto taken = [](int bytes) {
    return device::WithSharedLimit(device::SharedLimits<300, 200, 100>{}, {132, bytes},
                                   [](auto limit) { return static_cast<int>(limit); });
  };
  EXPECT_EQ(taken(400), 300);
  EXPECT_EQ(taken(300), 300);
  EXPECT_EQ(taken(299), 200);
  EXPECT_EQ(taken(50), 100);  // and refused by the check that follows
}

Index Segments(Index sequences, Index chunks, Index value_heads, Index tiles, Index processors) {
  return device::SegmentCount({.chunks = sequences * chunks,
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
using Largest = Config<CudaOnHost<3, device::kSharedOf80, 2>, float, 240, 16>;
class LargestForwardTest : public ChunkForwardTest<Largest> {};
class LargestBackwardTest : public ChunkBackwardTest<Largest> {};
const Case kLargest{.name = "largest", .tokens = 150, .value_heads = 2};

TEST_F(LargestForwardTest, MatchesOracle) { ExpectMatchesOracle(kLargest, 1); }
TEST_F(LargestBackwardTest, MatchesReference) { ExpectMatchesReference(kLargest, 2); }

}  // namespace
}  // namespace kla::test
