// SPDX-License-Identifier: Apache-2.0
// compile_fail: the layer, of which kla/kla.h knows the name only.
// EXPECT: kla: for KlaLayer include kla/layer.h (needs Eigen) or, for Cuda, kla/cuda.cuh
#ifndef KLA_CORRECTED
#include <kla/kla.h>
#else
#include <kla/layer.h>
#endif

std::size_t Size() { return sizeof(kla::KlaLayer<kla::Reference, kla::Shape<64, 64>>); }
