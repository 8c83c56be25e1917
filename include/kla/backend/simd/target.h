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

#if (HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128) && !defined(KLA_ALLOW_SCALAR)
// A message rather than a warning: -Werror does not stop at it.
#pragma message( \
    "kla: the Simd kernels are compiled without vector instructions, several times slower; compile with \
-march=native or -march=x86-64-v3, or define KLA_ALLOW_SCALAR to be told no more")
#endif

// The dot product of bfloat16 pairs, and tiles of them (AMX), are not part of any Highway target of
// that version. Objects compiled with and without them must not share kernels either.
#if defined(__AVX512BF16__) && HWY_TARGET <= HWY_AVX3
#define KLA_SIMD_HAS_BF16_DOT 1
#else
#define KLA_SIMD_HAS_BF16_DOT 0
#endif
#if KLA_SIMD_HAS_BF16_DOT && defined(__linux__) &&       \
    ((defined(__AMX_TILE__) && defined(__AMX_BF16__)) || \
     (defined(__AMXTILE__) && defined(__AMXBF16__)))
#define KLA_SIMD_HAS_BF16_TILES 1
#else
#define KLA_SIMD_HAS_BF16_TILES 0
#endif

#if KLA_SIMD_HAS_BF16_TILES
#define KLA_SIMD_VARIANT with_bf16_tiles
#define KLA_SIMD_VARIANT_NAME "+BF16+AMX"
#elif KLA_SIMD_HAS_BF16_DOT
#define KLA_SIMD_VARIANT with_bf16_dot
#define KLA_SIMD_VARIANT_NAME "+BF16"
#else
#define KLA_SIMD_VARIANT without_bf16
#define KLA_SIMD_VARIANT_NAME ""
#endif

#if KLA_SIMD_HAS_BF16_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

#if KLA_SIMD_HAS_BF16_TILES
// Whether this process may use tile registers; asks at the first call. Linux grants them on
// request, once for all its threads, because they enlarge what it saves of a thread; where it
// refuses, kernels multiply floats instead.
inline bool TilesAreAllowed() {
  static const bool allowed = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return allowed;
}
#endif

// Vectors of the widest registers that the compiler may use.
struct Simd {
  static constexpr std::string_view kName = "Simd";
  // "AVX3", "AVX2", "SSE4", "NEON", "SCALAR", ...: Highway's names, and "+BF16" and "+AMX" where it
  // has the dot and the tiles.
  static constexpr std::string_view kInstructionSet =
      std::string_view(HWY_STR(HWY_NAMESPACE) KLA_SIMD_VARIANT_NAME).substr(2);

  // What the system refuses this process of it.
  static std::string_view Refused() {
#if KLA_SIMD_HAS_BF16_TILES
    if (!TilesAreAllowed()) return " (AMX refused)";
#endif
    return "";
  }
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

using Simd = HWY_NAMESPACE::Simd;

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_TARGET_H_
