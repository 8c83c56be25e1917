// SPDX-License-Identifier: Apache-2.0
// tests/support: what the suites need of the library. CUDA sources never see Highway.
#ifndef KLA_TESTS_SUPPORT_KLA_H_
#define KLA_TESTS_SUPPORT_KLA_H_

#if defined(__CUDACC__)
#include "kla/backend/reference/reference.h"
#include "kla/cuda.cuh"
#else
#include "kla/kla.h"
#endif

#endif  // KLA_TESTS_SUPPORT_KLA_H_
