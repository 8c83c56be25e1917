// SPDX-License-Identifier: Apache-2.0
// Language-model example, parameters: a flat list of named tensors for optimisers and files.
#ifndef KLA_EXAMPLES_LM_TENSOR_LIST_H_
#define KLA_EXAMPLES_LM_TENSOR_LIST_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "examples/lm/matrix.h"

namespace lm {

// One named tensor in somebody else's memory, contiguous and row-major. Matrices take weight decay;
// norms, biases, gates and short convolutions do not.
template <class T>
struct TensorRef {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<T> values;

  bool decays() const { return shape.size() == 2; }
};

// A module lists its tensors in a fixed order. The gradient of a module is a module of the same
// type, so the two lists agree entry by entry.
template <class T>
using TensorList = std::vector<TensorRef<T>>;

template <class T>
void Append(TensorList<T>& list, std::string name, Matrix<T>& m) {
  list.push_back({std::move(name),
                  {m.rows(), m.cols()},
                  std::span<T>(m.data(), static_cast<std::size_t>(m.size()))});
}

template <class T>
void Append(TensorList<T>& list, std::string name, RowVector<T>& v) {
  list.push_back(
      {std::move(name), {v.size()}, std::span<T>(v.data(), static_cast<std::size_t>(v.size()))});
}

template <class T>
std::int64_t CountElements(const TensorList<T>& list) {
  std::int64_t count = 0;
  for (const TensorRef<T>& tensor : list) count += static_cast<std::int64_t>(tensor.values.size());
  return count;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_TENSOR_LIST_H_
