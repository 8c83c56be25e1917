// SPDX-License-Identifier: Apache-2.0
// ChunkForward in one kernel (chunk/forward_fused.h) on a device that has code for it, also where
// it would not be chosen: the suites, and the same bits each time and as those of the kernels
// apart.
#include <vector>

#include "backend/cuda/chunk_device.cuh"

namespace kla::test {

using Fused = ::testing::Types<Config<ChunksFromHost<Cuda, true>, bfloat16, 128, 128>,
                               Config<ChunksFromHost<Cuda, true>, float16, 96, 128>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Fused, ChunkForwardTest, Fused);

template <bool kFused>
std::vector<double> Outputs(const Case& c) {
  using C = Config<ChunksFromHost<Cuda, kFused>, bfloat16, 128, 128>;
  const Given<C> given(c, 7);
  ForwardOutputs<C> out = RunForward<C>(c, given.tensors);
  std::vector<double> values = out.o.Values(), states = out.final_state.Values();
  values.insert(values.end(), states.begin(), states.end());
  return values;
}

TEST(FusedForward, SameBitsEachTimeAndAsTheKernelsApart) {
  const Case c{.name = "", .tokens = 300, .key_heads = 1, .value_heads = 2};
  const std::vector<double> expected = Outputs<false>(c);
  EXPECT_GT(Rms(expected), 0.0);
  for (int run = 0; run < 1000; ++run) ASSERT_EQ(Outputs<true>(c), expected) << "run " << run;
}

// The suites of the backward pass are run by the other configurations.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkBackwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SegmentsForwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SegmentsBackwardTest);

}  // namespace kla::test
