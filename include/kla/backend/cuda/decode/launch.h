// SPDX-License-Identifier: Apache-2.0
// backend/cuda/decode: from the arguments of DecodeStep to launches of its body. A launcher is
// DeviceLauncher (block/launch.cuh) or, under the tests, HostLauncher.
#ifndef KLA_BACKEND_CUDA_DECODE_LAUNCH_H_
#define KLA_BACKEND_CUDA_DECODE_LAUNCH_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "kla/backend/cuda/decode/kernel.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/runtime/check_memory.h"
#include "kla/core/check.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/op/decode_step.h"
#include "kla/op/problem.h"

namespace kla::internal::device {

template <class T>
inline constexpr bool kIsStored =
    std::is_same_v<T, float> || std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

// Calls f(std::integral_constant<Index, K>) with the key dimension that kernels are compiled for.
template <class Shape, class F>
void WithKeyDim(Index key_dim, const F& f) {
  if constexpr (Shape::kKeyDim != kDynamic) {
    f(std::integral_constant<Index, Shape::kKeyDim>{});
  } else {
    const Index compiled = CompiledKeyDim(key_dim, false);
    [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
      ((compiled == kDynamicKeyDims[kIndex]
            ? f(std::integral_constant<Index, kDynamicKeyDims[kIndex]>{})
            : void()),
       ...);
    }
    (std::make_index_sequence<std::size(kDynamicKeyDims)>{});
  }
}

inline DeviceIndices DeviceIndicesOf(const IndexList& list) { return {list.narrow(), list.wide()}; }

// Calls f(sequences, count) for runs of sequences that one launch can take: all of them where lists
// are left out or lie in device memory, else up to ListedSequences::kCapacity.
template <class F>
void ForEachRun(const IndexList& slots, const IndexList& offsets, Index tokens, Index count,
                const F& f) {
  const bool host_slots = !slots.is_null() && !slots.on_device();
  const bool host_offsets = !offsets.is_null() && !offsets.on_device();
  KLA_CHECK((slots.is_null() || host_slots) == (offsets.is_null() || host_offsets) ||
                slots.is_null() || offsets.is_null(),
            "DecodeStep", "slots", "in the same memory as cu_seqlens, host or device",
            "one on the host and one on the device");
  if (!host_slots && !host_offsets) {
    f(UniformSequences{.first = 0,
                       .tokens = tokens,
                       .slots = DeviceIndicesOf(slots),
                       .offsets = DeviceIndicesOf(offsets)},
      count);
    return;
  }
  for (Index first = 0; first < count; first += ListedSequences::kCapacity) {
    const Index run = std::min(ListedSequences::kCapacity, count - first);
    ListedSequences sequences{};
    sequences.first = first;
    sequences.tokens = tokens;
    sequences.packed = host_offsets;
    for (Index i = 0; i < run; ++i) {
      const Index slot = host_slots ? slots[first + i] : first + i;
      sequences.slot[i] = static_cast<std::int32_t>(slot);
      if (host_offsets) sequences.begin[i] = offsets[first + i];
    }
    if (host_offsets) sequences.begin[run] = offsets[first + run];
    f(sequences, run);
  }
}

// Wide tiles share the staged token among more columns; narrow ones make more thread blocks. Wide
// where that still gives every multiprocessor kBlocksPerSm of them.
template <class StepSize, Index kKeyDim, bool kDeferred, class Sequences, class T, class State,
          class Launcher>
void LaunchDecode(const DecodeInputs<T>& inputs, const PoolView<State>& pool,
                  const Sequences& sequences, Index count, const Launcher& launcher) {
  using Tiling = ColumnTiling<kKeyDim, State>;
  constexpr int kWide = Tiling::kPerLane <= 16 ? 4 : 2;
  using Wide = DecodeBody<StepSize, kKeyDim, kWide, kDeferred, Sequences, T, State>;
  using Narrow = DecodeBody<StepSize, kKeyDim, 1, kDeferred, Sequences, T, State>;
  const auto blocks = [&](Index columns) {
    return count * pool.value_heads * ((pool.value_dim + columns - 1) / columns);
  };
  const Index wide_blocks = blocks(Wide::kBlockColumns);
  if (wide_blocks >= Index{launcher.Multiprocessors()} * Wide::kBlocksPerSm) {
    launcher.Launch("DecodeStep", Wide{inputs, pool, sequences}, wide_blocks);
  } else {
    launcher.Launch("DecodeStep", Narrow{inputs, pool, sequences}, blocks(Narrow::kBlockColumns));
  }
}

template <class View>
TokenStrides StridesOf(const View& view) {
  return {view.strides()[0], view.strides()[1], view.strides()[2]};
}

// The kernel arguments of the arrays of a DecodeStep.
template <class T>
DecodeInputs<T> InputsOf(const DecodeStepArgs<T>& args, const Problem& problem) {
  CheckAligned("DecodeStep", "q", args.q.data());
  CheckAligned("DecodeStep", "k", args.k.data());
  CheckAligned("DecodeStep", "v", args.v.data());
  CheckAligned("DecodeStep", "g", args.g.data());
  CheckAligned("DecodeStep", "eta", args.eta.data());
  CheckAligned("DecodeStep", "o", args.o.data());
  return {.q = args.q.data(),
          .k = args.k.data(),
          .v = args.v.data(),
          .g = args.g.data(),
          .eta = args.eta.data(),
          .o = args.o.data(),
          .q_at = StridesOf(args.q),
          .k_at = StridesOf(args.k),
          .v_at = StridesOf(args.v),
          .g_at = StridesOf(args.g),
          .eta_at = StridesOf(args.eta),
          .o_at = StridesOf(args.o),
          .groups = HeadGroups<std::int32_t>::Of(static_cast<std::int32_t>(problem.key_heads),
                                                 static_cast<std::int32_t>(problem.value_heads),
                                                 problem.grouping),
          .scale = static_cast<float>(problem.scale),
          .epsilon = problem.epsilon};
}

// DecodeStep on a pool, its arguments checked by the operation.
template <class Shape, class StepSize, bool kDeferred, class T, class State, class Launcher>
void RunDecodeStep(const DecodeStepArgs<T>& args, const PoolView<State>& pool,
                   const Launcher& launcher) {
  static_assert(kIsStored<T> && kIsStored<State>,
                "kla: the backend Cuda takes float, bfloat16 and float16; convert double first");
  const Problem problem = MakeProblem(args);
  KLA_CHECK(problem.tokens <= std::numeric_limits<std::int32_t>::max(), "DecodeStep", "q",
            "fewer than 2^31 tokens in a call", std::to_string(problem.tokens));
  const DecodeInputs<T> inputs = InputsOf(args, problem);
  WithKeyDim<Shape>(problem.key_dim, [&](auto key_dim) {
    ForEachRun(args.slots, args.cu_seqlens, problem.tokens, problem.sequences,
               [&](const auto& sequences, Index count) {
                 LaunchDecode<StepSize, decltype(key_dim)::value, kDeferred>(
                     inputs, pool, sequences, count, launcher);
               });
  });
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_DECODE_LAUNCH_H_
