// SPDX-License-Identifier: Apache-2.0
// backend/cuda/runtime: what a kernel would only answer with a fault is refused on the host.
#ifndef KLA_BACKEND_CUDA_RUNTIME_CHECK_MEMORY_H_
#define KLA_BACKEND_CUDA_RUNTIME_CHECK_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "kla/core/check.h"

namespace kla::internal::device {

// A pointer that a kernel reads element by element.
template <class T>
void CheckAligned(const char* operation, const char* argument, const T* pointer) {
  KLA_CHECK(reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) == 0, operation, argument,
            "an address aligned to " + std::to_string(alignof(T)) + " bytes", "another one");
}

// Memory of the caller's, of as many bytes as asked for.
inline void CheckWorkspace(const char* operation, const void* workspace, std::size_t given,
                           std::size_t needed) {
  KLA_CHECK(given >= needed && (workspace != nullptr || needed == 0), operation, "workspace",
            std::to_string(needed) + " bytes (WorkspaceBytes)",
            workspace == nullptr ? "a null pointer" : std::to_string(given));
  KLA_CHECK(reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0, operation, "workspace",
            "memory aligned to 256 bytes", "a misaligned pointer");
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_RUNTIME_CHECK_MEMORY_H_
