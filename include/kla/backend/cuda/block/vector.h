// SPDX-License-Identifier: Apache-2.0
// backend/cuda/block: 16 bytes of stored elements, the unit in which states are read and written.
#ifndef KLA_BACKEND_CUDA_BLOCK_VECTOR_H_
#define KLA_BACKEND_CUDA_BLOCK_VECTOR_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kla/backend/cuda/block/block.h"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// Elements in 16 bytes.
template <class T>
inline constexpr int kVectorLength = 16 / static_cast<int>(sizeof(T));

struct alignas(16) Words {
  std::uint32_t word[4];
};

KLA_BLOCK_FUNCTION Words LoadWords(const void* from) {
#if defined(__CUDACC__)
  const uint4 words = *static_cast<const uint4*>(from);
  return {words.x, words.y, words.z, words.w};
#else
  Words words;
  std::memcpy(&words, __builtin_assume_aligned(from, 16), 16);
  return words;
#endif
}

// The same in global memory, past the first-level cache, which never sees a state twice. Written
// as intrinsics, since the compiler takes a 16-byte store apart again.
KLA_BLOCK_FUNCTION Words LoadGlobalWords(const void* from) {
#if defined(__CUDACC__)
  const uint4 words = __ldcg(static_cast<const uint4*>(from));
  return {words.x, words.y, words.z, words.w};
#else
  return LoadWords(from);
#endif
}

KLA_BLOCK_FUNCTION void StoreGlobalWords(const Words& words, void* to) {
#if defined(__CUDACC__)
  __stcg(static_cast<uint4*>(to),
         make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]));
#else
  std::memcpy(__builtin_assume_aligned(to, 16), &words, 16);
#endif
}

// kBytes, 4 or 16, from global to shared memory by way of no register: the copies of a loop are all
// under way at once. In place after WaitForCopies and, for other threads, a barrier.
template <int kBytes>
KLA_BLOCK_FUNCTION void CopyToShared(const void* from, void* to) {
  static_assert(kBytes == 4 || kBytes == 16);
#if defined(__CUDACC__)
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from) : "memory");
  }
#else
  std::memcpy(__builtin_assume_aligned(to, kBytes), __builtin_assume_aligned(from, kBytes), kBytes);
#endif
}

KLA_BLOCK_FUNCTION void WaitForCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Two 16-bit elements, the first in the low half of the word.
template <class T>
KLA_BLOCK_FUNCTION std::uint32_t PackPair(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint32_t word;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  }
  return word;
#else
  return T(first).bits | static_cast<std::uint32_t>(T(second).bits) << 16;
#endif
}

template <class T>
KLA_BLOCK_FUNCTION float UnpackHalf(std::uint32_t bits) {
  T element;
  element.bits = static_cast<std::uint16_t>(bits);
  return static_cast<float>(element);
}

template <class T>
KLA_BLOCK_FUNCTION void UnpackWords(const Words& words, float* values) {
  KLA_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      values[i] = internal::BitCast<float>(words.word[i]);
    } else {
      values[2 * i] = UnpackHalf<T>(words.word[i] & 0xffffu);
      values[2 * i + 1] = UnpackHalf<T>(words.word[i] >> 16);
    }
  }
}

// kVectorLength<T> elements at a 16-byte aligned address, to and from float.
template <class T>
KLA_BLOCK_FUNCTION void LoadVector(const T* from, float* values) {
  UnpackWords<T>(LoadWords(from), values);
}
template <class T>
KLA_BLOCK_FUNCTION void LoadGlobalVector(const T* from, float* values) {
  UnpackWords<T>(LoadGlobalWords(from), values);
}

template <class T>
KLA_BLOCK_FUNCTION void StoreGlobalVector(const float* values, T* to) {
  Words words;
  KLA_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      words.word[i] = internal::BitCast<std::uint32_t>(values[i]);
    } else {
      words.word[i] = PackPair<T>(values[2 * i], values[2 * i + 1]);
    }
  }
  StoreGlobalWords(words, to);
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_BLOCK_VECTOR_H_
