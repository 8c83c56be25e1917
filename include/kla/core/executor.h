// SPDX-License-Identifier: Apache-2.0
// core: who runs the independent tasks of an operation. Results never depend on the executor: into
// whatever tasks an operation cuts its work, every sum has the same terms in the same order.
#ifndef KLA_CORE_EXECUTOR_H_
#define KLA_CORE_EXECUTOR_H_

#include <algorithm>

#if defined(_OPENMP)
#include <omp.h>

#include <exception>
#endif

#include "kla/core/scalar.h"

namespace kla {

// An executor is any type with
//   void ParallelFor(Index count, const F& task) const;   calls task(0) ... task(count - 1), in any
//                                                         order, and returns when all are done
//   Index Concurrency() const;                            how many may run at once, at least 1
// See the concept Executor in core/concepts.h. A task throws only where memory runs out; an
// executor that passes the exception on to its caller lets that be handled.

// On the calling thread, in order.
struct Serial {
  template <class F>
  void ParallelFor(Index count, const F& task) const {
    for (Index i = 0; i < count; ++i) task(i);
  }
  Index Concurrency() const { return 1; }
};

#if defined(_OPENMP)
// OpenMP threads: as many as OMP_NUM_THREADS says, or the given number. Declared where the compiler
// has OpenMP on (-fopenmp). Of several exceptions that tasks throw, one is thrown on.
struct OpenMp {
  int threads = 0;

  template <class F>
  void ParallelFor(Index count, const F& task) const {
    const int team = static_cast<int>(std::min<Index>(count, Concurrency()));
    if (team <= 1) return Serial{}.ParallelFor(count, task);
    std::exception_ptr error;  // one that left the parallel region would end the program
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
    for (Index i = 0; i < count; ++i) {
      try {
        task(i);
      } catch (...) {
#pragma omp critical(kla_executor_error)
        error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
  }
  Index Concurrency() const { return std::max(1, threads > 0 ? threads : omp_get_max_threads()); }
};
#endif

}  // namespace kla

#endif  // KLA_CORE_EXECUTOR_H_
