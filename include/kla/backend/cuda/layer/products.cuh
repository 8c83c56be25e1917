// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: matrix products of a layer, by cuBLAS, those with one row by a kernel.
#ifndef KLA_BACKEND_CUDA_LAYER_PRODUCTS_CUH_
#define KLA_BACKEND_CUDA_LAYER_PRODUCTS_CUH_

#include <cublas_v2.h>

#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kla/backend/cuda/block/launch.cuh"
#include "kla/backend/cuda/executor.cuh"
#include "kla/backend/cuda/layer/row_product.h"
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

  // Matrices are row-major MatrixRefs (layer/panels.h); sums are in float. Products are queued;
  // `memory` is what cuBLAS may use until the stream has passed the product.

  // c [m, n] = a b^T, a [m, k], b [n, k]. True if this was the kernel for one row, which does not
  // keep a kernel behind it from overlapping, and may itself overlap the one ahead of it.
  template <class A, class C, class Memory>
  bool Multiply(const A& a, const A& b, const C& c, const Memory& memory,
                const CudaExecutor& executor, bool overlaps = false) const {
    if (c.rows == 0 || c.columns == 0) return false;
    if (overlaps ? internal::device::MultiplyRow(
                       a, b, c, internal::device::OverlappingLauncher(executor.stream))
                 : internal::device::MultiplyRow(
                       a, b, c, internal::device::DeviceLauncher(executor.stream))) {
      return true;
    }
    Queue(a, CUBLAS_OP_N, b, CUBLAS_OP_T, a.columns, c, 0.0f, memory, executor);
    return false;
  }
  // c [m, n] = a b, a [m, k], b [k, n].
  template <class A, class C, class Memory>
  void MultiplyAsIs(const A& a, const A& b, const C& c, const Memory& memory,
                    const CudaExecutor& executor) const {
    Queue(a, CUBLAS_OP_N, b, CUBLAS_OP_N, a.columns, c, 0.0f, memory, executor);
  }
  // c [m, n] = a^T b, or c += a^T b; a [k, m], b [k, n]. c may be float where a and b are not.
  template <class A, class C, class Memory>
  void MultiplyTransposed(const A& a, const A& b, const C& c, bool accumulate, const Memory& memory,
                          const CudaExecutor& executor) const {
    Queue(a, CUBLAS_OP_T, b, CUBLAS_OP_N, a.rows, c, accumulate ? 1.0f : 0.0f, memory, executor);
  }

 private:
  // c = a' b' + keep c of depth k, where a' is a or a^T.
  template <class A, class C, class Memory>
  void Queue(const A& a, cublasOperation_t a_operation, const A& b, cublasOperation_t b_operation,
             Index depth, const C& c, float keep, const Memory& memory,
             const CudaExecutor& executor) const {
    if (c.rows == 0 || c.columns == 0) return;
    const float one = 1;
    const std::lock_guard<std::mutex> lock(mutex_);
    Check(cublasSetStream(handle_, executor.stream), "cublasSetStream");
    Check(cublasSetWorkspace(handle_, memory.data(), static_cast<std::size_t>(memory.size())),
          "cublasSetWorkspace");
    // cuBLAS counts matrices by columns: c^T = b'^T a'^T, and what it reads is b^T and a^T.
    Check(cublasGemmEx(handle_, b_operation, a_operation, Size(c.columns), Size(c.rows),
                       Size(depth), &one, b.data, kTypeOf<decltype(b.data)>, Size(b.stride), a.data,
                       kTypeOf<decltype(a.data)>, Size(a.stride), &keep, c.data,
                       kTypeOf<decltype(c.data)>, Size(c.stride), CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  }

  template <class Pointer, class T = std::remove_const_t<std::remove_pointer_t<Pointer>>>
  static constexpr cudaDataType_t kTypeOf = std::is_same_v<T, float>      ? CUDA_R_32F
                                            : std::is_same_v<T, bfloat16> ? CUDA_R_16BF
                                                                          : CUDA_R_16F;
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

#endif  // KLA_BACKEND_CUDA_LAYER_PRODUCTS_CUH_
