// SPDX-License-Identifier: Apache-2.0
// backend/cuda/block: a thread block as the decode kernels see it. Their bodies are written against
// this interface alone, so that the same code runs on a device and, under the tests, on a CPU:
//
//   block.ForEachThread(f)          f(thread) for every thread of the block, in any order
//   block.Barrier()                 shared memory written before is seen after
//   block.MakePrivate<T>()          one T per thread: registers; x[thread] inside ForEachThread
//   block.LetNextBegin(), WaitForPrevious()   for kernels that overlap (launch.cuh)
//   block.GroupSum<kGroup>(sums)    sums over each run of kGroup threads, a power of two up to 32,
//                                   in every thread of the run, always added in the same order
//
// On a device ForEachThread calls f once in each thread and GroupSum shuffles; on the host, threads
// run one after the other between two calls.
#ifndef KLA_BACKEND_CUDA_BLOCK_BLOCK_H_
#define KLA_BACKEND_CUDA_BLOCK_BLOCK_H_

#include <cstdint>

#include "kla/core/scalar.h"

#if !defined(__CUDACC__)
#include <cstring>
#include <memory>
#include <vector>
#endif

// A function that runs inside a kernel: on the device in CUDA sources, else on the host.
#if defined(__CUDACC__)
#define KLA_BLOCK_FUNCTION __device__ __forceinline__
#define KLA_UNROLL _Pragma("unroll")
#define KLA_NO_UNROLL _Pragma("unroll 1")
#else
#define KLA_BLOCK_FUNCTION inline
#define KLA_UNROLL
#define KLA_NO_UNROLL
#endif

namespace kla::internal::device {

// What one thread adds to sums over its group.
template <class R, int kCount>
struct Sums {
  R value[kCount];
};

#if defined(__CUDACC__)

template <int kThreads>
struct DeviceBlock {
  template <class T>
  struct Private {
    T value;
    __device__ __forceinline__ T& operator[](int /*thread*/) { return value; }
  };

  template <class T>
  __device__ __forceinline__ Private<T> MakePrivate() const {
    return {};
  }
  template <class F>
  __device__ __forceinline__ void ForEachThread(const F& f) const {
    f(static_cast<int>(threadIdx.x));
  }
  __device__ __forceinline__ void Barrier() const { __syncthreads(); }
  // Of compute capability 9; before, kernels do not overlap.
  __device__ __forceinline__ void LetNextBegin() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
  }
  __device__ __forceinline__ void WaitForPrevious() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }

  template <int kGroup, class R, int kCount>
  __device__ __forceinline__ void GroupSum(Private<Sums<R, kCount>>& sums) const {
    KLA_UNROLL
    for (int offset = 1; offset < kGroup; offset *= 2) {
      KLA_UNROLL
      for (int i = 0; i < kCount; ++i) {
        sums.value.value[i] += __shfl_xor_sync(0xffffffffu, sums.value.value[i], offset);
      }
    }
  }
};

#else

template <int kThreads>
struct HostBlock {
  // All bits set, not-a-number in every format, until written: a read of nothing shows.
  template <class T>
  struct Private {
    Private() : values(kThreads) { std::memset(values.data(), 0xff, kThreads * sizeof(T)); }
    T& operator[](int thread) { return values[static_cast<std::size_t>(thread)]; }
    std::vector<T> values;
  };

  template <class T>
  Private<T> MakePrivate() const {
    return {};
  }
  template <class F>
  void ForEachThread(const F& f) const {
    for (int thread = 0; thread < kThreads; ++thread) f(thread);
  }
  void Barrier() const {}
  void LetNextBegin() const {}
  void WaitForPrevious() const {}

  template <int kGroup, class R, int kCount>
  void GroupSum(Private<Sums<R, kCount>>& sums) const {
    for (int offset = 1; offset < kGroup; offset *= 2) {
      const auto before = sums.values;
      for (int thread = 0; thread < kThreads; ++thread) {
        const auto& other = before[static_cast<std::size_t>(thread ^ offset)];
        for (int i = 0; i < kCount; ++i) sums[thread].value[i] += other.value[i];
      }
    }
  }
};

// Runs the blocks of a kernel body (launch.cuh) on the calling thread or an executor.
template <class Executor>
class HostLauncher {
 public:
  explicit HostLauncher(const Executor& executor, int multiprocessors = 132)
      : executor_(executor), multiprocessors_(multiprocessors) {}

  template <class Body>
  void Launch(const char* /*step*/, const Body& body, Index blocks) const {
    executor_.ParallelFor(blocks, [&](Index block) {
      const auto shared = std::make_unique<typename Body::Shared>();
      std::memset(shared.get(), 0xff, sizeof(*shared));
      body(HostBlock<Body::kThreads>{}, *shared, static_cast<std::uint32_t>(block));
    });
  }
  int Multiprocessors() const { return multiprocessors_; }

 private:
  const Executor& executor_;
  int multiprocessors_;
};

#endif

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_BLOCK_BLOCK_H_
