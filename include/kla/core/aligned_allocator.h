// SPDX-License-Identifier: Apache-2.0
// core: memory for containers whose elements kernels read.
#ifndef KLA_CORE_ALIGNED_ALLOCATOR_H_
#define KLA_CORE_ALIGNED_ALLOCATOR_H_

#include <cstddef>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kla/core/scalar.h"

namespace kla::internal {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Of memory that is walked at the speed of the machine: large blocks ask for huge pages, which save
// most of the page-table walks.
constexpr std::align_val_t AlignmentOf(std::size_t bytes) {
  return std::align_val_t(bytes < kHugePage ? kCacheLine : kHugePage);
}

// Uninitialised. Free with the same number of bytes.
KLA_ALWAYS_INLINE void* AllocateAligned(std::size_t bytes) {
  void* const memory = ::operator new(bytes, AlignmentOf(bytes));
#if defined(MADV_HUGEPAGE)
  // Whole huge pages only; where the system grants none, everything works as before.
  if (bytes >= kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return memory;
}
KLA_ALWAYS_INLINE void FreeAligned(void* memory, std::size_t bytes) {
  ::operator delete(memory, AlignmentOf(bytes));
}

// Cache-line aligned, so that every head of a pool whose packed size is a multiple of 64 bytes is.
// Owner keeps the code of two backends' containers apart, as KLA_ALWAYS_INLINE explains.
template <class T, class Owner = void>
struct CacheAlignedAllocator {
  using value_type = T;
  CacheAlignedAllocator() = default;
  template <class U>
  CacheAlignedAllocator(const CacheAlignedAllocator<U, Owner>&) {}  // NOLINT
  T* allocate(std::size_t n) { return static_cast<T*>(AllocateAligned(n * sizeof(T))); }
  void deallocate(T* p, std::size_t n) { FreeAligned(p, n * sizeof(T)); }
  bool operator==(const CacheAlignedAllocator&) const { return true; }
};

}  // namespace kla::internal

#endif  // KLA_CORE_ALIGNED_ALLOCATOR_H_
