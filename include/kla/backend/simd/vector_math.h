// SPDX-License-Identifier: Apache-2.0
// backend/simd: vectors of the arithmetic type R (float or double) from and to any storage type,
// and operations on rows. Nothing here reads or writes past the elements it is given.
#ifndef KLA_BACKEND_SIMD_VECTOR_MATH_H_
#define KLA_BACKEND_SIMD_VECTOR_MATH_H_

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kla/backend/simd/target.h"
#include "kla/core/scalar.h"

#if KLA_SIMD_HAS_BF16_DOT
#include <immintrin.h>
#endif

// After the parameters of a lambda that must be inlined, as bodies of Unroll must.
#define KLA_SIMD_INLINE __attribute__((always_inline))

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

namespace hn = hwy::HWY_NAMESPACE;

template <class R>
using Tag = hn::ScalableTag<R>;
template <class R>
using Vector = hn::Vec<Tag<R>>;

// Lanes of one vector.
template <class R>
inline constexpr Index kLanes = static_cast<Index>(HWY_LANES(R));

constexpr Index RoundUp(Index n, Index multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// body(0), ..., body(kCount - 1) with constant arguments. An array of vectors that is indexed by
// them stays in registers; indexed by a loop variable, GCC 12 keeps it in memory.
template <int kCount, class F>
HWY_INLINE void Unroll(const F& body) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) KLA_SIMD_INLINE {
    (body(std::integral_constant<int, kIndex>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

// The low halves of 32-bit lanes below 2^16. (TruncateTo is wrong for 256-bit vectors of the
// AVX3_DL target in Highway 1.0.3; DemoteTo saturates, which does nothing to such lanes.)
template <class D>  // D: uint32_t
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> NarrowHalf(D d, hn::Vec<D> value) {
  const hn::RebindToSigned<D> integer;
  static_cast<void>(d);
  return hn::DemoteTo(hn::Rebind<std::uint16_t, D>(), hn::BitCast(integer, value));
}

// ---- Half-width storage ------------------------------------------------------------------------
// As bfloat16 and float16 of core/scalar.h: widening is exact, narrowing rounds to nearest even.

template <class D>  // D: float
HWY_INLINE hn::Vec<D> FromBfloat16(D d, hn::Vec<hn::Rebind<std::uint16_t, D>> half) {
  const hn::RebindToUnsigned<D> word;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(word, half)));
}

template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> ToBfloat16(D d, hn::Vec<D> value) {
#if KLA_SIMD_HAS_BF16_DOT
  // By instruction, which rounds alike but for subnormals: those become zero.
  if constexpr (hn::MaxLanes(d) == 16) {
    const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value.raw));
    return hn::Vec<hn::Rebind<std::uint16_t, D>>{half};
  }
#endif
  const hn::RebindToUnsigned<D> word;
  const auto bits = hn::BitCast(word, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(word, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(word, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(word, 0x400000));
  const auto is_nan = hn::RebindMask(word, hn::IsNaN(value));
  static_cast<void>(d);
  return NarrowHalf(word, hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded)));
}

// Conversions to and from binary16 by instruction: F16C,
// part of Highway's AVX2 and AVX-512 targets.
#define KLA_SIMD_HAS_F16C (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2)

template <class D>
HWY_INLINE hn::Vec<D> FromFloat16(D d, hn::Vec<hn::Rebind<std::uint16_t, D>> half) {
#if KLA_SIMD_HAS_F16C
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), half));
#else
  const hn::RebindToUnsigned<D> word;
  const hn::RebindToSigned<D> integer;
  const auto bits = hn::PromoteTo(word, half);
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(word, 0x8000)));
  const auto magnitude = hn::And(bits, hn::Set(word, 0x7fff));
  const auto as_integer = hn::BitCast(integer, magnitude);
  const auto normal = hn::Add(hn::ShiftLeft<13>(magnitude), hn::Set(word, 0x38000000));
  const auto infinite = hn::Or(hn::ShiftLeft<13>(magnitude), hn::Set(word, 0x7f800000));
  const auto tiny = hn::BitCast(word, hn::Mul(hn::ConvertTo(d, as_integer), hn::Set(d, 0x1p-24f)));
  const auto is_tiny = hn::RebindMask(word, hn::Lt(as_integer, hn::Set(integer, 0x400)));
  const auto is_infinite = hn::RebindMask(word, hn::Gt(as_integer, hn::Set(integer, 0x7bff)));
  const auto finite = hn::IfThenElse(is_tiny, tiny, normal);
  return hn::BitCast(d, hn::Or(sign, hn::IfThenElse(is_infinite, infinite, finite)));
#endif
}

template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint16_t, D>> ToFloat16(D d, hn::Vec<D> value) {
#if KLA_SIMD_HAS_F16C
  static_cast<void>(d);
  return hn::BitCast(hn::Rebind<std::uint16_t, D>(),
                     hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), value));
#else
  const hn::RebindToUnsigned<D> word;
  const hn::RebindToSigned<D> integer;
  const auto bits = hn::BitCast(word, value);
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(word, 0x8000));
  const auto magnitude = hn::And(bits, hn::Set(word, 0x7fffffff));
  const auto as_integer = hn::BitCast(integer, magnitude);
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(word, 1));
  const auto normal = hn::ShiftRight<13>(
      hn::Add(hn::Sub(magnitude, hn::Set(word, 0x38000000)), hn::Add(odd, hn::Set(word, 0xfff))));
  // Subnormal: adding 0.5 leaves the mantissa, rounded by the addition itself, in the low bits.
  const auto tiny = hn::Sub(hn::BitCast(word, hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f))),
                            hn::Set(word, 0x3f000000));
  const auto is_tiny = hn::RebindMask(word, hn::Lt(as_integer, hn::Set(integer, 0x38800000)));
  const auto is_huge = hn::RebindMask(word, hn::Gt(as_integer, hn::Set(integer, 0x477fefff)));
  const auto is_nan = hn::RebindMask(word, hn::Gt(as_integer, hn::Set(integer, 0x7f800000)));
  auto result = hn::IfThenElse(is_tiny, tiny, normal);
  result = hn::IfThenElse(is_huge, hn::Set(word, 0x7c00), result);
  result = hn::IfThenElse(is_nan, hn::Set(word, 0x7e00), result);
  return NarrowHalf(word, hn::Or(sign, result));
#endif
}

// ---- One vector from and to storage ------------------------------------------------------------

// kLanes elements of any storage type, as R. No alignment needed.
template <class D, class T>
HWY_INLINE hn::Vec<D> LoadAs(D d, const T* HWY_RESTRICT from) {
  using R = hn::TFromD<D>;
  if constexpr (std::is_same_v<T, R>) {
    return hn::LoadU(d, from);
  } else if constexpr (kIsHalfWidth<T> && std::is_same_v<R, float>) {
    const hn::Rebind<std::uint16_t, D> half;
    const auto bits = hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(from));
    if constexpr (std::is_same_v<T, bfloat16>) return FromBfloat16(d, bits);
    if constexpr (std::is_same_v<T, float16>) return FromFloat16(d, bits);
  } else if constexpr (std::is_same_v<R, double>) {
    return hn::PromoteTo(d, LoadAs(hn::Rebind<float, D>(), from));
  } else {  // float from double
    HWY_ALIGN R buffer[kLanes<R>];
    for (Index i = 0; i < kLanes<R>; ++i) buffer[i] = static_cast<R>(from[i]);
    return hn::Load(d, buffer);
  }
}

template <class D, class T>
HWY_INLINE void StoreAs(D d, hn::Vec<D> value, T* HWY_RESTRICT to) {
  using R = hn::TFromD<D>;
  if constexpr (std::is_same_v<T, R>) {
    hn::StoreU(value, d, to);
  } else if constexpr (kIsHalfWidth<T> && std::is_same_v<R, float>) {
    const hn::Rebind<std::uint16_t, D> half;
    auto* bits = reinterpret_cast<std::uint16_t*>(to);
    if constexpr (std::is_same_v<T, bfloat16>) hn::StoreU(ToBfloat16(d, value), half, bits);
    if constexpr (std::is_same_v<T, float16>) hn::StoreU(ToFloat16(d, value), half, bits);
  } else if constexpr (std::is_same_v<R, double>) {
    const hn::Rebind<float, D> narrow;
    StoreAs(narrow, hn::DemoteTo(narrow, value), to);
  } else {  // double from float
    HWY_ALIGN R buffer[kLanes<R>];
    hn::Store(value, d, buffer);
    for (Index i = 0; i < kLanes<R>; ++i) to[i] = static_cast<T>(buffer[i]);
  }
}

// The same with the arithmetic type named: LoadAs<float>(p), StoreAs<float>(value, p).
template <class R, class T>
HWY_INLINE Vector<R> LoadAs(const T* HWY_RESTRICT from) {
  return LoadAs(Tag<R>(), from);
}
template <class R, class T>
HWY_INLINE void StoreAs(Vector<R> value, T* HWY_RESTRICT to) {
  StoreAs(Tag<R>(), value, to);
}

// ---- Rows --------------------------------------------------------------------------------------

// |x|^2, |y|^2 and <x, y> of rows of `count` elements.
struct RowProducts {
  double xx, yy, xy;
};

// Summed in R, whose rounding is as fine as that of what the products are used for, and again in
// double where a square may have left the range of R.
template <class R, class T>
HWY_INLINE RowProducts MultiplyRows(const T* HWY_RESTRICT x, const T* HWY_RESTRICT y, Index count) {
  constexpr Index kStep = 2 * kLanes<R>;
  const Tag<R> d;
  Vector<R> xx[2], yy[2], xy[2];
  Unroll<2>([&](auto u) KLA_SIMD_INLINE { xx[u] = yy[u] = xy[u] = hn::Zero(d); });
  Index i = 0;
  for (; i + kStep <= count; i += kStep) {
    Unroll<2>([&](auto u) KLA_SIMD_INLINE {
      const auto a = LoadAs<R>(x + i + u * kLanes<R>);
      const auto b = LoadAs<R>(y + i + u * kLanes<R>);
      xx[u] = hn::MulAdd(a, a, xx[u]);
      yy[u] = hn::MulAdd(b, b, yy[u]);
      xy[u] = hn::MulAdd(a, b, xy[u]);
    });
  }
  const auto sum = [&](const Vector<R>(&parts)[2]) KLA_SIMD_INLINE {
    return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, hn::Add(parts[0], parts[1]))));
  };
  RowProducts result{sum(xx), sum(yy), sum(xy)};
  const auto add = [&](Index from) {
    for (Index j = from; j < count; ++j) {
      const auto a = static_cast<double>(x[j]), b = static_cast<double>(y[j]);
      result.xx += a * a;
      result.yy += b * b;
      result.xy += a * b;
    }
  };
  add(i);
  if constexpr (!std::is_same_v<R, double>) {
    const auto in_range = [](double square) { return square > 1e-24 && square < 1e36; };
    if (!(in_range(result.xx) && in_range(result.yy))) [[unlikely]] {
      result = {0.0, 0.0, 0.0};
      add(0);
    }
  }
  return result;
}

// A factor as a product of two, so that neither it nor a row times the first leaves the range of R:
// 1 / |k| of a huge or tiny key may be beyond float where k / |k| is not.
template <class R>
struct RowFactor {
  RowFactor() = default;
  explicit RowFactor(double factor) : first(1), second(static_cast<R>(factor)) {
    const double magnitude = std::abs(factor);
    if (magnitude < 1e-30 || magnitude > 1e30) [[unlikely]] {
      int exponent = 0;
      std::frexp(factor, &exponent);
      first = std::ldexp(R(1), exponent / 2);
      second = static_cast<R>(factor / static_cast<double>(first));
    }
  }
  R first, second;
};

// to[i] = factor from[i] for i < count, then zeros up to `padded`.
template <class R, class T>
HWY_INLINE void ScaleRow(const T* HWY_RESTRICT from, RowFactor<R> factor, Index count,
                         R* HWY_RESTRICT to, Index padded) {
  const Tag<R> d;
  const auto first = hn::Set(d, factor.first), second = hn::Set(d, factor.second);
  Index i = 0;
  for (; i + kLanes<R> <= count; i += kLanes<R>) {
    const auto x = LoadAs<R>(from + i);
    StoreAs<R>(hn::Mul(factor.first == R(1) ? x : hn::Mul(x, first), second), to + i);
  }
  for (; i < count; ++i) to[i] = static_cast<R>(from[i]) * factor.first * factor.second;
  for (; i < padded; ++i) to[i] = R(0);
}

// to[i] = from[i], converted with rounding to nearest even.
template <class R, class T>
void ConvertRow(const R* HWY_RESTRICT from, Index count, T* HWY_RESTRICT to) {
  const Tag<R> d;
  Index i = 0;
  for (; i + kLanes<R> <= count; i += kLanes<R>) StoreAs(d, LoadAs(d, from + i), to + i);
  for (; i < count; ++i) to[i] = internal::ConvertElement<T>(from[i]);
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_VECTOR_MATH_H_
