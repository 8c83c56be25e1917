// SPDX-License-Identifier: Apache-2.0
// backend/simd: every operation on CPU vectors, through Google Highway. The headers of this folder
// include target.h for the tag; this one is for users.
#ifndef KLA_BACKEND_SIMD_SIMD_H_
#define KLA_BACKEND_SIMD_SIMD_H_

#include "kla/backend/simd/chunk_backward.h"
#include "kla/backend/simd/chunk_forward.h"
#include "kla/backend/simd/decode_step.h"
#include "kla/backend/simd/target.h"

#endif  // KLA_BACKEND_SIMD_SIMD_H_
