// SPDX-License-Identifier: Apache-2.0
// The suite of DecodeStep on the kernel bodies of the backend Cuda, on this processor: sizes known
// at run time.
#include "backend/cuda/decode_on_host.h"
#include "op/decode_step_suite.h"

namespace kla::test {
using OnHostConfigs =
    ::testing::Types<Config<CudaDecodeOnHost, float, 400, 8, kAutoChunk, ShapeKnown::kDynamic>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, DecodeStepTest, OnHostConfigs, ConfigName);
}  // namespace kla::test
