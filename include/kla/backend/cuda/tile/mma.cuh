// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: the instructions behind tile/device.cuh, one function each. CUDA sources only.
#ifndef KLA_BACKEND_CUDA_TILE_MMA_CUH_
#define KLA_BACKEND_CUDA_TILE_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kla/backend/cuda/tile/layout.h"

namespace kla::internal::tile {
inline namespace on_device {

KLA_TILE_FUNCTION unsigned SharedAddress(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Two floats to the next terms of E, x in the lower half; the rests stay in x and y.
template <class E>
KLA_TILE_FUNCTION std::uint32_t Pack(float x, float y) {
  std::uint32_t pair;
  if constexpr (std::is_same_v<E, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(y), "f"(x));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(y), "f"(x));
  }
  return pair;
}
template <class E>
KLA_TILE_FUNCTION float2 Unpack(std::uint32_t pair) {
  if constexpr (std::is_same_v<E, bfloat16>) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
}
template <class E>
KLA_TILE_FUNCTION std::uint32_t NextPair(float& x, float& y) {
  const std::uint32_t pair = Pack<E>(x, y);
  const float2 term = Unpack<E>(pair);
  x -= term.x;
  y -= term.y;
  return pair;
}

// To a storage type, by the conversion instruction.
template <class T>
KLA_TILE_FUNCTION T Narrow(float x) {
  if constexpr (sizeof(T) == 2) {
    T out;
    out.bits = static_cast<std::uint16_t>(Pack<T>(x, 0.0f));
    return out;
  } else {
    return static_cast<T>(x);
  }
}

// Four 8 x 8 matrices of 16-bit elements; lane l passes the address of row l % 8 of matrix l / 8.
template <bool kTranspose>
KLA_TILE_FUNCTION void LoadMatrices(std::uint32_t (&r)[4], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define KLA_TILE_STORES_MATRICES true
#else
#define KLA_TILE_STORES_MATRICES false
#endif
// The reverse, into shared memory; from compute capability 9.0 on.
template <bool kTranspose>
KLA_TILE_FUNCTION void StoreMatrices(const std::uint32_t (&r)[4], void* row) {
#if KLA_TILE_STORES_MATRICES
  if constexpr (kTranspose) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%4], {%0, %1, %2, %3};\n" ::"r"(r[0]),
        "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(SharedAddress(row))
        : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%4], {%0, %1, %2, %3};\n" ::"r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(SharedAddress(row))
                 : "memory");
  }
#endif
}

// d [16, 8] += a [16, 16] b [16, 8]
template <class E>
KLA_TILE_FUNCTION void MultiplyAdd(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                   std::uint32_t b1) {
  if constexpr (std::is_same_v<E, bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// 8 elements from memory, widened.
template <class T>
KLA_TILE_FUNCTION void LoadUnit(const T* from, bool aligned, float (&x)[8]) {
  if (aligned) {
    constexpr int kPerLoad = 16 / sizeof(T);
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; i += kPerLoad) {
      alignas(16) T part[kPerLoad];
      *reinterpret_cast<uint4*>(part) = *reinterpret_cast<const uint4*>(from + i);
      KLA_TILE_UNROLL
      for (int j = 0; j < kPerLoad; ++j) x[i + j] = static_cast<float>(part[j]);
    }
  } else {
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(from[i]);
  }
}
template <class T>
KLA_TILE_FUNCTION void StoreUnit(T* to, bool aligned, const float (&x)[8]) {
  if (aligned) {
    constexpr int kPerStore = 16 / sizeof(T);
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; i += kPerStore) {
      alignas(16) T part[kPerStore];
      KLA_TILE_UNROLL
      for (int j = 0; j < kPerStore; ++j) part[j] = Narrow<T>(x[i + j]);
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(part);
    }
  } else {
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; ++i) to[i] = Narrow<T>(x[i]);
  }
}
template <class E>
KLA_TILE_FUNCTION void StoreNextTerm(float (&x)[8], E* to) {
  uint4 pairs;
  pairs.x = NextPair<E>(x[0], x[1]);
  pairs.y = NextPair<E>(x[2], x[3]);
  pairs.z = NextPair<E>(x[4], x[5]);
  pairs.w = NextPair<E>(x[6], x[7]);
  *reinterpret_cast<uint4*>(to) = pairs;
}
template <class T>
KLA_TILE_FUNCTION void CopyUnit(T* to, const T* from, bool aligned) {
  if (aligned) {
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; i += 16 / static_cast<int>(sizeof(T))) {
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    }
  } else {
    KLA_TILE_UNROLL
    for (int i = 0; i < 8; ++i) to[i] = from[i];
  }
}

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_MMA_CUH_
