// SPDX-License-Identifier: Apache-2.0
// The suite of DecodeStep on the kernel bodies of the backend Cuda, on this processor: 16-bit
// formats.
#include "backend/cuda/decode_on_host.h"
#include "op/decode_step_suite.h"

namespace kla::test {
using OnHostConfigs = ::testing::Types<
    Config<CudaDecodeOnHost, bfloat16, 96, 192>,
    Config<CudaDecodeOnHost, float16, 256, 16, kAutoChunk, ShapeKnown::kStatic, float16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DecodeStepTest, OnHostConfigs, ConfigName);
}  // namespace kla::test
