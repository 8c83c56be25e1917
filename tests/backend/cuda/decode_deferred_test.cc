// SPDX-License-Identifier: Apache-2.0
// The suite of DecodeStep on the kernel bodies of the backend Cuda, on this processor: deferred
// writes.
#include "backend/cuda/decode_on_host.h"
#include "op/decode_step_suite.h"

namespace kla::test {
using OnHostConfigs = ::testing::Types<
    Config<CudaDeferredOnHost<16>, float, 64, 64>,
    Config<CudaDeferredOnHost<3>, bfloat16, 96, 20, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DecodeStepTest, OnHostConfigs, ConfigName);
}  // namespace kla::test
