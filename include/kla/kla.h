// SPDX-License-Identifier: Apache-2.0
// The door for CPU users: the operations, and the backends Simd and Reference. The layer, which
// needs Eigen besides, is kla/layer.h; everything on a GPU is kla/cuda.cuh.
//
// Public are these headers, core/, op/ and math/step_size.h, outside namespace kla::internal.
// Everything else, and the namespaces kla::internal and kla::N_<instruction set>, may change with
// any version.
#ifndef KLA_KLA_H_
#define KLA_KLA_H_

#if __cplusplus < 202002L
#error "kla needs C++20: compile with -std=c++20"
#elif !__has_include(<hwy/highway.h>)
#error \
    "kla/kla.h needs Google Highway: install libhwy-dev (its Debian and Ubuntu package) or \
configure with -DKLA_FETCH_DEPENDENCIES=ON; kla/backend/reference/reference.h does without it"
#else

#include "kla/backend/default_backend.h"
#include "kla/backend/reference/reference.h"
#include "kla/backend/simd/simd.h"
#include "kla/core/backend.h"
#include "kla/core/dispatch.h"
#include "kla/core/executor.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/layer/declaration.h"
#include "kla/math/step_size.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_state.h"
#include "kla/op/decode_step.h"
#include "kla/version.h"

#endif  // C++20 and Highway

#endif  // KLA_KLA_H_
