// SPDX-License-Identifier: Apache-2.0
// Compiled twice: with -march=x86-64-v3 -DKLA_EXAMPLE_FORWARD=ForwardForAvx2, and with
// -march=x86-64-v4 -DKLA_EXAMPLE_FORWARD=ForwardForAvx512. kla::Simd and its kernels have other
// names in either, so the linker keeps both. Functions that are not kla's it merges, keeping the
// first it meets: keep to raw pointers here, and name the object of the oldest set first.
#include "forward.h"

#include <kla/kla.h>

const char* KLA_EXAMPLE_FORWARD(const Sequence& in, float* o) {
  kla::ChunkForward<kla::Simd, kla::Shape<kDim, kDim>>(
      kla::ChunkForwardArgs<float>{.q = {in.q, {1, kTokens, 1, kDim}},
                                   .k = {in.k, {1, kTokens, 1, kDim}},
                                   .v = {in.v, {1, kTokens, 1, kDim}},
                                   .g = {in.g, {1, kTokens, 1}},
                                   .eta = {in.eta, {1, kTokens, 1}},
                                   .o = {o, {1, kTokens, 1, kDim}}});
  return kla::Simd::kInstructionSet.data();
}
