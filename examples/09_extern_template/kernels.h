// SPDX-License-Identifier: Apache-2.0
// The kernels that this program uses, declared: a source that includes this header calls them and
// compiles none of them. kernels.cc does, once.
#ifndef KLA_EXAMPLES_09_EXTERN_TEMPLATE_KERNELS_H_
#define KLA_EXAMPLES_09_EXTERN_TEMPLATE_KERNELS_H_

#include <kla/kla.h>

using Head = kla::Shape</*key*/ 96, /*value*/ 192>;

// Every template argument is written out: one that differs names another kernel, which would be
// compiled where it is called, silently.
extern template void kla::ChunkForward<kla::Simd, Head, kla::Kla, float, float, kla::Serial>(
    const kla::ChunkForwardArgs<float, float>&, const kla::Serial&);
extern template void kla::DecodeStep<kla::Simd, Head, kla::Kla, float, float, kla::Serial>(
    const kla::DecodeStepArgs<float>&, kla::DecodeState<kla::Simd, Head, float>&,
    const kla::Serial&);

#endif  // KLA_EXAMPLES_09_EXTERN_TEMPLATE_KERNELS_H_
