// SPDX-License-Identifier: Apache-2.0
// core: how sequences are packed, how a state lies in memory.
#ifndef KLA_CORE_LAYOUT_H_
#define KLA_CORE_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <ranges>
#include <string>
#include <type_traits>

#include "kla/core/check.h"
#include "kla/core/heads.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla {

// A list of indices: cu_seqlens, or the slots of a state pool. Null (left out); a list in the
// caller's memory, which must outlive the call; or a few values in braces, which are kept here:
//   .slots = slots         any contiguous range that is not a temporary, such as a std::vector,
//                          std::array or std::span, of integers of 32 or 64 bits
//   .slots = {data, 3}     a pointer and a count
//   .slots = {4, 0, -1}    up to kMaxInBraces values
// Unsigned values are read as signed ones of the same width: the greatest is -1. An empty range is
// a list without elements, not one left out; {} is left out.
class IndexList {
 public:
  static constexpr Index kMaxInBraces = 8;

  IndexList() = default;
  // Throws std::invalid_argument for size < 0, or size > 0 without data.
  template <class T>
  requires(std::is_integral_v<T>) KLA_ALWAYS_INLINE IndexList(const T* data, Index size)
      : data_(data), size_(size), width_(kWidth<T>) {
    Check(data == nullptr);
  }
  // Throws std::invalid_argument for more values than kMaxInBraces.
  KLA_ALWAYS_INLINE IndexList(std::initializer_list<Index> values)
      : size_(static_cast<Index>(values.size())), width_(Width::kHere) {
    KLA_CHECK(size_ <= kMaxInBraces, "IndexList", "values",
              "at most " + std::to_string(kMaxInBraces) + " in braces; a std::vector takes more",
              std::to_string(size_));
    std::size_t i = 0;
    for (const Index value : values) here_[i++] = value;
  }
  template <class R>
  requires(std::ranges::contiguous_range<R>) KLA_ALWAYS_INLINE
      IndexList(R&& range)  // NOLINT(google-explicit-constructor)
      : IndexList(DataOf(range), static_cast<Index>(std::ranges::size(range))) {
    static_assert(std::ranges::borrowed_range<R>,
                  "kla: this list of indices is a temporary, which may be gone before it is read; "
                  "keep it in a variable, or write a few values in braces: .slots = {4, 0}");
  }

  // A list in device memory, which the kernel reads when it runs: a captured graph may be replayed
  // with other values. They cannot be checked on the host. For backends that say so.
  template <class T>
  static IndexList OnDevice(const T* data, Index size) {
    IndexList list(data, size);
    list.on_device_ = true;
    return list;
  }
  bool on_device() const { return on_device_; }
  // Of a list in device memory: one of these two, or neither where the list is null.
  const std::int32_t* narrow() const {
    return width_ == Width::k32 ? static_cast<const std::int32_t*>(data_) : nullptr;
  }
  const std::int64_t* wide() const {
    return width_ == Width::k64 ? static_cast<const std::int64_t*>(data_) : nullptr;
  }

  bool is_null() const { return data_ == nullptr && width_ != Width::kHere; }
  Index size() const { return size_; }
  Index operator[](Index i) const {
    if (width_ == Width::kHere) return here_[static_cast<std::size_t>(i)];
    return width_ == Width::k32 ? Index{At<std::int32_t>(i)} : At<std::int64_t>(i);
  }

 private:
  enum class Width : unsigned char { k32, k64, kHere };

  template <class T>
  static constexpr bool kIsIndex =
      std::is_integral_v<T> && !std::is_same_v<T, bool> && (sizeof(T) == 4 || sizeof(T) == 8);
  template <class T>
  static constexpr Width kWidth = [] {
    static_assert(kIsIndex<T>,
                  "kla: a list of indices (slots, cu_seqlens) holds integers of 32 or 64 bits, "
                  "signed or unsigned; copy this one to a std::vector<int>");
    return sizeof(T) == 4 ? Width::k32 : Width::k64;
  }();

  // What an empty range points at: data() of an empty std::vector is null.
  template <class T>
  static constexpr T kNothing = 0;

  template <class R>
  KLA_ALWAYS_INLINE static auto DataOf(const R& range) {
    using T = std::ranges::range_value_t<R>;
    static_assert(kWidth<T> != Width::kHere);
    if constexpr (kIsIndex<T>) {
      const T* const data = std::ranges::data(range);
      return std::ranges::empty(range) ? &kNothing<T> : data;
    } else {
      return &kNothing<int>;
    }
  }

  KLA_ALWAYS_INLINE void Check(bool no_data) const {
    KLA_CHECK(size_ >= 0, "IndexList", "size", "a count >= 0", std::to_string(size_));
    KLA_CHECK(!no_data || size_ == 0, "IndexList", "data", std::to_string(size_) + " indices",
              "a null pointer");
  }

  // By bytes: of the types of one width, such as long and long long, any may lie there.
  template <class T>
  T At(Index i) const {
    T value;
    std::memcpy(&value, static_cast<const T*>(data_) + i, sizeof(T));
    return value;
  }

  const void* data_ = nullptr;
  Index size_ = 0;
  std::array<Index, kMaxInBraces> here_{};
  Width width_ = Width::k32;
  bool on_device_ = false;
};

// Whether DecodeStep on a backend takes lists in device memory.
template <class Backend>
inline constexpr bool kTakesDeviceLists = false;

// Where sequence n lies in [B, T, ...] arrays: tokens [begin, begin + length) of batch row `batch`.
struct SequenceSpan {
  Index batch;
  Index begin;
  Index length;
};

// Sequence n of a batch of equal lengths, or of one row that packs sequences end to end:
// cu_seqlens [N + 1], 0 = cu_seqlens[0] <= ... <= cu_seqlens[N] = T.
inline SequenceSpan SequenceAt(const IndexList& cu_seqlens, Index tokens, Index n) {
  if (cu_seqlens.is_null()) return {n, 0, tokens};
  return {0, cu_seqlens[n], cu_seqlens[n + 1] - cu_seqlens[n]};
}

inline Index SequenceCount(const IndexList& cu_seqlens, Index batch) {
  return cu_seqlens.is_null() ? batch : cu_seqlens.size() - 1;
}

// States [N, HV, K, V] or [N, HV, V, K]: the axes of the view that it is made from tell which.
// Braces mean the first: {data, {1, 2, 64, 64}}, with strides after the extents where there are
// gaps. For the second write TransposedStateView<float>{data, {1, 2, 64, 64}}.
// Element (n, h, i, j) of the state, i along the key and j along the value axis, lies at
// data + n * sequence_stride + h * head_stride + i * key_stride + j * value_stride.
template <class T>
class StateRef {
 public:
  StateRef() = default;

  StateRef(T* states, const typename StateView<T>::Sizes& extents)
      : StateRef(StateView<T>(states, extents)) {}
  template <std::size_t kCount>
  StateRef(T* states, const Index (&extents)[kCount]) : StateRef(StateView<T>(states, extents)) {}
  template <std::size_t kCount, std::size_t kStrides>
  StateRef(T* states, const Index (&extents)[kCount], const Index (&strides)[kStrides])
      : StateRef(StateView<T>(states, extents, strides)) {}

  template <class U, class N, class H, Index kK, Index kV>
  StateRef(const View<U, N, H, Extent<Key, kK>, Extent<Value, kV>>& view)  // NOLINT
      : StateRef(StateView<T>(view), Direction::kKeyRows) {}
  template <class U, class N, class H, Index kK, Index kV>
  StateRef(const View<U, N, H, Extent<Value, kV>, Extent<Key, kK>>& view)  // NOLINT
      : StateRef(TransposedStateView<T>(view), Direction::kValueRows) {}
  template <class U>
  requires(std::is_same_v<const U, T>)
      StateRef(const StateRef<U>& other)  // NOLINT(google-explicit-constructor)
      : data(other.data),
        sequences(other.sequences),
        heads(other.heads),
        key_dim(other.key_dim),
        value_dim(other.value_dim),
        sequence_stride(other.sequence_stride),
        head_stride(other.head_stride),
        key_stride(other.key_stride),
        value_stride(other.value_stride) {}

  bool is_null() const { return data == nullptr; }
  KLA_HOST_DEVICE T* Head(Index sequence, Index head) const {
    return data + sequence * sequence_stride + head * head_stride;
  }
  // "[N, HV, K, V] = [1, 2, 64, 64]", or with V before K.
  std::string ShapeText() const {
    const bool key_rows = value_stride == 1;
    const Index sizes[] = {sequences, heads, key_rows ? key_dim : value_dim,
                           key_rows ? value_dim : key_dim};
    return (key_rows ? "[N, HV, K, V] = " : "[N, HV, V, K] = ") + internal::ShapeString(sizes, 4);
  }

  T* data = nullptr;
  Index sequences = 0, heads = 0, key_dim = 0, value_dim = 0;
  Index sequence_stride = 0, head_stride = 0, key_stride = 0, value_stride = 0;

 private:
  enum class Direction { kKeyRows, kValueRows };

  template <class V>
  StateRef(const V& view, Direction direction)
      : data(view.data()),
        sequences(view.template extent<Sequence>()),
        heads(view.template extent<ValueHead>()),
        key_dim(view.template extent<Key>()),
        value_dim(view.template extent<Value>()),
        sequence_stride(view.template stride<Sequence>()),
        head_stride(view.template stride<ValueHead>()),
        key_stride(direction == Direction::kKeyRows ? view.template stride<Key>() : 1),
        value_stride(direction == Direction::kKeyRows ? 1 : view.template stride<Value>()) {}
};

}  // namespace kla

#endif  // KLA_CORE_LAYOUT_H_
