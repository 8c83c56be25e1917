// SPDX-License-Identifier: Apache-2.0
// Your own threads. An executor is any type with ParallelFor and Concurrency: here a pool that the
// program keeps for its life, handed to the operations as a pointer. Outputs do not depend on the
// executor. Exit status 0 if the pool, of any size, gives the bits that one thread gives.
#include <kla/kla.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

// Threads that wait for work. One caller at a time; a task must not call Run itself.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { Work(); });  // + the caller
  }
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // task(0) ... task(count - 1), whoever is free taking the next; returns when all are done, and
  // throws on what a task has thrown.
  void Run(kla::Index count, const std::function<void(kla::Index)>& task) {
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      busy_ = workers_.size();
      error_ = nullptr;
      ++round_;
    }
    wake_.notify_all();
    TakeTasks();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void TakeTasks() {
    for (kla::Index i = next_++; i < count_; i = next_++) {
      try {
        (*task_)(i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
      }
    }
  }
  void Work() {
    for (long seen = 0;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
      }
      TakeTasks();
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(kla::Index)>* task_ = nullptr;
  kla::Index count_ = 0;
  std::atomic<kla::Index> next_{0};
  std::size_t busy_ = 0;  // workers that have not finished this round
  long round_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;  // last: they start when the rest is there
};

// All that kla needs to know of it.
struct PoolExecutor {
  ThreadPool* pool;

  template <class F>
  void ParallelFor(kla::Index count, const F& task) const {
    pool->Run(count, task);
  }
  kla::Index Concurrency() const { return pool->size(); }
};
static_assert(kla::Executor<PoolExecutor>);

using Head = kla::Shape</*key*/ 64, /*value*/ 64>;
constexpr kla::Index kTokens = 2000, kHeads = 8, kDim = 64;

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(kTokens * kHeads * kDim), k(q.size()), v(q.size());
  for (auto* x : {&q, &k, &v}) {
    for (float& y : *x) y = normal(random);
  }
  const std::vector<float> g(kTokens * kHeads, -0.05f), eta(kTokens * kHeads, 0.5f);

  const auto forward = [&](const auto& executor, const char* name) {
    std::vector<float> o(v.size());
    const auto begin = std::chrono::steady_clock::now();
    kla::ChunkForward<kla::DefaultBackend, Head>(
        kla::ChunkForwardArgs<float>{.q = {q.data(), {1, kTokens, kHeads, kDim}},
                                     .k = {k.data(), {1, kTokens, kHeads, kDim}},
                                     .v = {v.data(), {1, kTokens, kHeads, kDim}},
                                     .g = {g.data(), {1, kTokens, kHeads}},
                                     .eta = {eta.data(), {1, kTokens, kHeads}},
                                     .o = {o.data(), {1, kTokens, kHeads, kDim}}},
        executor);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    std::printf("%s: %.1f ms\n", name, time.count());
    return o;
  };
  const std::vector<float> alone = forward(kla::Serial{}, "one thread");
  bool same = true;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int run = 0; run < 3; ++run) {  // one pool serves any number of calls
      same &= forward(PoolExecutor{&pool}, "the pool  ") == alone;
    }
  }
  std::printf("the pool returns %s\n", same ? "the same bits" : "SOMETHING ELSE");
  return same ? 0 : 1;
}
