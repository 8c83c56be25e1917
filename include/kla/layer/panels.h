// SPDX-License-Identifier: Apache-2.0
// layer: [B, T, D] views as the matrices that products take.
#ifndef KLA_LAYER_PANELS_H_
#define KLA_LAYER_PANELS_H_

#include <type_traits>

#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla::internal {

// A row-major matrix in somebody else's memory.
template <class T>
struct MatrixRef {
  T* data;
  Index rows, columns;
  Index stride;  // elements from one row to the next

  template <class U>
  requires(std::is_same_v<U, const T>)
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator MatrixRef<U>() const {
    return {data, rows, columns, stride};
  }
};

// The rows of a [B, T, D] view as matrices, f(first row, matrix): one matrix if the rows are evenly
// spaced, else one for each batch row.
template <class U, class F>
void ForEachPanel(const ModelView<U>& view, const F& f) {
  const Index batch = view.template extent<Batch>(), tokens = view.template extent<Time>();
  const Index columns = view.template extent<Model>();
  const Index row = view.template stride<Time>(), batch_row = view.template stride<Batch>();
  if (batch <= 1 || batch_row == tokens * row) {
    f(Index{0}, MatrixRef<U>{view.data(), batch * tokens, columns, row});
  } else if (tokens == 1) {
    f(Index{0}, MatrixRef<U>{view.data(), batch, columns, batch_row});
  } else {
    for (Index b = 0; b < batch; ++b) {
      f(b * tokens, MatrixRef<U>{view.data() + b * batch_row, tokens, columns, row});
    }
  }
}

}  // namespace kla::internal

#endif  // KLA_LAYER_PANELS_H_
