// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the kernels of ChunkForward and ChunkBackward in order. Which of them are
// taken follows from the shared memory that a block may have. Host code; the launcher says where
// the kernels run.
#ifndef KLA_BACKEND_CUDA_CHUNK_RUN_H_
#define KLA_BACKEND_CUDA_CHUNK_RUN_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

#include "kla/backend/cuda/chunk/forward_fused.h"
#include "kla/backend/cuda/chunk/gradient.h"
#include "kla/backend/cuda/chunk/plan.h"
#include "kla/backend/cuda/chunk/walk_back.h"
#include "kla/backend/cuda/chunk/walk_forward.h"
#include "kla/backend/cuda/chunk/walk_pipelined.h"
#include "kla/backend/cuda/runtime/check_memory.h"
#include "kla/core/check.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"

namespace kla::internal::device {

// The kernels of a call whose blocks may have kLimit bytes of shared memory.
template <class C, int kLimit>
struct ChunkKernels {
  using W = typename C::Walk;
  template <bool kOutput, bool kSaved>
  using Room = typename WalkRoomFor<C, kOutput, kSaved, kLimit>::Type;
  template <class Body>
  static constexpr int kBytes = static_cast<int>(sizeof(typename Body::Shared));

  static constexpr bool kPipelined = WalkPipelined<W>::kTakes && kBytes<WalkPipelined<W>> <= kLimit;
  using Output = std::conditional_t<kPipelined, WalkPipelined<W>,
                                    WalkChunks<W, WalkFor::kOutput, Room<true, false>>>;
  static constexpr bool kFused = ForwardFused<C>::kTakes && kBytes<ForwardFused<C>> <= kLimit;
  using Maps = WalkChunks<W, WalkFor::kMap, Room<false, false>>;
  using Walks = WalkBothWays<W, false, Room<true, true>>;
  // A chunk at a time: blocks that share a multiprocessor hide each other's waiting.
  using MapsBothWays = WalkBothWays<
      W, true,
      std::conditional_t<Room<true, false>::kInTurn, Room<true, false>, WalkRoom<1, false>>>;
  using Gradients = ChunkGradients<C, typename GradientRoomFor<C, kLimit>::Type>;

  static constexpr int kEither = std::max(kBytes<PrepareChunks<C>>, kBytes<ScanSegments<W>>);
  static constexpr int kForwardBytes = std::max({kEither, kBytes<Output>, kBytes<Maps>});
  static constexpr int kBackwardBytes =
      std::max({kEither, kBytes<Walks>, kBytes<MapsBothWays>, kBytes<Gradients>});
};

// Limits of shared memory, the largest first.
template <int... kLimits>
using SharedLimits = std::integer_sequence<int, kLimits...>;

// f(std::integral_constant<int, the largest limit that the card reaches>); the smallest one if
// none.
template <int kLimit, int... kSmaller, class F>
auto WithSharedLimit(SharedLimits<kLimit, kSmaller...>, const Card& card, const F& f) {
  if constexpr (sizeof...(kSmaller) > 0) {
    if (card.shared_bytes < kLimit) {
      return WithSharedLimit(SharedLimits<kSmaller...>{}, card, f);
    }
  }
  return f(std::integral_constant<int, kLimit>{});
}

// Arguments of a call and where it runs.
inline void CheckCard(const char* operation, int needed, const Card& card) {
  KLA_CHECK(needed <= card.shared_bytes, operation, "K, V and the type",
            "a device with at least " + std::to_string(needed) +
                " bytes of shared memory for a thread block, or smaller K",
            std::to_string(card.shared_bytes));
}

// Of every array, to its element: rows and states that begin on 16 bytes are read in such pieces,
// others element by element.
template <class Args>
void CheckInputPointers(const char* operation, const Args& args) {
  CheckAligned(operation, "q", args.q.data());
  CheckAligned(operation, "k", args.k.data());
  CheckAligned(operation, "v", args.v.data());
  CheckAligned(operation, "g", args.g.data());
  CheckAligned(operation, "eta", args.eta.data());
  CheckAligned(operation, "initial_state", args.initial_state.data);
  CheckAligned(operation, "chunk_states", args.chunk_states.data());
}
template <class T, class State>
void CheckPointers(const ChunkForwardArgs<T, State>& args) {
  constexpr const char* kOperation = "ChunkForward";
  CheckInputPointers(kOperation, args);
  CheckAligned(kOperation, "o", args.o.data());
  CheckAligned(kOperation, "final_state", args.final_state.data);
}
template <class T, class State>
void CheckPointers(const ChunkBackwardArgs<T, State>& args) {
  constexpr const char* kOperation = "ChunkBackward";
  CheckInputPointers(kOperation, args);
  CheckAligned(kOperation, "d_o", args.d_o.data());
  CheckAligned(kOperation, "dq", args.dq.data());
  CheckAligned(kOperation, "dk", args.dk.data());
  CheckAligned(kOperation, "dv", args.dv.data());
  CheckAligned(kOperation, "dg", args.dg.data());
  CheckAligned(kOperation, "deta", args.deta.data());
  CheckAligned(kOperation, "d_final_state", args.d_final_state.data);
  CheckAligned(kOperation, "d_initial_state", args.d_initial_state.data);
}

template <class Kernel, class Plan>
Kernel WalkOf(const Plan& plan) {
  Kernel walk{};
  walk.map = plan.map();
  walk.heads = plan.heads();
  walk.segments = plan.segments();
  walk.in = plan.prepared();
  return walk;
}

template <class C, class Args>
std::size_t ForwardBytes(const Args& args, const Card& card) {
  Carver carver(nullptr);
  ChunkPlan<C>(args, card, carver, false);
  return carver.used();
}

template <class C, class Launcher, class Args>
void RunChunkForward(const Args& args, const Launcher& launcher, void* workspace,
                     std::size_t workspace_bytes) {
  if (MakeProblem(args).sequences == 0) return;
  CheckPointers(args);
  const Card card = launcher.card();
  WithSharedLimit(typename Launcher::Limits{}, card, [&](auto limit) {
    using Kernels = ChunkKernels<C, limit.value>;
    CheckCard("ChunkForward", Kernels::kForwardBytes, card);
    CheckWorkspace("ChunkForward", workspace, workspace_bytes, ForwardBytes<C>(args, card));
    Carver carver(workspace);
    const ChunkPlan<C> plan(args, card, carver, false);
    if constexpr (Kernels::kFused && Launcher::kMayFuse) {
      if (plan.FusesForward(card)) {
        plan.WriteOffsets(args, launcher);
        const ForwardFused<C> fused{plan.map(),
                                    plan.heads(),
                                    TokenRowsOf(args.q),
                                    TokenRowsOf(args.k),
                                    TokenRowsOf(args.v),
                                    TokenRowsOf(args.o),
                                    GateRowsOf(args.g),
                                    GateRowsOf(args.eta),
                                    plan.problem().scale,
                                    plan.problem().epsilon,
                                    args.initial_state,
                                    args.final_state,
                                    ChunkStatesOf(args.chunk_states)};
        launcher.Launch("ChunkForward: fused", fused, plan.Walks(1));
        return;
      }
    }
    plan.Prepare(args, launcher);
    if (plan.segments().count > 1) {
      using Maps = typename Kernels::Maps;
      auto maps = WalkOf<Maps>(plan);
      maps.v = TokenRowsOf(args.v);
      maps.initial_state = args.initial_state;
      maps.entering = plan.entering();
      maps.maps = plan.maps();
      launcher.Launch("ChunkForward: maps", maps, plan.Walks(Maps::kTiles));
      plan.Scan(launcher);
    }
    auto walk = WalkOf<typename Kernels::Output>(plan);
    walk.v = TokenRowsOf(args.v);
    walk.o = TokenRowsOf(args.o);
    walk.initial_state = args.initial_state;
    walk.final_state = args.final_state;
    walk.chunk_states = ChunkStatesOf(args.chunk_states);
    walk.entering = plan.entering();
    launcher.Launch("ChunkForward: walk", walk, plan.Walks(C::kValueTiles));
  });
}

// What the walks leave for ChunkGradients.
template <class C>
struct BackwardArrays {
  using E = typename C::E;
  BackwardArrays(const ChunkPlan<C>& plan, Carver& carver) {
    const Index tiles = plan.map().chunks * plan.problem().value_heads * C::kValueTiles;
    states = carver.Take<E>(tiles * C::KeyTile::kSize);
    d_states = carver.Take<E>(tiles * C::KeyTile::kSize);
    pseudo_values = carver.Take<E>(tiles * C::SquareTile::kSize);
    z = carver.Take<E>(tiles * C::SquareTile::kSize);
  }
  // Sums of dq~ and dk~, where blocks have no room for them.
  template <class Gradients>
  static typename Gradients::Sums* TakeSums(const ChunkPlan<C>& plan, Carver& carver) {
    if (Gradients::kSumsInShared) return nullptr;
    return carver.Take<typename Gradients::Sums>(plan.map().chunks * plan.problem().key_heads);
  }
  E *states, *d_states, *pseudo_values, *z;
};

template <class C, class Limits, class Args>
std::size_t BackwardBytes(const Args& args, const Card& card) {
  return WithSharedLimit(Limits{}, card, [&](auto limit) {
    using Kernels = ChunkKernels<C, limit.value>;
    Carver carver(nullptr);
    const ChunkPlan<C> plan(args, card, carver, true);
    const BackwardArrays<C> arrays(plan, carver);
    BackwardArrays<C>::template TakeSums<typename Kernels::Gradients>(plan, carver);
    return carver.used();
  });
}

// The walks of the backward pass, or the maps of their segments.
template <class Kernel, class C, class Launcher, class Args>
void LaunchBothWays(const char* step, const Args& args, const Launcher& launcher,
                    const ChunkPlan<C>& plan, const BackwardArrays<C>& arrays) {
  Kernel both{};
  both.back_walks = plan.Walks(Kernel::Back::kTiles);
  both.forward = WalkOf<typename Kernel::Forward>(plan);
  auto& walk = both.forward;
  walk.v = TokenRowsOf(args.v);
  walk.initial_state = args.initial_state;
  walk.given_chunk_states = ChunkStatesOf(args.chunk_states);
  walk.states = arrays.states;
  walk.pseudo_values = arrays.pseudo_values;
  walk.entering = plan.entering();
  walk.maps = plan.maps();
  both.back = WalkOf<typename Kernel::Back>(plan);
  auto& back = both.back;
  back.d_o = TokenRowsOf(args.d_o);
  back.dv = TokenRowsOf(args.dv);
  back.d_final_state = args.d_final_state;
  back.d_initial_state = args.d_initial_state;
  back.d_states = arrays.d_states;
  back.z = arrays.z;
  back.leaving = plan.leaving();
  launcher.Launch(step, both, both.back_walks + plan.Walks(Kernel::Forward::kTiles));
}

template <class C, class Launcher, class Args>
void RunChunkBackward(const Args& args, const Launcher& launcher, void* workspace,
                      std::size_t workspace_bytes) {
  if (MakeProblem(args).sequences == 0) return;
  CheckPointers(args);
  const Card card = launcher.card();
  using Limits = typename Launcher::Limits;
  WithSharedLimit(Limits{}, card, [&](auto limit) {
    using Kernels = ChunkKernels<C, limit.value>;
    using Gradients = typename Kernels::Gradients;
    CheckCard("ChunkBackward", Kernels::kBackwardBytes, card);
    CheckWorkspace("ChunkBackward", workspace, workspace_bytes,
                   BackwardBytes<C, Limits>(args, card));
    Carver carver(workspace);
    const ChunkPlan<C> plan(args, card, carver, true);
    const BackwardArrays<C> arrays(plan, carver);
    plan.Prepare(args, launcher);
    if (plan.segments().count > 1) {
      LaunchBothWays<typename Kernels::MapsBothWays>("ChunkBackward: maps", args, launcher, plan,
                                                     arrays);
      plan.Scan(launcher);
    }
    LaunchBothWays<typename Kernels::Walks>("ChunkBackward: walks", args, launcher, plan, arrays);

    Gradients gradients{};
    gradients.map = plan.map();
    gradients.heads = plan.heads();
    gradients.in = plan.prepared();
    gradients.q = TokenRowsOf(args.q);
    gradients.k = TokenRowsOf(args.k);
    gradients.v = TokenRowsOf(args.v);
    gradients.d_o = TokenRowsOf(args.d_o);
    gradients.dq = TokenRowsOf(args.dq);
    gradients.dk = TokenRowsOf(args.dk);
    gradients.dg = args.dg.data();
    gradients.deta = args.deta.data();
    gradients.dg_batch = args.dg.strides()[0];
    gradients.dg_time = args.dg.strides()[1];
    gradients.deta_batch = args.deta.strides()[0];
    gradients.deta_time = args.deta.strides()[1];
    gradients.scale = plan.problem().scale;
    gradients.epsilon = plan.problem().epsilon;
    gradients.states = arrays.states;
    gradients.pseudo_values = arrays.pseudo_values;
    gradients.d_states = arrays.d_states;
    gradients.z = arrays.z;
    gradients.sums = BackwardArrays<C>::template TakeSums<Gradients>(plan, carver);
    launcher.Launch("ChunkBackward: gradients", gradients,
                    plan.map().chunks * plan.problem().key_heads);
  });
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_RUN_H_
