// SPDX-License-Identifier: Apache-2.0
// backend/simd: memory and tasks of the chunk kernels.
#ifndef KLA_BACKEND_SIMD_CHUNK_WORKSPACE_H_
#define KLA_BACKEND_SIMD_CHUNK_WORKSPACE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <new>

#include "kla/backend/simd/target.h"
#include "kla/core/aligned_allocator.h"
#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/op/problem.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Uninitialised memory on a cache-line boundary. No huge pages here: a call's memory is new, and
// clearing pages of 2 MB costs ChunkBackward 2 % more than they save.
template <class R>
class AlignedArray {
 public:
  explicit AlignedArray(Index size)
      : data_(static_cast<R*>(
            ::operator new(static_cast<std::size_t>(size) * sizeof(R), kAlignment))) {}
  ~AlignedArray() { ::operator delete(data_, kAlignment); }
  AlignedArray(const AlignedArray&) = delete;
  AlignedArray& operator=(const AlignedArray&) = delete;

  R* data() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{internal::kCacheLine};
  R* data_;
};

// Rounds a number of elements up to whole cache lines.
template <class R>
constexpr Index WholeLines(Index size) {
  constexpr Index kLine = static_cast<Index>(internal::kCacheLine / sizeof(R));
  return (size + kLine - 1) / kLine * kLine;
}

// Calls task(i, workspace) for i in [0, count), each workspace `size` elements that one thread at a
// time uses: as much memory as tasks can run at once, however many there are. Which thread runs a
// task does not matter to its result.
template <class R, class Executor, class F>
void RunTasks(const Executor& executor, Index count, Index size, const F& task) {
  const Index workers = std::min<Index>(count, std::max<Index>(1, executor.Concurrency()));
  if (workers == 0) return;
  const Index pitch = WholeLines<R>(size);
  const AlignedArray<R> memory(workers * pitch);
  std::atomic<Index> next{0};
  executor.ParallelFor(workers, [&](Index worker) {
    R* workspace = memory.data() + worker * pitch;
    for (Index i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i, workspace);
  });
}

// Into how many parts, at most `most`, each of `count` equal tasks is best cut for so many threads,
// where part_time(parts), of the time of a whole task, is what each of its parts takes. Parts do
// some work twice, so that they must save enough.
template <class F>
Index FastestParts(Index count, Index threads, Index most, const F& part_time) {
  const auto time = [&](Index parts) {
    const Index rounds = (count * parts - 1) / std::max<Index>(threads, 1) + 1;
    return static_cast<double>(rounds) * part_time(parts);
  };
  Index best = 1;
  for (Index parts = 2; parts <= most; ++parts) {
    if (time(parts) < 0.97 * time(best)) best = parts;
  }
  return best;
}

// How many sequences of the longest length would take as long as all of a batch, at least 1.
inline Index LongestSequences(const Problem& problem, const IndexList& cu_seqlens) {
  Index longest = 1;
  for (Index n = 0; n < problem.sequences; ++n) {
    longest = std::max(longest, SequenceAt(cu_seqlens, problem.tokens, n).length);
  }
  return std::max<Index>((problem.batch * problem.tokens + longest / 2) / longest, 1);
}

// A sequence cut into parts that take equal time where each is a task of its own. A token of the
// part takes the time 1, each one before the part `before`, each one behind it `behind`:
//   time = before begin + (end - begin) + behind (1 - end)
// in times, and tokens, of the whole sequence.
class SequenceParts {
 public:
  static constexpr Index kMost = 4;

  SequenceParts(Index count, double before, double behind) : count_(count) {
    // Where a part begins is linear in the time, and the first one begins at 0.
    const double at_0 = Cut(0.0, before, behind), at_1 = Cut(1.0, before, behind);
    time_ = at_0 / (at_0 - at_1);
    Cut(time_, before, behind);
    begins_[0] = 0;
  }
  Index count() const { return count_; }
  double time() const { return time_; }
  // The first token of a part of a sequence of so many; that of part count() is the last one's end.
  Index Begin(Index part, Index tokens) const {
    return static_cast<Index>(begins_[part] * static_cast<double>(tokens) + 0.5);
  }

 private:
  // Where the parts begin if each takes that time; returns where the first does.
  double Cut(double time, double before, double behind) {
    begins_[count_] = 1;
    for (Index i = count_; i > 0; --i) {
      begins_[i - 1] = (begins_[i] + behind * (1 - begins_[i]) - time) / (1 - before);
    }
    return begins_[0];
  }

  Index count_;
  double time_, begins_[kMost + 1];
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_WORKSPACE_H_
