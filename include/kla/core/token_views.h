// SPDX-License-Identifier: Apache-2.0
// core: what the operations take, out of rows of tokens [B, T, D] as projections write them.
#ifndef KLA_CORE_TOKEN_VIEWS_H_
#define KLA_CORE_TOKEN_VIEWS_H_

#include <array>
#include <string>

#include "kla/core/check.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla {

namespace internal {

// D columns from `column` on, as heads: [B, T, D] -> [B, T, heads, D / heads].
template <class V, class T>
V HeadsOf(const char* function, const ModelView<T>& rows, Index column, Index heads, Index dim) {
  KLA_CHECK(heads > 0, function, "heads", "a count > 0", std::to_string(heads));
  return V(rows.is_null() ? nullptr : rows.data() + column,
           {rows.template extent<Batch>(), rows.template extent<Time>(), heads, dim},
           {rows.template stride<Batch>(), rows.template stride<Time>(), dim, 1});
}

template <class V, class T>
V EvenHeadsOf(const char* function, const ModelView<T>& rows, Index heads) {
  const Index width = rows.template extent<Model>();
  KLA_CHECK(heads > 0 && width % heads == 0, function, "heads",
            "a divisor of the width " + std::to_string(width), std::to_string(heads));
  return HeadsOf<V>(function, rows, 0, heads, width / heads);
}

}  // namespace internal

// Rows [B, T, H K] as [B, T, H, K], rows [B, T, HV V] as [B, T, HV, V], rows [B, T, HV] of gates.
// Nothing is copied: the result points where `rows` does.
template <class T>
KeyView<T> KeysOf(const ModelView<T>& rows, Index heads) {
  return internal::EvenHeadsOf<KeyView<T>>("KeysOf", rows, heads);
}
template <class T>
ValueView<T> ValuesOf(const ModelView<T>& rows, Index heads) {
  return internal::EvenHeadsOf<ValueView<T>>("ValuesOf", rows, heads);
}
template <class T>
GateView<T> GatesOf(const ModelView<T>& rows) {
  return GateView<T>(rows.data(), rows.extents(), rows.strides());
}

// H, HV, K and V of a fused buffer.
struct QkvSizes {
  Index key_heads;
  Index value_heads;
  Index key_dim;
  Index value_dim;
};

// What SplitQkv returns.
template <class T>
struct Qkv {
  KeyView<T> q;    // [B, T, H, K]
  KeyView<T> k;    // [B, T, H, K]
  ValueView<T> v;  // [B, T, HV, V]
};

// The three parts of rows [B, T, H K + H K + HV V] that one projection has written: all queries,
// all keys, all values of a token. Views with strides; nothing is copied. For gradients, split the
// buffer that they are written to.
//   const auto [q, k, v] = kla::SplitQkv(kla::ModelView<float>(data, {B, T, D}),
//                                        {.key_heads = 4, .value_heads = 8,
//                                         .key_dim = 96, .value_dim = 192});
template <class T>
Qkv<T> SplitQkv(const ModelView<T>& rows, const QkvSizes& sizes) {
  KLA_CHECK(sizes.key_heads > 0, "SplitQkv", "key_heads", "a count > 0",
            std::to_string(sizes.key_heads));
  KLA_CHECK(sizes.value_heads > 0 && sizes.value_heads % sizes.key_heads == 0, "SplitQkv",
            "value_heads", "a multiple of the " + std::to_string(sizes.key_heads) + " key heads",
            std::to_string(sizes.value_heads));
  KLA_CHECK(sizes.key_dim > 0, "SplitQkv", "key_dim", "a length > 0",
            std::to_string(sizes.key_dim));
  KLA_CHECK(sizes.value_dim > 0, "SplitQkv", "value_dim", "a length > 0",
            std::to_string(sizes.value_dim));
  const Index keys = sizes.key_heads * sizes.key_dim;
  const Index width = 2 * keys + sizes.value_heads * sizes.value_dim;
  KLA_CHECK(rows.template extent<Model>() == width, "SplitQkv", "rows",
            "[B, T, H K + H K + HV V] with " + std::to_string(width) + " columns",
            rows.ShapeText());
  return {internal::HeadsOf<KeyView<T>>("SplitQkv", rows, 0, sizes.key_heads, sizes.key_dim),
          internal::HeadsOf<KeyView<T>>("SplitQkv", rows, keys, sizes.key_heads, sizes.key_dim),
          internal::HeadsOf<ValueView<T>>("SplitQkv", rows, 2 * keys, sizes.value_heads,
                                          sizes.value_dim)};
}

}  // namespace kla

#endif  // KLA_CORE_TOKEN_VIEWS_H_
