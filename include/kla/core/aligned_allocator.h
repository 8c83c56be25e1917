// SPDX-License-Identifier: Apache-2.0
// core: memory for containers whose elements kernels read.
#ifndef KLA_CORE_ALIGNED_ALLOCATOR_H_
#define KLA_CORE_ALIGNED_ALLOCATOR_H_

#include <cstddef>
#include <new>

namespace kla::internal {

// Cache-line aligned, so that every head of a pool whose packed size is a multiple of 64 bytes is.
// Owner keeps the code of two backends' containers apart, as KLA_ALWAYS_INLINE explains.
template <class T, class Owner = void>
struct CacheAlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  CacheAlignedAllocator() = default;
  template <class U>
  CacheAlignedAllocator(const CacheAlignedAllocator<U, Owner>&) {}  // NOLINT
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const CacheAlignedAllocator&) const { return true; }
};

}  // namespace kla::internal

#endif  // KLA_CORE_ALIGNED_ALLOCATOR_H_
