// SPDX-License-Identifier: Apache-2.0
// backend/reference: every operation by plain loops, for any scalar. The oracle of the other
// backends.
#ifndef KLA_BACKEND_REFERENCE_REFERENCE_H_
#define KLA_BACKEND_REFERENCE_REFERENCE_H_

#include "kla/backend/reference/chunk_backward.h"
#include "kla/backend/reference/chunk_forward.h"
#include "kla/backend/reference/decode_step.h"

#endif  // KLA_BACKEND_REFERENCE_REFERENCE_H_
