// SPDX-License-Identifier: Apache-2.0
// tests/backend: the chunk kernels of the backend Cuda, the same bodies, on a CPU.
#ifndef KLA_TESTS_BACKEND_CUDA_ON_HOST_H_
#define KLA_TESTS_BACKEND_CUDA_ON_HOST_H_

#include <cstring>
#include <memory>
#include <new>
#include <string_view>

#include "kla/backend/cuda/chunk/run.h"
#include "kla/core/kernel.h"
#include "support/tolerance.h"

namespace kla::test {

// Memory of a device or of a block: aligned as there, every byte set so that what is read before
// it is written is not a number.
class PoisonedMemory {
 public:
  explicit PoisonedMemory(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{1024}))) {
    if (bytes > 0) std::memset(data_.get(), 0xff, bytes);
  }
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{1024}); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

// Runs the blocks of a kernel as tasks of an executor, as on a card with kSharedBytes of shared
// memory for a block, which picks the kernels, and with sequences cut into `segments`.
template <class Executor, int kSharedBytes>
struct BlocksOnHost {
  using Limits = internal::device::SharedLimits<kSharedBytes>;
  static constexpr bool kMayFuse = true;
  const Executor& executor;
  int segments;
  internal::device::Card::Fuse fuse;

  internal::device::Card card() const { return {132, kSharedBytes, segments, fuse}; }

  template <class Body>
  void Launch(const char* /*step*/, const Body& body, Index blocks) const {
    executor.ParallelFor(blocks, [&](Index index) {
      const PoisonedMemory memory(sizeof(typename Body::Shared));
      auto& shared = *reinterpret_cast<typename Body::Shared*>(memory.data());
      body(internal::tile::Block<Body::kGroups>(index), shared);
    });
  }
};

// kTerms: 16-bit terms of the operands (backend/cuda/tile/layout.h). kSegments: into which every
// sequence is cut, however short; 0: not at all, and the forward pass in one kernel.
template <int kTerms, int kSharedBytes = internal::device::kSharedOf90, int kSegments = 1>
struct CudaOnHost {
  static constexpr std::string_view kName = kTerms == 1   ? "CudaOnHost1"
                                            : kTerms == 2 ? "CudaOnHost2"
                                                          : "CudaOnHost3";
  template <class Executor>
  static BlocksOnHost<Executor, kSharedBytes> LauncherOn(const Executor& executor) {
    using Fuse = internal::device::Card::Fuse;
    return {executor, kSegments == 0 ? 1 : kSegments,
            kSegments == 0 ? Fuse::kAlways : Fuse::kNever};
  }
};

template <int kTerms, int kSharedBytes, int kSegments, class T>
constexpr double kOperandRoundoff<CudaOnHost<kTerms, kSharedBytes, kSegments>, T> =
    kTerms == 1   ? kRoundoff<internal::tile::OperandElement<T>>
    : kTerms == 2 ? 0x1p-17
                  : 0x1p-24;

}  // namespace kla::test

namespace kla {

template <class StepSize, class T, class State, int kTerms, int kSharedBytes, int kSegments,
          class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::CudaOnHost<kTerms, kSharedBytes, kSegments>,
              Shape> {
  template <class Executor>
  static void Run(const ChunkForwardArgs<T, State>& args, const Executor& executor) {
    using C = internal::device::ChunkConfig<StepSize, T, State, Shape, kTerms>;
    const auto launcher = test::CudaOnHost<kTerms, kSharedBytes, kSegments>::LauncherOn(executor);
    const auto bytes = internal::device::ForwardBytes<C>(args, launcher.card());
    const test::PoisonedMemory workspace(bytes);
    internal::device::RunChunkForward<C>(args, launcher, workspace.data(), bytes);
  }
};

template <class StepSize, class T, class State, int kTerms, int kSharedBytes, int kSegments,
          class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>,
              test::CudaOnHost<kTerms, kSharedBytes, kSegments>, Shape> {
  template <class Executor>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Executor& executor) {
    using C = internal::device::ChunkConfig<StepSize, T, State, Shape, kTerms>;
    const auto launcher = test::CudaOnHost<kTerms, kSharedBytes, kSegments>::LauncherOn(executor);
    using Limits = typename std::decay_t<decltype(launcher)>::Limits;
    const auto bytes = internal::device::BackwardBytes<C, Limits>(args, launcher.card());
    const test::PoisonedMemory workspace(bytes);
    internal::device::RunChunkBackward<C>(args, launcher, workspace.data(), bytes);
  }
};

}  // namespace kla

#endif  // KLA_TESTS_BACKEND_CUDA_ON_HOST_H_
