// SPDX-License-Identifier: Apache-2.0
// tests/support: owned memory behind a view, optionally strided and misaligned, that notices writes
// outside the elements of the view.
#ifndef KLA_TESTS_SUPPORT_ARRAY_H_
#define KLA_TESTS_SUPPORT_ARRAY_H_

#include <cstring>
#include <functional>
#include <vector>

#include "kla/core/layout.h"
#include "kla/core/view.h"

namespace kla::test {

enum class Placement {
  kContiguous,
  kStrided,  // every row padded and the first element one past an aligned address
};

// V is a view of mutable elements, such as KeyView<float>.
template <class V>
class Array {
 public:
  using T = typename V::Element;
  using Sizes = typename V::Sizes;

  Array() = default;
  explicit Array(const Sizes& extents, Placement placement = Placement::kContiguous)
      : extents_(extents) {
    const Index pad = placement == Placement::kStrided ? 3 : 0;
    offset_ = placement == Placement::kStrided ? 1 : 0;
    Index step = 1;
    for (std::size_t i = V::kRank; i-- > 0;) {
      strides_[i] = step;
      step = step * extents[i] + pad;
    }
    memory_.resize(static_cast<std::size_t>(step + offset_ + 1), T(-77.0f));
    untouched_ = memory_;
  }

  V view() { return V(memory_.data() + offset_, extents_, strides_); }
  V view() const { return const_cast<Array*>(this)->view(); }
  operator V() { return view(); }  // NOLINT(google-explicit-constructor)
  const Sizes& extents() const { return extents_; }

  // Calls f(element) in row-major order of the elements.
  template <class F>
  void ForEach(const F& f) {
    Index count = 1;
    for (const Index extent : extents_) count *= extent;
    for (Index n = 0; n < count; ++n) f(memory_[At(n)]);
  }
  template <class F>
  void ForEach(const F& f) const {
    const_cast<Array*>(this)->ForEach([&](const T& element) { f(element); });
  }

  template <class F>
  Array& Fill(const F& make) {
    ForEach([&](T& element) { element = static_cast<T>(static_cast<Accumulator<T>>(make())); });
    return *this;
  }

  std::vector<double> Values() const {
    std::vector<double> values;
    ForEach([&](const T& element) { values.push_back(static_cast<double>(element)); });
    return values;
  }

  // No byte outside the view's elements has changed.
  bool PaddingIsIntact() const {
    std::vector<T> expected = untouched_, actual = memory_;
    const auto clear = [&](std::vector<T>& memory) {
      Index count = 1;
      for (const Index extent : extents_) count *= extent;
      for (Index n = 0; n < count; ++n) memory[At(n)] = T(0.0f);
    };
    clear(expected);
    clear(actual);
    return std::memcmp(expected.data(), actual.data(), expected.size() * sizeof(T)) == 0;
  }

  // The bits of everything, padding included.
  bool SameBits(const Array& other) const {
    return memory_.size() == other.memory_.size() &&
           std::memcmp(memory_.data(), other.memory_.data(), memory_.size() * sizeof(T)) == 0;
  }

 private:
  std::size_t At(Index n) const {
    Index offset = offset_;
    for (std::size_t i = V::kRank; i-- > 0;) {
      offset += n % extents_[i] * strides_[i];
      n /= extents_[i];
    }
    return static_cast<std::size_t>(offset);
  }

  Sizes extents_{}, strides_{};
  Index offset_ = 0;
  std::vector<T> memory_, untouched_;
};

// The same elements in double, contiguous: what the oracle computes from.
template <template <class> class ViewOf, class T>
Array<ViewOf<double>> ToDouble(const Array<ViewOf<T>>& array) {
  Array<ViewOf<double>> out(array.extents());
  const std::vector<double> values = array.Values();
  std::size_t i = 0;
  return out.Fill([&] { return values[i++]; });
}

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_ARRAY_H_
