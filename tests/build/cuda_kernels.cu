// SPDX-License-Identifier: Apache-2.0
// The decode kernels of the tuned shapes, for cuda_kernels.sh: each takes whole vectors of the
// state, so none may use local memory.
#include "kla/backend/cuda/decode_step.cuh"
#include "kla/backend/cuda/layer_step.cuh"
#include "kla/math/step_size.h"

namespace kla::internal::device {

template <Index kKeyDim, int kColumns, bool kDeferred, class State>
using Body = DecodeBody<Kla, kKeyDim, kColumns, kDeferred, UniformSequences, bfloat16, State>;

template __global__ void RunBody(const __grid_constant__ Body<64, 4, false, float>);
template __global__ void RunBody(const __grid_constant__ Body<96, 4, false, float>);
template __global__ void RunBody(const __grid_constant__ Body<128, 4, false, float>);
template __global__ void RunBody(const __grid_constant__ Body<128, 1, false, float>);
template __global__ void RunBody(const __grid_constant__ Body<128, 4, false, bfloat16>);
template __global__ void RunBody(const __grid_constant__ Body<256, 4, false, float>);
template __global__ void RunBody(const __grid_constant__ Body<128, 4, true, float>);
template <Index kKeyDim, Index kValueDim>
using LayerBody = LayerStepBody<Kla, kKeyDim, kValueDim, UniformSequences, bfloat16, float>;

template __global__ void RunBody(const __grid_constant__ LayerBody<64, 64>);
template __global__ void RunBody(const __grid_constant__ LayerBody<96, 192>);
template __global__ void RunBody(const __grid_constant__ LayerBody<128, 128>);
template __global__ void RunBody(const __grid_constant__ LayerBody<256, 256>);

}  // namespace kla::internal::device
