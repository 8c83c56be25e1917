// SPDX-License-Identifier: Apache-2.0
// core: which key head a value head reads. Host and device.
#ifndef KLA_CORE_HEADS_H_
#define KLA_CORE_HEADS_H_

#include "kla/core/scalar.h"

namespace kla {

// Which key head a value head reads, HV being a multiple of H.
enum class HeadGrouping {
  kInterleaved,  // hv / (HV / H): flash-linear-attention, and the default
  kTiled,        // hv % H: ggml
};

namespace internal {

struct Division {
  template <class Int>
  KLA_HOST_DEVICE constexpr Int operator()(Int a, Int b) const {
    return a / b;
  }
};

// H key heads, each read by HV / H value heads. Int counts heads; Divide divides them, since a
// device takes 32 bits where it can.
template <class Int, class Divide = Division>
struct HeadGroups {
  Int key_heads;   // H
  Int group_size;  // HV / H
  bool tiled;

  static constexpr HeadGroups Of(Int key_heads, Int value_heads, HeadGrouping grouping) {
    return {key_heads, value_heads / key_heads, grouping == HeadGrouping::kTiled};
  }

  // The key head that a value head reads, and which of that one's value heads it is.
  KLA_HOST_DEVICE constexpr Int KeyHeadOf(Int value_head) const {
    return tiled ? Rest(value_head, key_heads) : Divide{}(value_head, group_size);
  }
  KLA_HOST_DEVICE constexpr Int PlaceOf(Int value_head) const {
    return tiled ? Divide{}(value_head, key_heads) : Rest(value_head, group_size);
  }
  // The value head at place i of a key head.
  KLA_HOST_DEVICE constexpr Int ValueHeadOf(Int key_head, Int i) const {
    return tiled ? key_head + i * key_heads : key_head * group_size + i;
  }

 private:
  KLA_HOST_DEVICE static constexpr Int Rest(Int a, Int b) { return a - Divide{}(a, b) * b; }
};

}  // namespace internal
}  // namespace kla

#endif  // KLA_CORE_HEADS_H_
