// SPDX-License-Identifier: Apache-2.0
// backend/cuda: matrix products of a layer, by cuBLAS, those with one row by a kernel.
#ifndef KLA_BACKEND_CUDA_PRODUCTS_CUH_
#define KLA_BACKEND_CUDA_PRODUCTS_CUH_

#include <cublas_v2.h>

#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kla/backend/cuda/executor.cuh"
#include "kla/backend/cuda/launch.cuh"
#include "kla/backend/cuda/row_product.h"
#include "kla/core/check.h"
#include "kla/core/scalar.h"

namespace kla {

// A cuBLAS handle of the device that is current when it is made. Layers and threads may share one:
// what a call needs is set under a lock, and the memory that it works in is the call's own.
class CudaProducts {
 public:
  CudaProducts() { Check(cublasCreate(&handle_), "cublasCreate"); }
  ~CudaProducts() { cublasDestroy(handle_); }
  CudaProducts(const CudaProducts&) = delete;
  CudaProducts& operator=(const CudaProducts&) = delete;

  // c [m, n] = a b^T, a [m, k], b [n, k], row-major, sums in float. Queued; `memory` is what cuBLAS
  // may use until the stream has passed the product.
  // A matrix is a MatrixRef (layer/panels.h). True if this was the kernel for one row, which does
  // not keep a kernel behind it from overlapping, and may itself overlap the one ahead of it.
  template <class A, class C, class Memory>
  bool Multiply(const A& a, const A& b, const C& c, const Memory& memory,
                const CudaExecutor& executor, bool overlaps = false) const {
    if (c.rows == 0 || c.columns == 0) return false;
    using T = std::remove_pointer_t<decltype(c.data)>;
    constexpr cudaDataType_t kType = std::is_same_v<T, float>      ? CUDA_R_32F
                                     : std::is_same_v<T, bfloat16> ? CUDA_R_16BF
                                                                   : CUDA_R_16F;
    if (overlaps ? device::MultiplyRow(a, b, c, device::OverlappingLauncher(executor.stream))
                 : device::MultiplyRow(a, b, c, device::DeviceLauncher(executor.stream))) {
      return true;
    }
    const float one = 1, zero = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    Check(cublasSetStream(handle_, executor.stream), "cublasSetStream");
    Check(cublasSetWorkspace(handle_, memory.data(), static_cast<std::size_t>(memory.size())),
          "cublasSetWorkspace");
    // cuBLAS counts matrices by columns: c^T [n, m] = (b^T)^T a^T.
    Check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, Size(c.columns), Size(c.rows),
                       Size(a.columns), &one, b.data, kType, Size(b.stride), a.data, kType,
                       Size(a.stride), &zero, c.data, kType, Size(c.stride), CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
    return false;
  }

 private:
  static int Size(Index size) {
    KLA_CHECK(size <= std::numeric_limits<int>::max(), "KlaLayer", "x",
              "fewer than 2^31 rows and columns", std::to_string(size));
    return static_cast<int>(size);
  }
  static void Check(cublasStatus_t status, const char* step) {
    if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]] {
      throw std::runtime_error(std::string("kla: ") + step + ": " + cublasGetStatusString(status));
    }
  }

  cublasHandle_t handle_ = nullptr;
  mutable std::mutex mutex_;
};

}  // namespace kla

#endif  // KLA_BACKEND_CUDA_PRODUCTS_CUH_
