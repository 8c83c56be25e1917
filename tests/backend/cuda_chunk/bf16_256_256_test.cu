// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda_chunk_device.cuh"

namespace kla::test {

using Configs = ::testing::Types<Config<ChunksFromHost<Cuda>, bfloat16, 256, 256>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ChunkForwardTest, Configs, ConfigName);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ChunkBackwardTest, Configs, ConfigName);

}  // namespace kla::test
