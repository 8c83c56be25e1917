// SPDX-License-Identifier: Apache-2.0
// core: the backend tags that need no library of their own, and the name of Cuda, so that who uses
// it without kla/cuda.cuh is told. `Simd` is declared in backend/simd/target.h, since its type must
// differ between instruction sets.
#ifndef KLA_CORE_BACKEND_H_
#define KLA_CORE_BACKEND_H_

#include <string_view>

namespace kla {

// Plain loops over math/, for any scalar: the oracle.
struct Reference {
  static constexpr std::string_view kName = "Reference";
  static constexpr std::string_view kInstructionSet = "scalar";
};

struct Cuda;  // defined in backend/cuda/cuda.h, its kernels in kla/cuda.cuh

}  // namespace kla

#endif  // KLA_CORE_BACKEND_H_
