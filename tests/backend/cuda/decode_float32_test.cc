// SPDX-License-Identifier: Apache-2.0
// The suite of DecodeStep on the kernel bodies of the backend Cuda, on this processor: float32.
#include "backend/cuda/decode_on_host.h"
#include "op/decode_step_suite.h"

namespace kla::test {
using OnHostConfigs = ::testing::Types<
    Config<CudaDecodeOnHost, float, 128, 128>,
    Config<CudaDecodeOnHost, float, 20, 12, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DecodeStepTest, OnHostConfigs, ConfigName);
}  // namespace kla::test
