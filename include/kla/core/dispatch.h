// SPDX-License-Identifier: Apache-2.0
// core: run-time head sizes to template arguments, by fold over the supported shapes.
#ifndef KLA_CORE_DISPATCH_H_
#define KLA_CORE_DISPATCH_H_

#include <string>

#include "kla/core/check.h"
#include "kla/core/shape.h"

namespace kla {

namespace internal {
inline std::string SizePair(Index key_dim, Index value_dim) {
  return std::to_string(key_dim) + '/' + std::to_string(value_dim);
}
}  // namespace internal

template <class... Shapes>
struct ShapeList {};

// The shapes of published models. Make a list of your own to compile fewer or more.
using CommonShapes = ShapeList<Shape<64, 64>, Shape<96, 192>, Shape<128, 128>, Shape<256, 256>>;

// Calls f(Shape<key_dim, value_dim>{}) with the shape of the list that has these sizes:
//   Dispatch(CommonShapes{}, key_dim, value_dim, [&](auto shape) {
//     ChunkForward<Simd, decltype(shape)>(args);
//   });
// Throws std::invalid_argument that names the supported sizes if none has. Where any size must do,
// use DynamicShape instead: nothing falls back to it silently.
template <class... Shapes, class F>
void Dispatch(ShapeList<Shapes...>, Index key_dim, Index value_dim, const F& f) {
  const bool found = ([&] {
    if (Shapes::kKeyDim != key_dim || Shapes::kValueDim != value_dim) return false;
    f(Shapes{});
    return true;
  }() || ...);
  if (found) return;
  std::string supported = "one of";
  ((supported += ' ', supported += internal::SizePair(Shapes::kKeyDim, Shapes::kValueDim)), ...);
  internal::ThrowInvalidArgument("Dispatch", "key_dim/value_dim", supported,
                                 internal::SizePair(key_dim, value_dim));
}

}  // namespace kla

#endif  // KLA_CORE_DISPATCH_H_
