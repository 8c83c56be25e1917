// SPDX-License-Identifier: Apache-2.0
// backend: the fastest backend that a CPU translation unit can use, and its name.
#ifndef KLA_BACKEND_DEFAULT_BACKEND_H_
#define KLA_BACKEND_DEFAULT_BACKEND_H_

#include <string>

#include "kla/backend/simd/target.h"

namespace kla {

using DefaultBackend = Simd;

// Backend and instruction set, such as "Simd/AVX2" or "Simd/AVX3_DL+BF16+AMX": what this
// translation unit was compiled for, and what of it the system refuses. Print it where speed
// matters; the library itself prints nothing. (To know that, it asks the system for AMX where it is
// compiled in.)
template <class Backend = DefaultBackend>
std::string BackendName() {
  std::string name = std::string(Backend::kName) + "/" + std::string(Backend::kInstructionSet);
  if constexpr (requires { Backend::Refused(); }) name += Backend::Refused();
  return name;
}

}  // namespace kla

#endif  // KLA_BACKEND_DEFAULT_BACKEND_H_
