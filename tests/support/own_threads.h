// SPDX-License-Identifier: Apache-2.0
// tests/support: what a caller with a thread pool of his own would write.
#ifndef KLA_TESTS_SUPPORT_OWN_THREADS_H_
#define KLA_TESTS_SUPPORT_OWN_THREADS_H_

#include <thread>
#include <vector>

#include "kla/core/scalar.h"

namespace kla::test {

// Tasks dealt out in turn to threads of its own.
struct OwnThreads {
  Index threads;

  template <class F>
  void ParallelFor(Index count, const F& task) const {
    std::vector<std::thread> pool;
    for (Index worker = 0; worker < threads; ++worker) {
      pool.emplace_back([&, worker] {
        for (Index i = worker; i < count; i += threads) task(i);
      });
    }
    for (std::thread& thread : pool) thread.join();
  }
  Index Concurrency() const { return threads; }
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_OWN_THREADS_H_
