// SPDX-License-Identifier: Apache-2.0
// core: element types and the types they are computed in. Host and device; no backend.
#ifndef KLA_CORE_SCALAR_H_
#define KLA_CORE_SCALAR_H_

#if __cplusplus < 202002L
#error "kla needs C++20: compile with -std=c++20"
#endif

#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define KLA_HOST_DEVICE __host__ __device__
#else
#define KLA_HOST_DEVICE
#endif

// For small functions that run on every call and whose type names no backend. Objects compiled for
// different instruction sets and linked into one program would share one compiled copy of such a
// function, and a processor could meet instructions that it lacks; inlined, there is no copy.
#define KLA_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace kla {

// Sizes, offsets and strides are 64-bit everywhere: B*T*H*K passes 2^31 at ordinary sizes.
using Index = std::int64_t;

namespace internal {
// std::bit_cast that device code can call as well.
template <class To, class From>
KLA_HOST_DEVICE constexpr To BitCast(const From& value) {
  return __builtin_bit_cast(To, value);
}
}  // namespace internal

// Storage formats of 16 bits. Arithmetic is never done in them: they convert to float, and back
// with rounding to nearest, ties to even.

// 8 exponent and 7 mantissa bits: the upper half of a float.
struct bfloat16 {
  bfloat16() = default;
  KLA_HOST_DEVICE explicit bfloat16(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    const auto word = internal::BitCast<std::uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = word + 0x7fffu + ((word >> 16) & 1u);
    bits = static_cast<std::uint16_t>((is_nan ? (word | 0x400000u) : rounded) >> 16);
#endif
  }
  KLA_HOST_DEVICE operator float() const {  // NOLINT(google-explicit-constructor)
    return internal::BitCast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  std::uint16_t bits = 0;
};

// IEEE 754 binary16: 5 exponent and 10 mantissa bits; overflows to infinity above 65504.
struct float16 {
  float16() = default;
  KLA_HOST_DEVICE explicit float16(float value) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    const auto word = internal::BitCast<std::uint32_t>(value);
    const std::uint32_t sign = (word >> 16) & 0x8000u;
    const std::uint32_t magnitude = word & 0x7fffffffu;
    std::uint32_t half;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      half = 0x7c00u;  // rounds to infinity
    } else if (magnitude < 0x38800000u) {
      // Subnormal: adding 0.5 leaves the mantissa, rounded by the addition itself, in the low bits.
      half = internal::BitCast<std::uint32_t>(internal::BitCast<float>(magnitude) + 0.5f) -
             0x3f000000u;
    } else {
      half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    bits = static_cast<std::uint16_t>(sign | half);
#endif
  }
  KLA_HOST_DEVICE operator float() const {  // NOLINT(google-explicit-constructor)
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    std::uint32_t word;
    if (magnitude >= 0x7c00u) {
      word = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    } else if (magnitude < 0x400u) {
      word = internal::BitCast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
    } else {
      word = (magnitude << 13) + 0x38000000u;
    }
    return internal::BitCast<float>(sign | word);
#endif
  }
  std::uint16_t bits = 0;
};

template <class T>
inline constexpr bool kIsHalfWidth = std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

namespace internal {
template <class T>
struct ScalarTypes {  // float, double, or a caller's scalar, such as one that carries derivatives
  using Accumulator = T;
  using Wide = T;
};
template <>
struct ScalarTypes<float> {
  using Accumulator = float;
  using Wide = double;
};
template <>
struct ScalarTypes<bfloat16> : ScalarTypes<float> {};
template <>
struct ScalarTypes<float16> : ScalarTypes<float> {};
}  // namespace internal

// The type in which products of T are summed, and in which gates, step sizes and, by default,
// states are held: float for bfloat16, float16 and float, otherwise T.
template <class T>
using Accumulator = typename internal::ScalarTypes<std::remove_const_t<T>>::Accumulator;

// The type of the few scalars per token on which everything else depends (squared norms, cumulative
// log decay): double for float and below, so that |k|^2 cannot overflow, otherwise T.
template <class T>
using Wide = typename internal::ScalarTypes<std::remove_const_t<T>>::Wide;

namespace internal {
// Between storage types, rounded to nearest; from double to 16 bits by way of float.
template <class To, class From>
KLA_ALWAYS_INLINE To ConvertElement(const From& value) {
  return static_cast<To>(static_cast<Accumulator<To>>(static_cast<Accumulator<From>>(value)));
}
}  // namespace internal

}  // namespace kla

#endif  // KLA_CORE_SCALAR_H_
