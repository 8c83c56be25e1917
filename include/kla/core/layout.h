// SPDX-License-Identifier: Apache-2.0
// core: how sequences are packed, how a state lies in memory.
#ifndef KLA_CORE_LAYOUT_H_
#define KLA_CORE_LAYOUT_H_

#include <concepts>
#include <cstdint>
#include <ranges>
#include <string>
#include <type_traits>

#include "kla/core/check.h"
#include "kla/core/heads.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla {

// A list of int32 or int64 indices in the caller's memory, which must outlive the call: cu_seqlens,
// or the slots of a state pool. Null (left out), a pointer and a count, or any contiguous range:
// std::vector, std::array, std::span. An empty range is a list without elements, not one left out.
class IndexList {
 public:
  IndexList() = default;
  // Throws std::invalid_argument for size < 0, or size > 0 without data.
  KLA_ALWAYS_INLINE IndexList(const std::int32_t* data, Index size) : narrow_(data), size_(size) {
    Check(data == nullptr);
  }
  KLA_ALWAYS_INLINE IndexList(const std::int64_t* data, Index size) : wide_(data), size_(size) {
    Check(data == nullptr);
  }
  template <std::ranges::contiguous_range R>
  requires(std::same_as<std::ranges::range_value_t<R>, std::int32_t> ||
           std::same_as<std::ranges::range_value_t<R>, std::int64_t>) KLA_ALWAYS_INLINE
      IndexList(const R& range)  // NOLINT(google-explicit-constructor)
      : IndexList(std::ranges::empty(range) ? &kNothing<std::ranges::range_value_t<R>>
                                            : std::ranges::data(range),
                  static_cast<Index>(std::ranges::size(range))) {}

  // A list in device memory, which the kernel reads when it runs: a captured graph may be replayed
  // with other values. They cannot be checked on the host. For backends that say so.
  template <class T>
  static IndexList OnDevice(const T* data, Index size) {
    IndexList list(data, size);
    list.on_device_ = true;
    return list;
  }
  bool on_device() const { return on_device_; }
  const std::int32_t* narrow() const { return narrow_; }  // one of these two, or neither
  const std::int64_t* wide() const { return wide_; }

  bool is_null() const { return narrow_ == nullptr && wide_ == nullptr; }
  Index size() const { return size_; }
  Index operator[](Index i) const { return narrow_ != nullptr ? Index{narrow_[i]} : wide_[i]; }

 private:
  // What an empty range points at: data() of an empty std::vector is null.
  template <class T>
  static constexpr T kNothing = 0;

  KLA_ALWAYS_INLINE void Check(bool no_data) const {
    KLA_CHECK(size_ >= 0, "IndexList", "size", "a count >= 0", std::to_string(size_));
    KLA_CHECK(!no_data || size_ == 0, "IndexList", "data", std::to_string(size_) + " indices",
              "a null pointer");
  }

  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  Index size_ = 0;
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
// Element (n, h, i, j) of the state, i along the key and j along the value axis, lies at
// data + n * sequence_stride + h * head_stride + i * key_stride + j * value_stride.
template <class T>
class StateRef {
 public:
  StateRef() = default;

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
