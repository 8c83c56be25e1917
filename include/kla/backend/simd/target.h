// SPDX-License-Identifier: Apache-2.0
// backend/simd: the tag `kla::Simd`, which names the instruction set that this file is compiled
// for.
//
// Highway's static dispatch: -march (or its lack) picks the target, a namespace N_AVX3, N_AVX2, ...
// of its own. The tag and everything that the kernels call lives in that namespace, so that two
// objects compiled for different instruction sets share no function and can be linked into one
// program.
#ifndef KLA_BACKEND_SIMD_TARGET_H_
#define KLA_BACKEND_SIMD_TARGET_H_

// Highway 1.0.3 stops with "best baseline should be included in dynamic targets" where the
// compiler's own target already is its AVX3_DL (-march=native on Zen 5), unless this is set.
#if !defined(HWY_WANT_AVX3_DL) && defined(__AVX512VBMI2__) && defined(__AVXVNNI__)
#define HWY_WANT_AVX3_DL
#endif

// And it takes any of its x86 targets from SSE4 up only together with PCLMUL and AES, which
// -march=x86-64-v3 and -v4 do not name: without this they would silently become SSSE3.
#if !defined(HWY_DISABLE_PCLMUL_AES) && !(defined(__PCLMUL__) && defined(__AES__))
#define HWY_DISABLE_PCLMUL_AES
#endif

#include <hwy/highway.h>

#include <string_view>

#if HWY_HAVE_SCALABLE
#error \
    "kla: the Simd backend keeps vectors in arrays, which needs a fixed vector length; \
compile with -msve-vector-bits or use kla::Reference"
#endif

// The dot product of bfloat16 pairs is not part of any Highway target of that version. Objects
// compiled with and without it must not share kernels either.
#if defined(__AVX512BF16__) && HWY_TARGET <= HWY_AVX3
#define KLA_SIMD_HAS_BF16_DOT 1
#define KLA_SIMD_VARIANT with_bf16_dot
#define KLA_SIMD_VARIANT_NAME "+BF16"
#else
#define KLA_SIMD_HAS_BF16_DOT 0
#define KLA_SIMD_VARIANT without_bf16_dot
#define KLA_SIMD_VARIANT_NAME ""
#endif

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Vectors of the widest registers that the compiler may use.
struct Simd {
  static constexpr std::string_view kName = "Simd";
  // "AVX3", "AVX2", "SSE4", "NEON", "SCALAR", ...: Highway's
  // names, and "+BF16" where it has the dot.
  static constexpr std::string_view kInstructionSet =
      std::string_view(HWY_STR(HWY_NAMESPACE) KLA_SIMD_VARIANT_NAME).substr(2);
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

using Simd = HWY_NAMESPACE::Simd;

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_TARGET_H_
