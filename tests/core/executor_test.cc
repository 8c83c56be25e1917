// SPDX-License-Identifier: Apache-2.0
// tests/core: every executor runs every task exactly once and returns when all are done.
#include "kla/core/executor.h"

#include <atomic>
#include <functional>
#include <new>
#include <vector>

#include "gtest/gtest.h"
#include "kla/core/concepts.h"
#include "support/own_threads.h"

namespace kla::test {
namespace {

// One that is not a template, behind std::function.
struct TypeErased {
  void ParallelFor(Index count, const std::function<void(Index)>& task) const {
    for (Index i = count; i-- > 0;) task(i);
  }
  int Concurrency() const { return 1; }
};

struct NoExecutor {
  void ParallelFor(Index) const {}
};

static_assert(Executor<Serial>);
static_assert(Executor<OwnThreads>);
static_assert(Executor<TypeErased>);
static_assert(!Executor<NoExecutor>);
#if defined(_OPENMP)
static_assert(Executor<OpenMp>);
#endif

template <class E>
void ExpectEachTaskOnce(const E& executor) {
  for (const Index count : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
    executor.ParallelFor(count, [&](Index i) { ++runs[static_cast<std::size_t>(i)]; });
    for (const std::atomic<int>& run : runs) EXPECT_EQ(run, 1);
  }
  EXPECT_GE(executor.Concurrency(), 1);
}

TEST(ExecutorTest, SerialRunsEachTaskOnceInOrder) {
  ExpectEachTaskOnce(Serial{});
  std::vector<Index> order;
  Serial{}.ParallelFor(4, [&](Index i) { order.push_back(i); });
  EXPECT_EQ(order, (std::vector<Index>{0, 1, 2, 3}));
}

TEST(ExecutorTest, TheCallersOwnRunEachTaskOnce) {
  ExpectEachTaskOnce(OwnThreads{3});
  ExpectEachTaskOnce(TypeErased{});
}

#if defined(_OPENMP)
TEST(ExecutorTest, OpenMpRunsEachTaskOnceForEveryThreadCount) {
  for (const int threads : {0, 1, 2, 5}) ExpectEachTaskOnce(OpenMp{threads});
  EXPECT_EQ(OpenMp{3}.Concurrency(), 3);
}

TEST(ExecutorTest, OpenMpPassesAnExceptionOn) {
  for (const int threads : {1, 3}) {
    const auto throwing = [&](Index i) {
      if (i % 4 == 2) throw std::bad_alloc();
    };
    EXPECT_THROW(OpenMp{threads}.ParallelFor(20, throwing), std::bad_alloc);
  }
}

TEST(ExecutorTest, OpenMpUsesSeveralThreadsAndNoMoreThanAsked) {
  std::atomic<int> largest{0};
  OpenMp{3}.ParallelFor(300, [&](Index) {
    const int team = omp_get_num_threads();
    int seen = largest;
    while (seen < team && !largest.compare_exchange_weak(seen, team)) {
    }
  });
  EXPECT_EQ(largest, 3);
  largest = 0;
  OpenMp{8}.ParallelFor(2, [&](Index) { largest = omp_get_num_threads(); });
  EXPECT_EQ(largest, 2);
}
#endif

}  // namespace
}  // namespace kla::test
