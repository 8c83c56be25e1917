// SPDX-License-Identifier: Apache-2.0
// backend/cuda/runtime: owned device memory, and whether a pointer points into it.
#ifndef KLA_BACKEND_CUDA_RUNTIME_DEVICE_MEMORY_CUH_
#define KLA_BACKEND_CUDA_RUNTIME_DEVICE_MEMORY_CUH_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "kla/backend/cuda/runtime/status.cuh"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// `size` elements on the current device, aligned to 256 bytes; not initialised. A copy is made on
// the default stream.
template <class T>
class DeviceMemory {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceMemory() = default;
  explicit DeviceMemory(Index size) : size_(size) {
    if (size > 0) {
      CheckCuda(cudaMalloc(reinterpret_cast<void**>(&data_), Bytes()), "allocating device memory");
    }
  }
  DeviceMemory(const DeviceMemory& other) : DeviceMemory(other.size_) {
    if (size_ == 0) return;
    CheckCuda(cudaMemcpy(data_, other.data_, Bytes(), cudaMemcpyDeviceToDevice),
              "copying device memory");
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceMemory& operator=(DeviceMemory other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceMemory() { cudaFree(data_); }

  T* data() const { return data_; }
  Index size() const { return size_; }
  std::size_t Bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  // Queued on a stream. All-zero bits.
  void Zero(Index begin, Index count, cudaStream_t stream) const {
    if (count == 0) return;
    CheckCuda(
        cudaMemsetAsync(data_ + begin, 0, static_cast<std::size_t>(count) * sizeof(T), stream),
        "clearing device memory");
  }
  void CopyWithin(Index from, Index to, Index count, cudaStream_t stream) const {
    if (count == 0) return;
    CheckCuda(cudaMemcpyAsync(data_ + to, data_ + from, static_cast<std::size_t>(count) * sizeof(T),
                              cudaMemcpyDeviceToDevice, stream),
              "copying device memory");
  }

 private:
  T* data_ = nullptr;
  Index size_ = 0;
};

// Copies `count` elements and waits until both sides may be used again. Either side may be host or
// device memory.
template <class T>
void CopyAndWait(const T* from, T* to, Index count, cudaStream_t stream) {
  if (count == 0) return;
  CheckCuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(T),
                            cudaMemcpyDefault, stream),
            "copying between host and device");
  CheckCuda(cudaStreamSynchronize(stream), "copying between host and device");
}

// Memory that kernels can read: of a device, or managed.
inline bool IsDevicePointer(const void* pointer) {
  cudaPointerAttributes attributes{};
  CheckCuda(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_RUNTIME_DEVICE_MEMORY_CUH_
