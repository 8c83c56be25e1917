// SPDX-License-Identifier: Apache-2.0
// compile_fail: Cuda without its header.
// EXPECT: kla: no kernel for this (Op, Backend, Shape); include kla/backend/<name>/
// EXPECT: (for Cuda kla/cuda.cuh, in a source that nvcc compiles)
#include <kla/kla.h>

#ifndef KLA_CORRECTED
using Backend = kla::Cuda;
#else
using Backend = kla::Reference;
#endif

void Run(const kla::ChunkForwardArgs<float>& args) {
  kla::ChunkForward<Backend, kla::Shape<64, 64>>(args);
}
