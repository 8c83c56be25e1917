// SPDX-License-Identifier: Apache-2.0
// op: do two strided arrays share memory? Behind the aliasing checks; nothing here is public.
#ifndef KLA_OP_MEMORY_REGION_H_
#define KLA_OP_MEMORY_REGION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>

#include "kla/core/layout.h"
#include "kla/core/view.h"

namespace kla::internal {

// A strided array in bytes: the addresses [low, high) that it spans, and its axes. Every call of an
// operation makes some; what takes longer than the bounds waits until they do not suffice.
struct MemoryRegion {
  struct Axis {
    Index extent, stride;
  };
  // Axes from the largest stride to the smallest; contiguous inner ones are merged into one piece
  // of `run` bytes.
  struct Pieces {
    std::array<Axis, 4> axes{};
    std::size_t rank = 0;
    Index run = 0;
  };

  KLA_ALWAYS_INLINE void Begin(const void* data, Index bytes) {
    base = low = reinterpret_cast<std::uintptr_t>(data);
    element_bytes = bytes;
    high = base + static_cast<std::uintptr_t>(bytes);
    empty = data == nullptr;
  }
  KLA_ALWAYS_INLINE void Add(Index extent, Index stride) {
    if (extent == 0) empty = true;
    if (extent <= 1) return;
    axes[rank++] = {extent, stride};
    const auto reach = static_cast<std::uintptr_t>((extent - 1) * stride);
    (stride < 0 ? low : high) += reach;  // modulo 2^64: a negative stride lowers `low`
  }

  KLA_ALWAYS_INLINE Pieces Sorted() const {
    Pieces result{.run = element_bytes};
    for (std::size_t i = 0; i < rank; ++i) {
      std::size_t at = result.rank++;
      for (; at > 0 && std::abs(result.axes[at - 1].stride) < std::abs(axes[i].stride); --at) {
        result.axes[at] = result.axes[at - 1];
      }
      result.axes[at] = axes[i];
    }
    while (result.rank > 0 && result.axes[result.rank - 1].stride == result.run) {
      result.run *= result.axes[--result.rank].extent;
    }
    return result;
  }

  // No two elements share memory: each axis steps over everything that the smaller ones span.
  KLA_ALWAYS_INLINE bool ElementsAreDistinct() const {
    const Pieces pieces = Sorted();
    Index span = pieces.run;
    for (std::size_t i = pieces.rank; i-- > 0;) {
      const auto& [extent, stride] = pieces.axes[i];
      if (std::abs(stride) < span) return false;
      span += (extent - 1) * std::abs(stride);
    }
    return true;
  }

  std::uintptr_t base = 0, low = 0, high = 0;
  std::array<Axis, 4> axes{};  // those that are longer than 1
  std::size_t rank = 0;
  Index element_bytes = 0;
  bool empty = true;
};

template <class T, class... Extents>
KLA_ALWAYS_INLINE MemoryRegion RegionOf(const View<T, Extents...>& view) {
  MemoryRegion region;
  region.Begin(view.data(), sizeof(T));
  for (std::size_t i = 0; i < view.extents().size(); ++i) {
    region.Add(view.extents()[i], view.strides()[i] * static_cast<Index>(sizeof(T)));
  }
  return region;
}

template <class T>
KLA_ALWAYS_INLINE MemoryRegion RegionOf(const StateRef<T>& state) {
  constexpr auto kBytes = static_cast<Index>(sizeof(T));
  MemoryRegion region;
  region.Begin(state.data, kBytes);
  region.Add(state.sequences, state.sequence_stride * kBytes);
  region.Add(state.heads, state.head_stride * kBytes);
  region.Add(state.key_dim, state.key_stride * kBytes);
  region.Add(state.value_dim, state.value_stride * kBytes);
  return region;
}

// Whether two arrays may share memory. Arrays whose spans overlap, as columns of one fused buffer
// do, are told apart by their offset within the common period of their strides.
KLA_ALWAYS_INLINE bool MayOverlap(const MemoryRegion& a, const MemoryRegion& b) {
  if (a.empty || b.empty || a.high <= b.low || b.high <= a.low) return false;
  const MemoryRegion::Pieces in_a = a.Sorted(), in_b = b.Sorted();
  Index period = 0;
  for (std::size_t i = 0; i < in_a.rank; ++i) period = std::gcd(period, in_a.axes[i].stride);
  for (std::size_t i = 0; i < in_b.rank; ++i) period = std::gcd(period, in_b.axes[i].stride);
  if (period == 0) return true;
  const auto modulus = static_cast<std::uintptr_t>(period);
  const Index offset = b.base >= a.base
                           ? static_cast<Index>((b.base - a.base) % modulus)
                           : (period - static_cast<Index>((a.base - b.base) % modulus)) % period;
  return offset < in_a.run || offset + in_b.run > period;
}

}  // namespace kla::internal

#endif  // KLA_OP_MEMORY_REGION_H_
