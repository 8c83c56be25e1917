// SPDX-License-Identifier: Apache-2.0
// Umbrella header for CPU users: the operations and the CPU backends. The layer, which needs Eigen,
// is kla/layer/kla_layer.h.
#ifndef KLA_KLA_H_
#define KLA_KLA_H_

#include "kla/backend/default_backend.h"
#include "kla/backend/reference/reference.h"
#include "kla/backend/simd/simd.h"
#include "kla/core/backend.h"
#include "kla/core/dispatch.h"
#include "kla/core/executor.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_state.h"
#include "kla/op/decode_step.h"

#endif  // KLA_KLA_H_
