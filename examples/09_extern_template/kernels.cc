// SPDX-License-Identifier: Apache-2.0
// The kernels of kernels.h, compiled here and nowhere else. Changes of other sources leave this
// object as it is.
#include "kernels.h"

template void kla::ChunkForward<kla::Simd, Head, kla::Kla, float, float, kla::Serial>(
    const kla::ChunkForwardArgs<float, float>&, const kla::Serial&);
template void kla::DecodeStep<kla::Simd, Head, kla::Kla, float, float, kla::Serial>(
    const kla::DecodeStepArgs<float>&, kla::DecodeState<kla::Simd, Head, float>&,
    const kla::Serial&);
