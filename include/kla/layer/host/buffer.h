// SPDX-License-Identifier: Apache-2.0
// layer/host: memory that grows when it must and is kept otherwise, and short names for Eigen's
// views of it.
#ifndef KLA_LAYER_HOST_BUFFER_H_
#define KLA_LAYER_HOST_BUFFER_H_

#include <Eigen/Core>
#include <algorithm>
#include <type_traits>
#include <vector>

#include "kla/core/aligned_allocator.h"
#include "kla/core/scalar.h"

namespace kla::internal {

// Starts on a cache line: how Eigen splits a row into vectors and remainder, and with it the last
// bit of a result, depends on alignment.
template <class T>
class Buffer {
 public:
  // At least `size` elements, never null. What was in them is lost if the buffer grows.
  T* Resize(Index size) {
    const auto count = static_cast<std::size_t>(std::max<Index>(size, 1));
    if (count > data_.size()) {
      data_.clear();
      data_.resize(count, T(0));
    }
    return data_.data();
  }
  T* Zero(Index size) {
    Resize(size);
    std::fill_n(data_.begin(), size, T(0));
    return data_.data();
  }
  T* data() { return data_.data(); }
  const T* data() const { return data_.data(); }
  Index size_bytes() const { return static_cast<Index>(data_.size() * sizeof(T)); }

 private:
  std::vector<T, CacheAlignedAllocator<T>> data_;
};

// A contiguous row as an Eigen array, elementwise arithmetic; T may be const.
template <class T>
using ArrayOf =
    std::conditional_t<std::is_const_v<T>,
                       Eigen::Map<const Eigen::Array<std::remove_const_t<T>, Eigen::Dynamic, 1>>,
                       Eigen::Map<Eigen::Array<std::remove_const_t<T>, Eigen::Dynamic, 1>>>;

template <class T>
ArrayOf<T> AsArray(T* data, Index size) {
  return ArrayOf<T>(data, size);
}

// sigmoid(x) = 1 / (1 + exp(-x)), elementwise.
template <class Array>
auto SigmoidOf(const Array& x) {
  using T = typename Array::Scalar;
  return ((-x).exp() + T(1)).inverse();
}

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_BUFFER_H_
