// SPDX-License-Identifier: Apache-2.0
// backend/cuda/runtime: the one place where a CUDA status becomes an exception.
#ifndef KLA_BACKEND_CUDA_RUNTIME_STATUS_CUH_
#define KLA_BACKEND_CUDA_RUNTIME_STATUS_CUH_

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace kla {

// A call of the CUDA runtime failed: what() names the step and the runtime's own words, code() the
// status.
class CudaError : public std::runtime_error {
 public:
  CudaError(cudaError_t code, const std::string& step)
      : std::runtime_error("kla: " + step + ": " + cudaGetErrorName(code) + ": " +
                           cudaGetErrorString(code)),
        code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

namespace internal::device {

inline void CheckCuda(cudaError_t status, const char* step) {
  if (status != cudaSuccess) [[unlikely]] {
    cudaGetLastError();  // the error is reported here; the next call starts clean
    throw CudaError(status, step);
  }
}

}  // namespace internal::device
}  // namespace kla

#endif  // KLA_BACKEND_CUDA_RUNTIME_STATUS_CUH_
