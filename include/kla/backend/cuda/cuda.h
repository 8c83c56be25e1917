// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the tags. Include kla/cuda.cuh for the operations behind them; files that only name
// the backend, such as tests that run kernel bodies on the host, need no CUDA.
#ifndef KLA_BACKEND_CUDA_CUDA_H_
#define KLA_BACKEND_CUDA_CUDA_H_

#include <string_view>

#include "kla/core/layout.h"

namespace kla {

// NVIDIA GPUs of compute capability 8.0 and above. Views point into device memory.
struct Cuda {
  static constexpr std::string_view kName = "Cuda";
  static constexpr std::string_view kInstructionSet = "sm_80";
};

// The same, with a DecodeState that remembers the last kTokens tokens (k, delta, g) beside the
// matrix, and writes the matrix only when that memory is full: a token then reads the state and
// writes little, and the tokens of the last call can be taken back (speculative decoding).
//   DecodeState<CudaDeferred<16>, Head> state(slots, value_heads);
template <int kTokens>
struct CudaDeferred {
  static_assert(kTokens >= 1 && kTokens <= 64,
                "kla: CudaDeferred remembers 1 to 64 tokens (all are replayed on each call); 8 to "
                "16 pays most");
  static constexpr std::string_view kName = "CudaDeferred";
  static constexpr std::string_view kInstructionSet = "sm_80";
};

template <>
inline constexpr bool kTakesDeviceLists<Cuda> = true;
template <int kTokens>
inline constexpr bool kTakesDeviceLists<CudaDeferred<kTokens>> = true;

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_CUDA_H_
