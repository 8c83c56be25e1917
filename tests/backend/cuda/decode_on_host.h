// SPDX-License-Identifier: Apache-2.0
// tests/backend: the decode kernel bodies of the backend Cuda, run on this processor: the same code
// that a device runs, over the host implementation of their block interface. Shared memory and
// registers start as not-a-number, so that reading what was never written shows.
#ifndef KLA_TESTS_BACKEND_CUDA_DECODE_ON_HOST_H_
#define KLA_TESTS_BACKEND_CUDA_DECODE_ON_HOST_H_

#include <algorithm>
#include <string_view>
#include <vector>

#include "kla/backend/cuda/cuda.h"
#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/decode/state.h"
#include "kla/backend/reference/reference.h"
#include "kla/core/executor.h"
#include "kla/core/kernel.h"
#include "kla/op/decode_step.h"

namespace kla::test {

struct CudaDecodeOnHost {
  static constexpr std::string_view kName = "CudaOnHost";
  static constexpr std::string_view kInstructionSet = "host";
};

template <int kTokens>
struct CudaDeferredOnHost {
  static constexpr std::string_view kName = "CudaDeferredOnHost";
  static constexpr std::string_view kInstructionSet = "host";
};

// The platform of PooledState in host memory.
struct HostPlatform {
  using Executor = Serial;

  // What IsDevicePointer answers: whether arrays of the caller go through the kernels that copy
  // between device arrays, or through host memory.
  static inline bool arrays_are_on_device = false;

  template <class T>
  class Memory {
   public:
    Memory() = default;
    explicit Memory(Index size) : values_(static_cast<std::size_t>(size), T(-77.0f)) {}
    T* data() const { return const_cast<T*>(values_.data()); }
    Index size() const { return static_cast<Index>(values_.size()); }
    std::size_t Bytes() const { return values_.size() * sizeof(T); }
    void Zero(Index begin, Index count, int /*queue*/) const {
      std::fill_n(data() + begin, count, T(0.0f));
    }
    void CopyWithin(Index from, Index to, Index count, int /*queue*/) const {
      std::copy_n(data() + from, count, data() + to);
    }

   private:
    std::vector<T, internal::CacheAlignedAllocator<T>> values_;
  };

  static int Queue(const Executor&) { return 0; }
  static auto MakeLauncher(const Executor& executor) {
    return internal::device::HostLauncher(executor);
  }
  template <class T>
  static void CopyAndWait(const T* from, T* to, Index count, const Executor&) {
    std::copy_n(from, count, to);
  }
  static bool IsDevicePointer(const void*) { return arrays_are_on_device; }
};

// Small batches take narrow tiles and large ones wide tiles; the number of multiprocessors says
// from where on. The suites run with both.
inline int multiprocessors_of_host = 132;

}  // namespace kla::test

namespace kla {

template <>
inline constexpr bool kTakesDeviceLists<test::CudaDecodeOnHost> = true;
template <int kTokens>
inline constexpr bool kTakesDeviceLists<test::CudaDeferredOnHost<kTokens>> = true;

template <HeadShape Shape, class State>
class DecodeState<test::CudaDecodeOnHost, Shape, State>
    : public internal::device::PooledState<test::HostPlatform, Shape, State, 0> {
  using internal::device::PooledState<test::HostPlatform, Shape, State, 0>::PooledState;
};

template <int kTokens, HeadShape Shape, class State>
class DecodeState<test::CudaDeferredOnHost<kTokens>, Shape, State>
    : public internal::device::PooledState<test::HostPlatform, Shape, State, kTokens> {
  using internal::device::PooledState<test::HostPlatform, Shape, State, kTokens>::PooledState;
};

template <class StepSize, class T, class State, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, test::CudaDecodeOnHost, Shape> {
  template <class Exec>
  static void Run(const DecodeStepArgs<T>& args,
                  DecodeState<test::CudaDecodeOnHost, Shape, State>& state, const Exec& executor) {
    internal::device::RunDecodeStep<Shape, StepSize, false>(
        args, state.view(),
        internal::device::HostLauncher(executor, test::multiprocessors_of_host));
  }
};

template <class StepSize, class T, class State, class Shape, int kTokens>
struct Kernel<DecodeStepOp<StepSize, T, State>, test::CudaDeferredOnHost<kTokens>, Shape> {
  template <class Exec>
  static void Run(const DecodeStepArgs<T>& args,
                  DecodeState<test::CudaDeferredOnHost<kTokens>, Shape, State>& state,
                  const Exec& executor) {
    internal::device::RunDecodeStep<Shape, StepSize, true>(
        args, state.view(),
        internal::device::HostLauncher(executor, test::multiprocessors_of_host));
  }
};

// The law against the chunk form is tested with the chunk form of Reference.
template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::CudaDecodeOnHost, Shape>
    : Kernel<ChunkForwardOp<StepSize, T, State>, Reference, Shape> {};
template <class StepSize, class T, class State, class Shape, int kTokens>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::CudaDeferredOnHost<kTokens>, Shape>
    : Kernel<ChunkForwardOp<StepSize, T, State>, Reference, Shape> {};

}  // namespace kla

#endif  // KLA_TESTS_BACKEND_CUDA_DECODE_ON_HOST_H_
