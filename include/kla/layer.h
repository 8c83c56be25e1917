// SPDX-License-Identifier: Apache-2.0
// The layer on CPUs: kla::KlaLayer over Simd or Reference, and all of kla/kla.h. Needs Eigen
// besides what that needs. The layer on a GPU is in kla/cuda.cuh.
#ifndef KLA_LAYER_H_
#define KLA_LAYER_H_

#if __cplusplus < 202002L
#error "kla needs C++20: compile with -std=c++20"
#else

#if defined(__CUDACC__)
#include "kla/backend/reference/reference.h"  // nvcc does not take Highway: Reference alone
#else
#include "kla/kla.h"
#endif
#include "kla/layer/host/kla_layer.h"

#endif  // C++20

#endif  // KLA_LAYER_H_
