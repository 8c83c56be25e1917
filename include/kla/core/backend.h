// SPDX-License-Identifier: Apache-2.0
// core: the backend tags that need no library of their own. `Simd` is declared in
// backend/simd/simd.h, since its type must differ between instruction sets, `Cuda` in
// backend/cuda/cuda.h.
#ifndef KLA_CORE_BACKEND_H_
#define KLA_CORE_BACKEND_H_

#include <string_view>

namespace kla {

// Plain loops over math/, for any scalar: the oracle.
struct Reference {
  static constexpr std::string_view kName = "Reference";
  static constexpr std::string_view kInstructionSet = "scalar";
};

}  // namespace kla

#endif  // KLA_CORE_BACKEND_H_
