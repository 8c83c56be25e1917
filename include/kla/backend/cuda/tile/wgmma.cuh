// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: wgmma of sm_90a, the matrix instruction of a whole group: the left factor and
// the sums in registers in the same layout as mma.sync, the right factor read from shared memory by
// the matrix unit itself, asynchronously. CUDA sources only.
#ifndef KLA_BACKEND_CUDA_TILE_WGMMA_CUH_
#define KLA_BACKEND_CUDA_TILE_WGMMA_CUH_

#include <cstdint>

#include "kla/backend/cuda/tile/mma.cuh"

namespace kla::internal::tile {
inline namespace on_device {

// Where a right factor lies: its address, the distance of its panels, the distance of its groups of
// 8 rows (PTX: leading and stride dimension byte offset), and the permutation of Operand.
template <int kPanel>
KLA_TILE_FUNCTION std::uint64_t MatrixDescriptor(const void* at, int panel_bytes) {
  constexpr std::uint64_t kSwizzle = kPanel == 64 ? 1 : kPanel == 32 ? 2 : 3;
  constexpr std::uint64_t kEightRows = 8 * kPanel * 2;
  return (SharedAddress(at) >> 4 & 0x3fffu) | static_cast<std::uint64_t>(panel_bytes >> 4) << 16 |
         (kEightRows >> 4) << 32 | kSwizzle << 62;
}

KLA_TILE_FUNCTION void BeginAsyncProducts() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
KLA_TILE_FUNCTION void CommitAsyncProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int kPending>
KLA_TILE_FUNCTION void WaitAsyncProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// d [64, kN] += a [64, 16] b [16, kN]; kTransposed 1: the rows of b in memory are the inner axis.
template <int kN>
struct AsyncProduct;

// The text and the operands of one instruction; inline assembly takes both as literals only.
// clang-format off
#define KLA_PLACES_8  "%0, %1, %2, %3, %4, %5, %6, %7"
#define KLA_PLACES_16 KLA_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define KLA_PLACES_32 KLA_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KLA_PLACES_48 KLA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define KLA_PLACES_64 KLA_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KLA_SUMS_4(i)  "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define KLA_SUMS_8(i)  KLA_SUMS_4(i), KLA_SUMS_4((i) + 1)
#define KLA_SUMS_16(i) KLA_SUMS_8(i), KLA_SUMS_8((i) + 2)
#define KLA_SUMS_32(i) KLA_SUMS_16(i), KLA_SUMS_16((i) + 4)
#define KLA_SUMS_48(i) KLA_SUMS_32(i), KLA_SUMS_16((i) + 8)
#define KLA_SUMS_64(i) KLA_SUMS_32(i), KLA_SUMS_32((i) + 8)
// n columns, `sums` = n / 2 of d a thread; the places behind them are of a, b and kTransposed.
#define KLA_ASYNC_PRODUCT(n, sums, places_of_a, place_of_b, place_of_transposed, type)          \
  asm volatile("{.reg .pred p;\n setp.ne.b32 p, 1, 0;\n"                                        \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                  \
               " {" KLA_PLACES_##sums "}, {" places_of_a "}, " place_of_b ", p, 1, 1, "         \
               place_of_transposed ";\n}\n"                                                     \
               : KLA_SUMS_##sums(0)                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kTransposed))
#define KLA_ASYNC_PRODUCTS(n, sums, places_of_a, place_of_b, place_of_transposed)               \
  template <>                                                                                   \
  struct AsyncProduct<n> {                                                                      \
    template <class E, int kTransposed>                                                         \
    KLA_TILE_FUNCTION static void Issue(float (*d)[4], const std::uint32_t (&a)[4],             \
                                        std::uint64_t b) {                                      \
      if constexpr (std::is_same_v<E, bfloat16>) {                                              \
        KLA_ASYNC_PRODUCT(n, sums, places_of_a, place_of_b, place_of_transposed, "bf16");       \
      } else {                                                                                  \
        KLA_ASYNC_PRODUCT(n, sums, places_of_a, place_of_b, place_of_transposed, "f16");        \
      }                                                                                         \
    }                                                                                           \
  }
KLA_ASYNC_PRODUCTS(16, 8, "%8, %9, %10, %11", "%12", "%13");
KLA_ASYNC_PRODUCTS(32, 16, "%16, %17, %18, %19", "%20", "%21");
KLA_ASYNC_PRODUCTS(64, 32, "%32, %33, %34, %35", "%36", "%37");
KLA_ASYNC_PRODUCTS(96, 48, "%48, %49, %50, %51", "%52", "%53");
KLA_ASYNC_PRODUCTS(128, 64, "%64, %65, %66, %67", "%68", "%69");
// d [64, 64] = kAdd d + a [64, 16] b [16, 64], a and b in shared memory, the inner axis along their rows.
#define KLA_ASYNC_SHARED_PRODUCT(type)                                                          \
  asm volatile("{.reg .pred p;\n setp.ne.b32 p, %34, 0;\n"                                        \
               "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                      \
               " {" KLA_PLACES_32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"                            \
               : KLA_SUMS_32(0)                                                                 \
               : "l"(a), "l"(b), "n"(kAdd))
template <class E, int kAdd>
KLA_TILE_FUNCTION void IssueSharedProduct(float (*d)[4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<E, bfloat16>) {
    KLA_ASYNC_SHARED_PRODUCT("bf16");
  } else {
    KLA_ASYNC_SHARED_PRODUCT("f16");
  }
}
#undef KLA_ASYNC_SHARED_PRODUCT
#undef KLA_ASYNC_PRODUCTS
#undef KLA_ASYNC_PRODUCT
#undef KLA_SUMS_64
#undef KLA_SUMS_48
#undef KLA_SUMS_32
#undef KLA_SUMS_16
#undef KLA_SUMS_8
#undef KLA_SUMS_4
#undef KLA_PLACES_64
#undef KLA_PLACES_48
#undef KLA_PLACES_32
#undef KLA_PLACES_16
#undef KLA_PLACES_8
// clang-format on

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_WGMMA_CUH_
