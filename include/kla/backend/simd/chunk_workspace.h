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
#include "kla/core/scalar.h"

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

// A sequence cut into parts that take equal time where each is a task of its own. A token of the
// part takes the time 1, each one before the part `before`, each one behind it `behind`:
//   time = before begin + (end - begin) + behind (1 - end)
// in times, and tokens, of the whole sequence.
class SequenceParts {
 public:
  SequenceParts(Index count, double before, double behind)
      : count_(count), before_(before), behind_(behind) {
    // The first token is linear in the time; the first part begins at 0.
    const double at_0 = BeginIfTime(0, 0.0);
    time_ = at_0 / (at_0 - BeginIfTime(0, 1.0));
  }
  double time() const { return time_; }
  double Begin(Index part) const { return part == 0 ? 0.0 : BeginIfTime(part, time_); }

 private:
  double BeginIfTime(Index part, double time) const {
    double begin = 1;
    for (Index i = count_; i > part; --i) {  // from the end of part i - 1 to where it begins
      begin = (begin + behind_ * (1 - begin) - time) / (1 - before_);
    }
    return begin;
  }

  Index count_;
  double before_, behind_, time_ = 0;
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_WORKSPACE_H_
