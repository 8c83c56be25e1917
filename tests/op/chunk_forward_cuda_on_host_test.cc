// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/on_host.h"
#include "op/chunk_forward_suite.h"

namespace kla::test {

// Among them: keys and queries fetched in turn for want of shared memory; sequences in segments; a
// state too wide (K > 128) to be rounded at once; the fused forward pass.
using CudaOnHostConfigs =
    ::testing::Types<Config<CudaOnHost<3, internal::device::kSharedOf86, 2>, float, 64, 64>,
                     Config<CudaOnHost<2>, float, 32, 48>, Config<CudaOnHost<1>, bfloat16, 96, 192>,
                     Config<CudaOnHost<1, internal::device::kSharedOf90, 3>, float16, 64, 80>,
                     Config<CudaOnHost<1>, bfloat16, 48, 64, 64, ShapeKnown::kStatic, bfloat16>,
                     Config<CudaOnHost<1>, bfloat16, 144, 16>,
                     Config<CudaOnHost<1, internal::device::kSharedOf90, 0>, bfloat16, 80, 112>,
                     Config<CudaOnHost<1, internal::device::kSharedOf90, 0>, float16, 96, 128>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaOnHost, ChunkForwardTest, CudaOnHostConfigs, ConfigName);

}  // namespace kla::test
