// SPDX-License-Identifier: Apache-2.0
// backend/simd: fetches what a kernel reads next, a few cache lines at a time, between its
// products.
//
// A core tracks some 16 (Intel) to 24 (AMD) lines on their way into its first-level cache, and a
// load that misses waits while all of them come from memory: lines that are asked for in bursts
// stop the computation, evenly spread they cost next to nothing.
#ifndef KLA_BACKEND_SIMD_LINE_QUEUE_H_
#define KLA_BACKEND_SIMD_LINE_QUEUE_H_

#include "kla/backend/simd/target.h"
#include "kla/core/scalar.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Rows of memory whose lines are fetched in the order in which the rows were added.
class LineQueue {
 public:
  static constexpr Index kLineBytes = 64;

  // The lines of `count` elements from `row` on; not kept if kMaxRows rows are waiting.
  template <class T>
  HWY_INLINE void Add(const T* row, Index count) {
    if (size_ == kMaxRows || count <= 0) return;
    const char* const begin = reinterpret_cast<const char*>(row);
    rows_[size_++] = {begin, begin + count * static_cast<Index>(sizeof(T))};
    lines_ += (rows_[size_ - 1].end - begin + kLineBytes - 1) / kLineBytes;
  }

  // Spreads what was added over `calls` calls of Fetch().
  HWY_INLINE void SpreadOver(Index calls) { quota_ = (lines_ + calls - 1) / calls; }

  HWY_INLINE void Fetch() {
    for (Index i = 0; i < quota_; ++i) {
      if (row_ == size_) return;
      PrefetchLine(rows_[row_].next);
      rows_[row_].next += kLineBytes;
      if (rows_[row_].next >= rows_[row_].end) ++row_;
    }
  }

 private:
  static constexpr Index kMaxRows = 384;

  struct Row {
    const char *next, *end;
  };

  // The empty assembly keeps the call: GCC takes a function that does nothing but prefetch for one
  // without effects, and drops it.
  static HWY_INLINE void PrefetchLine(const char* line) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
    __builtin_prefetch(line, 0, 2);  // into L2: it is used a segment later
    asm volatile("");
#else
    static_cast<void>(line);
#endif
  }

  Row rows_[kMaxRows];
  Index size_ = 0, row_ = 0, lines_ = 0, quota_ = 0;
};

// Where nothing is to be fetched.
struct NoLines {
  HWY_INLINE void Fetch() {}
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_LINE_QUEUE_H_
