// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the kernels of ChunkForward and ChunkBackward in order, and the workspace they pass
// their results through. Host code; the launcher says where the kernels run.
#ifndef KLA_BACKEND_CUDA_CHUNK_PLAN_H_
#define KLA_BACKEND_CUDA_CHUNK_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "kla/backend/cuda/chunk_gradient.h"
#include "kla/backend/cuda/chunk_prepare.h"
#include "kla/backend/cuda/chunk_types.h"
#include "kla/backend/cuda/chunk_walk.h"
#include "kla/core/check.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"

namespace kla::device {

// Lays arrays out one after the other, each on 1024 bytes; counts bytes only where `base` is null.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class U>
  U* Take(Index count) {
    U* at = base_ == nullptr ? nullptr : reinterpret_cast<U*>(base_ + used_);
    const auto bytes = static_cast<std::size_t>(count) * sizeof(U);
    used_ += (bytes + 1023) / 1024 * 1024;
    return at;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

// Writes a piece of an array that travels as the kernel's argument: the offsets of packed sequences
// reach the device without a copy that would tie the caller's memory to the stream.
struct WriteIndices {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1, kCapacity = 480;
  struct Shared {};
  Index* to;
  int count;
  Index values[kCapacity];

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& /*shared*/) const {
    block.ForEach(count, [&](int i) { to[i] = values[i]; });
  }
};

template <class View>
auto TokenRowsOf(const View& view) {
  using T = typename View::Element;
  tile::TokenRows<T> rows{view.data(), view.strides()[0], view.strides()[1], view.strides()[2],
                          true};
  constexpr Index kUnit = 16 / static_cast<Index>(sizeof(T));
  rows.aligned = reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.batch % kUnit == 0 &&
                 rows.time % kUnit == 0 && rows.head % kUnit == 0;
  return rows;
}

inline GateRows GateRowsOf(const GateView<const float>& view) {
  return {view.data(), view.strides()[0], view.strides()[1]};
}

template <class R>
ChunkStates<R> ChunkStatesOf(const ChunkStateView<R>& view) {
  if (view.is_null()) return {};
  return {view.data(), view.strides()[0], view.strides()[1], view.strides()[2]};
}

// The arrays of one call, and the launches that fill those which both directions need.
template <class C>
class ChunkPlan {
 public:
  using E = typename C::E;

  template <class Args>
  ChunkPlan(const Args& args, Carver& carver, bool backward)
      : problem_(MakeProblem(args)),
        heads_{problem_.key_heads, problem_.value_heads,
               problem_.grouping == HeadGrouping::kTiled} {
    map_.sequences = problem_.sequences;
    map_.tokens = problem_.tokens;
    map_.chunks_per_sequence = (problem_.tokens + kChunkRows - 1) / kChunkRows;
    map_.chunks = ChunkCount(args.cu_seqlens, problem_.batch, problem_.tokens, kChunkRows);
    if (!args.cu_seqlens.is_null()) {
      offsets_ = carver.Take<Index>(problem_.sequences + 1);
      first_chunk_ = carver.Take<Index>(problem_.sequences + 1);
      map_.offsets = offsets_;
      map_.first_chunk = first_chunk_;
    }
    const Index key_tiles = map_.chunks * problem_.key_heads;
    const Index squares = map_.chunks * problem_.value_heads;
    prepared_.keys = carver.Take<E>(key_tiles * C::KeyTile::kSize);
    prepared_.queries = carver.Take<E>(key_tiles * C::KeyTile::kSize);
    prepared_.norms = carver.Take<ChunkNorms>(key_tiles);
    prepared_.inverse = carver.Take<E>(squares * C::SquareTile::kSize);
    prepared_.scores = carver.Take<E>(squares * C::SquareTile::kSize);
    prepared_.overlaps = backward ? carver.Take<E>(squares * C::SquareTile::kSize) : nullptr;
    prepared_.scalars = carver.Take<ChunkScalars>(squares);
  }

  const Problem& problem() const { return problem_; }
  const ChunkMap& map() const { return map_; }
  const HeadMap& heads() const { return heads_; }
  const Prepared<typename C::E>& prepared() const { return prepared_; }
  Index walks() const { return problem_.sequences * problem_.value_heads * C::kValueTiles; }

  template <class Launcher, class Args>
  void Prepare(const Args& args, const Launcher& launcher) const {
    if (!args.cu_seqlens.is_null()) {
      WriteList(launcher, offsets_, [&](Index n) { return args.cu_seqlens[n]; });
      Index chunks = 0;
      WriteList(launcher, first_chunk_, [&](Index n) {
        if (n > 0) {
          chunks += (args.cu_seqlens[n] - args.cu_seqlens[n - 1] + kChunkRows - 1) / kChunkRows;
        }
        return chunks;
      });
    }
    PrepareChunks<C> prepare{map_,
                             heads_,
                             TokenRowsOf(args.q),
                             TokenRowsOf(args.k),
                             GateRowsOf(args.g),
                             GateRowsOf(args.eta),
                             problem_.scale,
                             problem_.epsilon,
                             prepared_};
    launcher.Launch("chunks: prepare", prepare, map_.chunks * problem_.key_heads);
  }

 private:
  // list(0), list(1), ..., list(N), asked for in this order.
  template <class Launcher, class F>
  void WriteList(const Launcher& launcher, Index* to, const F& list) const {
    const Index count = problem_.sequences + 1;
    for (Index first = 0; first < count; first += WriteIndices::kCapacity) {
      WriteIndices write{to + first, 0, {}};
      for (; write.count < WriteIndices::kCapacity && first + write.count < count; ++write.count) {
        write.values[write.count] = list(first + write.count);
      }
      launcher.Launch("chunks: offsets", write, 1);
    }
  }

  Problem problem_;
  HeadMap heads_;
  ChunkMap map_;
  Index *offsets_ = nullptr, *first_chunk_ = nullptr;
  Prepared<typename C::E> prepared_{};
};

inline void CheckWorkspace(const char* operation, const void* workspace, std::size_t given,
                           std::size_t needed) {
  KLA_CHECK(given >= needed && (workspace != nullptr || needed == 0), operation, "workspace",
            std::to_string(needed) + " bytes (WorkspaceBytes)",
            workspace == nullptr ? "a null pointer" : std::to_string(given));
  KLA_CHECK(reinterpret_cast<std::uintptr_t>(workspace) % 256 == 0, operation, "workspace",
            "memory aligned to 256 bytes", "a misaligned pointer");
}

template <class C, class Args>
std::size_t ForwardBytes(const Args& args) {
  Carver carver(nullptr);
  ChunkPlan<C>(args, carver, false);
  return carver.used();
}

template <class C, class Launcher, class Args>
void RunChunkForward(const Args& args, const Launcher& launcher, void* workspace,
                     std::size_t workspace_bytes) {
  if (MakeProblem(args).sequences == 0) return;
  CheckWorkspace("ChunkForward", workspace, workspace_bytes, ForwardBytes<C>(args));
  Carver carver(workspace);
  const ChunkPlan<C> plan(args, carver, false);
  plan.Prepare(args, launcher);
  WalkChunks<typename C::Walk, WalkFor::kOutput> walk{};
  walk.map = plan.map();
  walk.heads = plan.heads();
  walk.in = plan.prepared();
  walk.v = TokenRowsOf(args.v);
  walk.o = TokenRowsOf(args.o);
  walk.initial_state = args.initial_state;
  walk.final_state = args.final_state;
  walk.chunk_states = ChunkStatesOf(args.chunk_states);
  launcher.Launch("ChunkForward: walk", walk, plan.walks());
}

// What the walks leave for ChunkGradients.
template <class C>
struct BackwardArrays {
  using E = typename C::E;
  using Sums = typename ChunkGradients<C>::Sums;
  BackwardArrays(const ChunkPlan<C>& plan, Carver& carver) {
    const Index tiles = plan.map().chunks * plan.problem().value_heads * C::kValueTiles;
    states = carver.Take<E>(tiles * C::KeyTile::kSize);
    d_states = carver.Take<E>(tiles * C::KeyTile::kSize);
    pseudo_values = carver.Take<E>(tiles * C::SquareTile::kSize);
    z = carver.Take<E>(tiles * C::SquareTile::kSize);
    if (!ChunkGradients<C>::kSumsInShared) {
      sums = carver.Take<Sums>(plan.map().chunks * plan.problem().key_heads);
    }
  }
  E *states, *d_states, *pseudo_values, *z;
  Sums* sums = nullptr;
};

template <class C, class Args>
std::size_t BackwardBytes(const Args& args) {
  Carver carver(nullptr);
  const ChunkPlan<C> plan(args, carver, true);
  const BackwardArrays<C> arrays(plan, carver);
  return carver.used();
}

template <class C, class Launcher, class Args>
void RunChunkBackward(const Args& args, const Launcher& launcher, void* workspace,
                      std::size_t workspace_bytes) {
  if (MakeProblem(args).sequences == 0) return;
  CheckWorkspace("ChunkBackward", workspace, workspace_bytes, BackwardBytes<C>(args));
  Carver carver(workspace);
  const ChunkPlan<C> plan(args, carver, true);
  const BackwardArrays<C> arrays(plan, carver);
  plan.Prepare(args, launcher);

  WalkBothWays<typename C::Walk> both{};
  both.walks = plan.walks();
  auto& walk = both.forward;
  walk.map = plan.map();
  walk.heads = plan.heads();
  walk.in = plan.prepared();
  walk.v = TokenRowsOf(args.v);
  walk.initial_state = args.initial_state;
  walk.given_chunk_states = ChunkStatesOf(args.chunk_states);
  walk.states = arrays.states;
  walk.pseudo_values = arrays.pseudo_values;
  auto& back = both.back;
  back.map = plan.map();
  back.heads = plan.heads();
  back.in = plan.prepared();
  back.d_o = TokenRowsOf(args.d_o);
  back.dv = TokenRowsOf(args.dv);
  back.d_final_state = args.d_final_state;
  back.d_initial_state = args.d_initial_state;
  back.d_states = arrays.d_states;
  back.z = arrays.z;
  launcher.Launch("ChunkBackward: walks", both, 2 * plan.walks());

  ChunkGradients<C> gradients{};
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
  gradients.sums = arrays.sums;
  launcher.Launch("ChunkBackward: gradients", gradients,
                  plan.map().chunks * plan.problem().key_heads);
}

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_PLAN_H_
