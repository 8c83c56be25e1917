// SPDX-License-Identifier: Apache-2.0
// backend/cuda: what a kernel would only answer with a fault is refused on the host.
#ifndef KLA_BACKEND_CUDA_CHECK_ALIGNED_H_
#define KLA_BACKEND_CUDA_CHECK_ALIGNED_H_

#include <cstdint>
#include <string>

#include "kla/core/check.h"

namespace kla::device {

// A pointer that a kernel reads element by element.
template <class T>
void CheckAligned(const char* operation, const char* argument, const T* pointer) {
  KLA_CHECK(reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) == 0, operation, argument,
            "an address aligned to " + std::to_string(alignof(T)) + " bytes", "another one");
}

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHECK_ALIGNED_H_
