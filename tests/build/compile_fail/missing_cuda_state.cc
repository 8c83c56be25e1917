// SPDX-License-Identifier: Apache-2.0
// compile_fail: a pool on Cuda without its header: it would lie in host memory.
// EXPECT: kla: for DecodeState<Cuda> include kla/cuda.cuh, in a source that nvcc compiles
#include <kla/kla.h>

#ifndef KLA_CORRECTED
using Backend = kla::Cuda;
#else
using Backend = kla::Reference;
#endif

void Run(const kla::DecodeStepArgs<float>& args) {
  kla::DecodeState<Backend, kla::Shape<64, 64>> state(/*slots=*/1, /*value_heads=*/1);
  kla::DecodeStep<Backend, kla::Shape<64, 64>>(args, state);
}
