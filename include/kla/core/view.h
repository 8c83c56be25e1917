// SPDX-License-Identifier: Apache-2.0
// core: non-owning strided views whose axes are types, and the views that the operations take.
#ifndef KLA_CORE_VIEW_H_
#define KLA_CORE_VIEW_H_

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>

#include "kla/core/check.h"
#include "kla/core/scalar.h"

namespace kla {

inline constexpr Index kDynamic = -1;

// Axis tags. The comments of this library write shapes with the letters on the right.
struct Batch {};      // B
struct Time {};       // T   tokens
struct KeyHead {};    // H   query/key heads
struct ValueHead {};  // HV  value heads, a multiple of H
struct Key {};        // K   key dimension of a head
struct Value {};      // V   value dimension of a head
struct Sequence {};   // N   sequences: B, or the number of packed ones
struct Chunk {};      // NT  chunks of all sequences, one after the other
struct Model {};      // D   width of the layer

// One axis of a view: its tag, and its length where that is known at compile time.
template <class AxisTag, Index kLength = kDynamic>
struct Extent {
  using Axis = AxisTag;
  static constexpr Index kStatic = kLength;
};

namespace internal {

template <class ExpectedAxis, class GivenAxis>
struct AxisMatches {
  static_assert(std::is_same_v<ExpectedAxis, GivenAxis>,
                "kla: this view has another axis than the argument it is passed as; the types "
                "AxisMatches<expected, given> name both");
  static constexpr bool kValue = true;
};

template <Index kExpected, Index kGiven>
struct LengthMatches {
  static_assert(kExpected == kDynamic || kGiven == kDynamic || kExpected == kGiven,
                "kla: this view has another static length than the argument it is passed as; the "
                "types LengthMatches<expected, given> name both");
  static constexpr bool kValue = true;
};

template <std::size_t kExpected, std::size_t kGiven>
struct RankMatches {
  static_assert(kExpected == kGiven,
                "kla: a view takes one extent (and one stride) for each of its axes; the types "
                "RankMatches<expected, given> name both counts. KeyView and ValueView have 4 axes, "
                "[B, T, heads, dimension], GateView has 3, [B, T, HV], a state has 4, [N, HV, K, "
                "V]; for one sequence write B = 1 first: {1, T, H, 64}");
  static constexpr bool kValue = true;
};

// Braces of the right length to what a view keeps.
template <std::size_t kRank, std::size_t kGiven>
KLA_ALWAYS_INLINE std::array<Index, kRank> ToSizes(const Index (&given)[kGiven]) {
  static_assert(RankMatches<kRank, kGiven>::kValue);
  std::array<Index, kRank> sizes{};
  for (std::size_t i = 0; i < kRank && i < kGiven; ++i) sizes[i] = given[i];
  return sizes;
}

template <class Axis, class... Axes>
constexpr std::size_t AxisPosition() {
  const std::array<bool, sizeof...(Axes)> same = {std::is_same_v<Axis, Axes>...};
  for (std::size_t i = 0; i < same.size(); ++i) {
    if (same[i]) return i;
  }
  return sizeof...(Axes);
}

inline std::string ShapeString(const Index* extents, std::size_t rank) {
  std::string text = "[";
  for (std::size_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(extents[i]);
  return text + "]";
}

}  // namespace internal

// A strided array over memory that somebody else owns, on the host or on a device.
//   View<const float, Extent<Time>, Extent<Key, 96>> rows(data, {tokens, 96});
// Element (i, j, ...) lies at data + i * stride(0) + j * stride(1) + ...; the innermost stride
// is 1. A default-constructed view is null: an optional argument that is left out.
template <class T, class... Extents>
class View {
 public:
  using Element = T;
  static constexpr std::size_t kRank = sizeof...(Extents);
  using Sizes = std::array<Index, kRank>;

  View() = default;

  // Contiguous, row-major.
  KLA_ALWAYS_INLINE View(T* data, const Sizes& extents)
      : View(data, extents, ContiguousStrides(extents)) {}

  // Strides count elements; the innermost one must be 1.
  KLA_ALWAYS_INLINE View(T* data, const Sizes& extents, const Sizes& strides)
      : data_(data), extents_(extents), strides_(strides) {
    const Sizes fixed = {Extents::kStatic...};
    for (std::size_t i = 0; i < kRank; ++i) {
      KLA_CHECK(fixed[i] == kDynamic ? extents[i] >= 0 : extents[i] == fixed[i], "View",
                "extents[" + std::to_string(i) + "]",
                fixed[i] == kDynamic ? std::string("a length >= 0") : std::to_string(fixed[i]),
                std::to_string(extents[i]));
    }
    KLA_CHECK(strides[kRank - 1] == 1, "View", "strides", "innermost stride 1",
              std::to_string(strides[kRank - 1]));
  }

  // The same from braces, {data, {1, 64, 2, 96}}: another count than that of the axes does not
  // compile.
  template <std::size_t kCount>
  KLA_ALWAYS_INLINE View(T* data, const Index (&extents)[kCount])
      : View(data, internal::ToSizes<kRank>(extents)) {}
  template <std::size_t kCount, std::size_t kStrides>
  KLA_ALWAYS_INLINE View(T* data, const Index (&extents)[kCount], const Index (&strides)[kStrides])
      : View(data, internal::ToSizes<kRank>(extents), internal::ToSizes<kRank>(strides)) {}

  // From a view of the same axes: mutable to const, static length to dynamic and back (checked).
  template <class U, class... Others>
  requires(std::is_convertible_v<U (*)[], T (*)[]> && sizeof...(Others) == sizeof...(Extents) &&
           !std::is_same_v<View<U, Others...>, View>)
      View(const View<U, Others...>& other)  // NOLINT(google-explicit-constructor)
  {
    static_assert(
        (internal::AxisMatches<typename Extents::Axis, typename Others::Axis>::kValue && ...));
    static_assert((internal::LengthMatches<Extents::kStatic, Others::kStatic>::kValue && ...));
    const bool left_out = other.is_null() && other.extents() == Sizes{};
    if (!left_out) *this = View(other.data(), other.extents(), other.strides());
  }

  T* data() const { return data_; }
  bool is_null() const { return data_ == nullptr; }
  const Sizes& extents() const { return extents_; }
  const Sizes& strides() const { return strides_; }

  // Of the axis with this tag; a tag that the view does not have does not compile.
  template <class Axis>
  Index extent() const {
    return extents_[Position<Axis>()];
  }
  template <class Axis>
  Index stride() const {
    return strides_[Position<Axis>()];
  }

  template <class... Indices>
  requires(sizeof...(Indices) == kRank) T& operator()(Indices... indices) const {
    const Index at[] = {static_cast<Index>(indices)...};
    Index offset = 0;
    for (std::size_t i = 0; i < kRank; ++i) {
      KLA_DCHECK(at[i] >= 0 && at[i] < extents_[i]);
      offset += at[i] * strides_[i];
    }
    return data_[offset];
  }

  // The innermost row at the given outer position.
  template <class... Indices>
  requires(sizeof...(Indices) + 1 == kRank) T* Row(Indices... outer) const {
    const Index at[] = {static_cast<Index>(outer)..., 0};
    Index offset = 0;
    for (std::size_t i = 0; i + 1 < kRank; ++i) offset += at[i] * strides_[i];
    return data_ + offset;
  }

  std::string ShapeText() const { return internal::ShapeString(extents_.data(), kRank); }

 private:
  template <class Axis>
  static consteval std::size_t Position() {
    constexpr std::size_t kPosition = internal::AxisPosition<Axis, typename Extents::Axis...>();
    static_assert(kPosition < kRank,
                  "kla: this view has no such axis; the types Position<axis> of View<element, "
                  "extents...> name it and those that the view has");
    return kPosition;
  }

  static Sizes ContiguousStrides(const Sizes& extents) {
    Sizes strides{};
    Index step = 1;
    for (std::size_t i = kRank; i-- > 0;) {
      strides[i] = step;
      step *= extents[i];
    }
    return strides;
  }

  T* data_ = nullptr;
  Sizes extents_{};
  Sizes strides_{};
};

template <class T>  // q, k and their gradients: [B, T, H, K]
using KeyView = View<T, Extent<Batch>, Extent<Time>, Extent<KeyHead>, Extent<Key>>;
template <class T>  // v, o and their gradients: [B, T, HV, V]
using ValueView = View<T, Extent<Batch>, Extent<Time>, Extent<ValueHead>, Extent<Value>>;
template <class T>  // g, eta and their gradients: [B, T, HV]
using GateView = View<T, Extent<Batch>, Extent<Time>, Extent<ValueHead>>;
template <class T>  // states: [N, HV, K, V], flash-linear-attention's default
using StateView = View<T, Extent<Sequence>, Extent<ValueHead>, Extent<Key>, Extent<Value>>;
template <class T>  // states: [N, HV, V, K]
using TransposedStateView =
    View<T, Extent<Sequence>, Extent<ValueHead>, Extent<Value>, Extent<Key>>;
template <class T>  // the state that enters each chunk: [NT, HV, K, V]
using ChunkStateView = View<T, Extent<Chunk>, Extent<ValueHead>, Extent<Key>, Extent<Value>>;
template <class T>  // input and output of the layer: [B, T, D]
using ModelView = View<T, Extent<Batch>, Extent<Time>, Extent<Model>>;

}  // namespace kla

#endif  // KLA_CORE_VIEW_H_
