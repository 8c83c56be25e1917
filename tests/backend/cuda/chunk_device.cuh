// SPDX-License-Identifier: Apache-2.0
// tests/backend: ChunkForward and ChunkBackward of the backend Cuda on a device, as a backend that
// takes arrays of the host: the suites that every backend passes run over it. Each cuda_chunk/*.cu
// is one configuration, so that they compile side by side.
#ifndef KLA_TESTS_BACKEND_CUDA_CHUNK_DEVICE_CUH_
#define KLA_TESTS_BACKEND_CUDA_CHUNK_DEVICE_CUH_

#include <type_traits>
#include <vector>

#include "kla/backend/cuda/chunk.cuh"
#include "kla/backend/cuda/runtime/device_memory.cuh"
#include "op/chunk_backward_suite.h"
#include "op/chunk_forward_suite.h"
#include "support/device_copy.cuh"

namespace kla::test {

// A backend whose arguments are in device memory, given arrays of the host. With kFused the forward
// pass is one kernel wherever the device has code for it, not only where it is faster.
template <class Backend, bool kFused = false>
struct ChunksFromHost {
  static constexpr std::string_view kName = Backend::kName;
};

template <class Backend, bool kFused, class T>
constexpr double kOperandRoundoff<ChunksFromHost<Backend, kFused>, T> =
    kOperandTerms<Backend, T> == 1   ? kRoundoff<internal::tile::OperandElement<T>>
    : kOperandTerms<Backend, T> == 2 ? 0x1p-17
                                     : 0x1p-24;

// States of the host in device memory, in the same direction and with the same padding.
template <class T>
class DeviceStates {
 public:
  using Element = std::remove_const_t<T>;
  explicit DeviceStates(const StateRef<T>& host) : host_(host) {
    if (host.is_null() || host.sequences == 0) return;
    size_ = (host.sequences - 1) * host.sequence_stride + (host.heads - 1) * host.head_stride +
            (host.key_dim - 1) * host.key_stride + (host.value_dim - 1) * host.value_stride + 1;
    memory_ = internal::device::DeviceMemory<Element>(size_);
    internal::device::CopyAndWait(const_cast<const Element*>(host.data), memory_.data(), size_,
                                  nullptr);
  }
  StateRef<T> ref() const {
    StateRef<T> ref = host_;
    if (size_ > 0) ref.data = memory_.data();
    return ref;
  }
  void CopyBack() const {
    internal::device::CopyAndWait(const_cast<const Element*>(memory_.data()), host_.data, size_,
                                  nullptr);
  }

 private:
  StateRef<T> host_;
  Index size_ = 0;
  internal::device::DeviceMemory<Element> memory_;
};

struct FusingLauncher : internal::device::TileLauncher {
  internal::device::Card card() const {
    using Fuse = internal::device::Card::Fuse;
    internal::device::Card card = internal::device::CurrentCard();
    if (card.fuse != Fuse::kNever) card.fuse = Fuse::kAlways;
    return card;
  }
};

// Every byte set: not a number in any format, until it is written.
class PoisonedWorkspace {
 public:
  explicit PoisonedWorkspace(std::size_t bytes) : memory_(static_cast<Index>(bytes)) {
    if (bytes > 0) {
      internal::device::CheckCuda(cudaMemset(memory_.data(), 0xff, bytes),
                                  "poisoning the workspace");
    }
  }
  CudaExecutor executor() const {
    return {.stream = nullptr, .workspace = memory_.data(), .workspace_bytes = memory_.Bytes()};
  }

 private:
  internal::device::DeviceMemory<unsigned char> memory_;
};

}  // namespace kla::test

namespace kla {

template <class StepSize, class T, class State, class Backend, bool kFused, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, test::ChunksFromHost<Backend, kFused>, Shape> {
  template <class Exec>
  static void Run(const ChunkForwardArgs<T, State>& args, const Exec&) {
    const test::DeviceCopy q(args.q), k(args.k);
    const test::DeviceCopy v(args.v);
    const test::DeviceCopy g(args.g), eta(args.eta);
    const test::DeviceCopy o(args.o);
    const test::DeviceCopy chunk_states(args.chunk_states);
    const test::DeviceStates initial(args.initial_state);
    const test::DeviceStates final_state(args.final_state);
    ChunkForwardArgs<T, State> on_device = args;
    on_device.q = q.view();
    on_device.k = k.view();
    on_device.v = v.view();
    on_device.g = g.view();
    on_device.eta = eta.view();
    on_device.o = o.view();
    on_device.chunk_states = chunk_states.view();
    on_device.initial_state = initial.ref();
    on_device.final_state = final_state.ref();
    // In place where the caller asked for it.
    if (args.final_state.data == args.initial_state.data) {
      on_device.initial_state = on_device.final_state;
    }
    const test::PoisonedWorkspace workspace(
        ChunkForwardWorkspaceBytes<Backend, Shape, StepSize>(on_device));
    if constexpr (kFused) {
      using C = typename internal::device::ChunkConfigOf<Backend, Shape, StepSize, T, State>::Type;
      const CudaExecutor executor = workspace.executor();
      internal::device::RunChunkForward<C>(on_device, test::FusingLauncher{nullptr},
                                           executor.workspace, executor.workspace_bytes);
    } else {
      ChunkForward<Backend, Shape, StepSize>(on_device, workspace.executor());
    }
    internal::device::CheckCuda(cudaDeviceSynchronize(), "ChunkForward");
    o.CopyBack();
    if (!args.chunk_states.is_null()) chunk_states.CopyBack();
    if (!args.final_state.is_null()) final_state.CopyBack();
  }
};

template <class StepSize, class T, class State, class Backend, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, test::ChunksFromHost<Backend>, Shape> {
  template <class Exec>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Exec&) {
    const test::DeviceCopy q(args.q), k(args.k);
    const test::DeviceCopy v(args.v), d_o(args.d_o);
    const test::DeviceCopy g(args.g), eta(args.eta);
    const test::DeviceCopy dq(args.dq), dk(args.dk);
    const test::DeviceCopy dv(args.dv);
    const test::DeviceCopy dg(args.dg), deta(args.deta);
    const test::DeviceCopy chunk_states(args.chunk_states);
    const test::DeviceStates initial(args.initial_state), d_final(args.d_final_state);
    const test::DeviceStates d_initial(args.d_initial_state);
    ChunkBackwardArgs<T, State> on_device = args;
    on_device.q = q.view();
    on_device.k = k.view();
    on_device.v = v.view();
    on_device.d_o = d_o.view();
    on_device.g = g.view();
    on_device.eta = eta.view();
    on_device.dq = dq.view();
    on_device.dk = dk.view();
    on_device.dv = dv.view();
    on_device.dg = dg.view();
    on_device.deta = deta.view();
    on_device.chunk_states = chunk_states.view();
    on_device.initial_state = initial.ref();
    on_device.d_final_state = d_final.ref();
    on_device.d_initial_state = d_initial.ref();
    const test::PoisonedWorkspace workspace(
        ChunkBackwardWorkspaceBytes<Backend, Shape, StepSize>(on_device));
    ChunkBackward<Backend, Shape, StepSize>(on_device, workspace.executor());
    internal::device::CheckCuda(cudaDeviceSynchronize(), "ChunkBackward");
    dq.CopyBack();
    dk.CopyBack();
    dv.CopyBack();
    dg.CopyBack();
    deta.CopyBack();
    if (!args.d_initial_state.is_null()) d_initial.CopyBack();
  }
};

namespace test {

// Sequences so long for their few heads that a card cuts them into segments.
inline std::vector<Case> SegmentCases() {
  return {{.name = "long", .tokens = 4500, .key_heads = 1, .value_heads = 2},
          {.name = "long_packed",
           .tokens = 5000,
           .cu_seqlens = {0, 70, 70, 4700, 5000},
           .transposed_state = true},
          {.name = "long_without_states", .tokens = 4480, .initial_state = false},
          {.name = "long_no_decay", .tokens = 4500, .inputs = Inputs::kNoDecay}};
}

template <class C>
class SegmentsForwardTest : public ChunkForwardTest<C> {};
template <class C>
class SegmentsBackwardTest : public ChunkBackwardTest<C> {};
TYPED_TEST_SUITE_P(SegmentsForwardTest);
TYPED_TEST_SUITE_P(SegmentsBackwardTest);

TYPED_TEST_P(SegmentsForwardTest, MatchesOracle) {
  std::uint64_t seed = 300;
  for (const Case& c : SegmentCases()) this->ExpectMatchesOracle(c, ++seed);
}
TYPED_TEST_P(SegmentsBackwardTest, MatchesReference) {
  std::uint64_t seed = 400;
  for (const Case& c : SegmentCases()) this->ExpectMatchesReference(c, ++seed);
}
TYPED_TEST_P(SegmentsForwardTest, AreTaken) {
  const auto tiles = [](Index size) { return (size + 63) / 64; };
  const Index value_tiles = tiles(TypeParam::kValueDim), key_tiles = tiles(TypeParam::kKeyDim);
  EXPECT_GT(
      internal::device::SegmentCount({.chunks = 71,
                                      .longest = 71,
                                      .columns = 2 * value_tiles,
                                      .map_columns = 2 * (value_tiles + key_tiles),
                                      .maps_side_by_side = 1,
                                      .processors = internal::device::CurrentCard().processors}),
      1);
}
// Equal bits from run to run: what one block leaves for another was there.
TYPED_TEST_P(SegmentsBackwardTest, SameBitsEachTime) {
  const Case c = SegmentCases().front();
  const Given<TypeParam> given(c, 17);
  const auto forward = RunForward<TypeParam>(c, given.tensors);
  const auto backward = RunBackward<TypeParam>(c, given.tensors);
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(RunForward<TypeParam>(c, given.tensors).o.SameBits(forward.o));
    const auto again = RunBackward<TypeParam>(c, given.tensors);
    EXPECT_TRUE(again.dq.SameBits(backward.dq));
    EXPECT_TRUE(again.dk.SameBits(backward.dk));
    EXPECT_TRUE(again.dv.SameBits(backward.dv));
    EXPECT_TRUE(again.dg.SameBits(backward.dg));
  }
}
REGISTER_TYPED_TEST_SUITE_P(SegmentsForwardTest, MatchesOracle, AreTaken);
REGISTER_TYPED_TEST_SUITE_P(SegmentsBackwardTest, MatchesReference, SameBitsEachTime);

}  // namespace test
}  // namespace kla

// The suites over one configuration.
#define KLA_INSTANTIATE_CHUNK_SUITES(Configs)                                     \
  INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ChunkForwardTest, Configs, ConfigName);    \
  INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SegmentsForwardTest, Configs, ConfigName); \
  INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ChunkBackwardTest, Configs, ConfigName);   \
  INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SegmentsBackwardTest, Configs, ConfigName)

#endif  // KLA_TESTS_BACKEND_CUDA_CHUNK_DEVICE_CUH_
