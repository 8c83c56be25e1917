// SPDX-License-Identifier: Apache-2.0
// op: do two strided arrays share memory? Behind the aliasing checks; nothing here is public.
#ifndef KLA_OP_MEMORY_REGION_H_
#define KLA_OP_MEMORY_REGION_H_

#include <array>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "kla/core/layout.h"
#include "kla/core/view.h"

namespace kla::internal {

// A strided array in bytes, axes sorted from the largest stride to the smallest, contiguous inner
// axes merged into one run of `run` bytes.
struct MemoryRegion {
  struct Axis {
    Index extent, stride;
  };
  std::uintptr_t base = 0;
  std::array<Axis, 4> axes{};
  int rank = 0;
  Index run = 0;  // bytes of one contiguous piece; 0 for an empty array

  void Add(Index extent, Index stride) {
    if (extent == 0) empty = true;
    if (extent <= 1) return;
    auto at = static_cast<std::size_t>(rank++);
    for (; at > 0 && std::abs(axes[at - 1].stride) < std::abs(stride); --at)
      axes[at] = axes[at - 1];
    axes[at] = {extent, stride};
  }

  void Finish(Index element_bytes) {
    if (empty) return;
    run = element_bytes;
    while (rank > 0 && axes[static_cast<std::size_t>(rank - 1)].stride == run) {
      run *= axes[static_cast<std::size_t>(--rank)].extent;
    }
  }

  // The addresses that the array spans: [first, second).
  std::pair<std::uintptr_t, std::uintptr_t> Range() const {
    std::uintptr_t low = base, high = base + static_cast<std::uintptr_t>(run);
    for (int i = 0; i < rank; ++i) {
      const auto& [extent, stride] = axes[static_cast<std::size_t>(i)];
      const auto reach = static_cast<std::uintptr_t>((extent - 1) * std::abs(stride));
      (stride < 0 ? low : high) += stride < 0 ? std::uintptr_t{0} - reach : reach;
    }
    return {low, high};
  }

  // No two elements share memory: each axis steps over everything that the smaller ones span.
  bool ElementsAreDistinct() const {
    Index span = run;
    for (int i = rank; i-- > 0;) {
      const auto& [extent, stride] = axes[static_cast<std::size_t>(i)];
      if (std::abs(stride) < span) return false;
      span += (extent - 1) * std::abs(stride);
    }
    return true;
  }

  bool empty = false;
};

template <class T, class... Extents>
KLA_ALWAYS_INLINE MemoryRegion RegionOf(const View<T, Extents...>& view) {
  MemoryRegion region;
  region.base = reinterpret_cast<std::uintptr_t>(view.data());
  region.empty = view.is_null();
  for (std::size_t i = 0; i < view.extents().size(); ++i) {
    region.Add(view.extents()[i], view.strides()[i] * static_cast<Index>(sizeof(T)));
  }
  region.Finish(sizeof(T));
  return region;
}

template <class T>
KLA_ALWAYS_INLINE MemoryRegion RegionOf(const StateRef<T>& state) {
  constexpr auto kBytes = static_cast<Index>(sizeof(T));
  MemoryRegion region;
  region.base = reinterpret_cast<std::uintptr_t>(state.data);
  region.empty = state.is_null();
  region.Add(state.sequences, state.sequence_stride * kBytes);
  region.Add(state.heads, state.head_stride * kBytes);
  region.Add(state.key_dim, state.key_stride * kBytes);
  region.Add(state.value_dim, state.value_stride * kBytes);
  region.Finish(kBytes);
  return region;
}

// Whether two arrays may share memory. Arrays whose ranges interleave, as columns of one fused
// buffer do, are told apart by their offset within the common period of their strides.
KLA_ALWAYS_INLINE bool MayOverlap(const MemoryRegion& a, const MemoryRegion& b) {
  if (a.empty || b.empty) return false;
  const auto [a_low, a_high] = a.Range();
  const auto [b_low, b_high] = b.Range();
  if (a_high <= b_low || b_high <= a_low) return false;
  Index period = 0;
  for (int i = 0; i < a.rank; ++i) {
    period = std::gcd(period, a.axes[static_cast<std::size_t>(i)].stride);
  }
  for (int i = 0; i < b.rank; ++i) {
    period = std::gcd(period, b.axes[static_cast<std::size_t>(i)].stride);
  }
  if (period == 0) return true;
  const auto modulus = static_cast<std::uintptr_t>(period);
  const Index offset = b.base >= a.base
                           ? static_cast<Index>((b.base - a.base) % modulus)
                           : (period - static_cast<Index>((a.base - b.base) % modulus)) % period;
  return offset < a.run || offset + b.run > period;
}

}  // namespace kla::internal

#endif  // KLA_OP_MEMORY_REGION_H_
