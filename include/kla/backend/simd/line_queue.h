// SPDX-License-Identifier: Apache-2.0
// backend/simd: fetches what a kernel reads next, a few cache lines at a time, between its
// products.
//
// A core tracks some 16 (Intel) to 24 (AMD) lines on their way into its first-level cache, more
// into the second, and a load that misses waits while all of them come from memory: lines that are
// asked for in bursts stop the computation, evenly spread they cost little.
#ifndef KLA_BACKEND_SIMD_LINE_QUEUE_H_
#define KLA_BACKEND_SIMD_LINE_QUEUE_H_

#include <hwy/cache_control.h>

#include "kla/backend/simd/target.h"
#include "kla/core/check.h"
#include "kla/core/scalar.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Into the second-level cache where the compiler lets us say so. The empty assembly keeps the call:
// GCC takes a function that does nothing but prefetch for one without effects, and drops it.
HWY_INLINE void FetchLine(const char* line) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  __builtin_prefetch(line, 0, 2);
  asm volatile("");
#else
  hwy::Prefetch(line);
#endif
}

// Lines of runs of rows, in the order in which the runs were added.
class LineQueue {
 public:
  // `rows` rows of `count` elements, `stride` elements apart, the first at `row`. (Of a row that
  // does not begin on a line, the last line may be left out.)
  template <class T>
  HWY_INLINE void Add(const T* row, Index count, Index stride = 0, Index rows = 1) {
    constexpr Index kSize = static_cast<Index>(sizeof(T));
    KLA_DCHECK(size_ < kMaxRuns);
    if (count <= 0 || rows <= 0 || size_ == kMaxRuns) return;
    runs_[size_++] = {reinterpret_cast<const char*>(row), count * kSize, stride * kSize, rows};
    lines_ += (count * kSize + kLineBytes - 1) / kLineBytes * rows;
  }

  // Cuts what was added into `shares` of one size: loops whose length changes from share to share
  // are mispredicted, and made a prefill 1.5 % slower.
  HWY_INLINE void SpreadOver(Index shares) { quota_ = (lines_ + shares - 1) / shares; }

  HWY_INLINE void Fetch(Index shares = 1) {
    for (Index i = 0; i < shares * quota_ && run_ < size_; ++i) {
      Run& run = runs_[run_];
      FetchLine(run.row + offset_);
      offset_ += kLineBytes;
      if (offset_ < run.bytes) continue;
      offset_ = 0;
      run.row += run.stride;
      if (--run.rows == 0) ++run_;
    }
  }

 private:
  static constexpr Index kLineBytes = 64, kMaxRuns = 8;

  struct Run {
    const char* row;
    Index bytes, stride, rows;
  };

  Run runs_[kMaxRuns];
  Index size_ = 0, run_ = 0, offset_ = 0, lines_ = 0, quota_ = 0;
};

// Where nothing is to be fetched.
struct NoLines {
  HWY_INLINE void Fetch(Index /*shares*/ = 1) {}
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_LINE_QUEUE_H_
