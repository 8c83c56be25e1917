// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/chunk_device.cuh"

namespace kla::test {

using Configs = ::testing::Types<Config<ChunksFromHost<Cuda>, float16, 64, 80>>;
KLA_INSTANTIATE_CHUNK_SUITES(Configs);

}  // namespace kla::test
