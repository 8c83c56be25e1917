// SPDX-License-Identifier: Apache-2.0
// Umbrella header for CUDA users: the operations and the backend Cuda. For sources that nvcc
// compiles for sm_80 or above; in CMake, link kla::cuda. Pulls in neither Highway nor Eigen.
#ifndef KLA_CUDA_CUH_
#define KLA_CUDA_CUH_

#include "kla/backend/cuda/chunk.cuh"
#include "kla/backend/cuda/cuda.h"
#include "kla/backend/cuda/decode_step.cuh"
#include "kla/backend/cuda/layer_step.cuh"
#include "kla/core/dispatch.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/math/step_size.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_state.h"
#include "kla/op/decode_step.h"

#endif  // KLA_CUDA_CUH_
