// SPDX-License-Identifier: Apache-2.0
// tests/support: arrays of the host in device memory, with the same strides and misalignment.
#ifndef KLA_TESTS_SUPPORT_DEVICE_COPY_CUH_
#define KLA_TESTS_SUPPORT_DEVICE_COPY_CUH_

#include <cstdint>
#include <type_traits>

#include "kla/backend/cuda/runtime/device_memory.cuh"
#include "kla/core/view.h"

namespace kla::test {

// From the view's first element to its last, padding included.
template <class V>
class DeviceCopy {
 public:
  using T = std::remove_const_t<typename V::Element>;

  explicit DeviceCopy(const V& host) : host_(host) {
    if (host.is_null()) return;
    Index last = 0;
    bool empty = false;
    for (std::size_t i = 0; i < V::kRank; ++i) {
      empty = empty || host.extents()[i] == 0;
      last += (host.extents()[i] - 1) * host.strides()[i];
    }
    const auto misplaced = reinterpret_cast<std::uintptr_t>(host.data()) % 16 / sizeof(T);
    offset_ = static_cast<Index>(misplaced);
    size_ = empty ? 0 : last + 1;
    memory_ = internal::device::DeviceMemory<T>(size_ + offset_ + 1);
    internal::device::CopyAndWait(const_cast<const T*>(host.data()), memory_.data() + offset_,
                                  size_, nullptr);
  }

  V view() const {
    return host_.is_null() ? host_ : V(memory_.data() + offset_, host_.extents(), host_.strides());
  }
  // Back to where it came from.
  void CopyBack() const requires(!std::is_const_v<typename V::Element>) {
    internal::device::CopyAndWait(const_cast<const T*>(memory_.data() + offset_), host_.data(),
                                  size_, nullptr);
  }

 private:
  V host_;
  internal::device::DeviceMemory<T> memory_;
  Index offset_ = 0, size_ = 0;
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_DEVICE_COPY_CUH_
