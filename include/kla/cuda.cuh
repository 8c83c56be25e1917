// SPDX-License-Identifier: Apache-2.0
// The door for CUDA users: the operations on the backend Cuda and, where cuBLAS is found, KlaLayer.
// For sources that nvcc compiles for sm_80 or above; in CMake, link kla::cuda, which links cuBLAS
// (with nvcc alone, -lcublas where KlaLayer is used). Pulls in neither Highway nor Eigen.
#ifndef KLA_CUDA_CUH_
#define KLA_CUDA_CUH_

#if __cplusplus < 202002L
#error "kla needs C++20: compile with -std=c++20"
#else

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
#include "kla/op/layer_step.h"
#include "kla/version.h"

#if __has_include(<cublas_v2.h>)
#include "kla/layer/device/cuda_layer.cuh"
#endif

#endif  // C++20

#endif  // KLA_CUDA_CUH_
