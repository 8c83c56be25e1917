// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the reverse walk of the backward pass, and both walks in one launch.
#ifndef KLA_BACKEND_CUDA_CHUNK_WALK_BACK_H_
#define KLA_BACKEND_CUDA_CHUNK_WALK_BACK_H_

#include "kla/backend/cuda/chunk/walk.h"
#include "kla/backend/cuda/chunk/walk_forward.h"

namespace kla::internal::device {

// A block for each segment, value head and 64 columns of V, chunks in reverse, the gradient dS in
// registers (dS+ enters, dS leaves):
//   dV'^T = dO^T P + w (K dS+)^T     Z^T = dV'^T T     dV = b Z
//   dS^T = gamma_C dS+^T + dO^T (s gamma Q) - Z^T (b gamma K)
// Writes dV, and dS+^T and Z^T of each chunk; kMap: only what a segment adds to the gradient that
// enters it. Its linear part is the transpose of the forward walk's.
template <class C, bool kMap, class Room>
struct WalkChunksBack {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1;
  static constexpr int kTiles = C::kValueTiles;
  using T = typename C::T;
  using E = typename C::E;
  using Shared = typename WalkShared<C, Room, true, !kMap>::Type;
  using Stage = typename WalkShared<C, Room, true, !kMap>::Stage;
  using Square = tile::RegisterTile<kChunkRows>;
  using State = tile::RegisterTile<C::kKeyDim>;

  ChunkMap map;
  HeadMap heads;
  SegmentMap segments;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> d_o;
  tile::TokenRows<T> dv;
  StateRef<const typename C::State> d_final_state;
  StateRef<typename C::State> d_initial_state;
  E* d_states;     // KeyTile    dS+^T of 64 columns [chunks, HV, tiles]
  E* z;            // SquareTile Z^T
  float* leaving;  // dS^T that enters each segment from its end [segments, tiles]; written by kMap

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    (*this)(block, shared, block.index());
  }
  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared, Index walk) const {
    constexpr int kStages = Room::kStages;
    const WalkTask task = segments.template TaskOf<kTiles>(map, heads, walk);
    if (kMap && task.segment == 0) return;
    State d_state;
    Enter(task, d_state);
    // The chunks from the last one on, counted from 0.
    const int count = static_cast<int>(task.end - task.first);
    const auto load = [&](int i) {
      if (i < count) Load(block, shared.stages[i % kStages], task, task.end - 1 - i);
      block.CommitCopies();
    };
    for (auto& stage : shared.stages) block.PrepareArrival(stage.arrivals, 2);
    load(0);
    for (int i = 0; i < count; ++i) {
      Stage& stage = shared.stages[i % kStages];
      if constexpr (kStages == 2) {
        load(i + 1);
        block.template WaitCopies<1>();
      } else {
        block.template WaitCopies<0>();
      }
      block.Wait(stage.arrivals[0], i / kStages % 2);
      block.Barrier();
      Chunk(block, shared, stage, task, i, d_state);
      if constexpr (!kMap) block.WaitStores();
      block.Barrier();
      if constexpr (kStages == 1) load(i + 1);
    }
    Leave(task, d_state);
  }

 private:
  KLA_TILE_FUNCTION float* Slot(const WalkTask& task, Index segment) const {
    return leaving +
           segments.template SlotOf<kTiles>(heads, task, segment) * (kChunkRows * C::kKeyDim);
  }
  KLA_TILE_FUNCTION void Enter(const WalkTask& task, State& d_state) const {
    const bool last = task.segment + 1 == segments.count;
    if (kMap ? last : segments.count == 1) {
      LoadStateTile<C>(task, task.sequence, d_final_state, d_state);
      if (kMap) StoreSlot<C::kKeyDim>(d_state, Slot(task, task.segment));
    } else if (kMap) {
      d_state.Fill(0.0f);
    } else {
      LoadSlot<C::kKeyDim>(Slot(task, task.segment), d_state);
    }
  }
  KLA_TILE_FUNCTION void Leave(const WalkTask& task, State& d_state) const {
    if constexpr (kMap) {
      StoreSlot<C::kKeyDim>(d_state, Slot(task, task.segment - 1));
    } else if (task.segment == 0) {
      StoreStateTile<C>(task, task.sequence, d_state, d_initial_state);
    }
  }

  template <class Block>
  KLA_TILE_FUNCTION void Load(const Block& block, Stage& stage, const WalkTask& task,
                              Index chunk) const {
    const ChunkSource<C> from(in, heads, task, chunk);
    constexpr int kKey = C::KeyTile::kBytes, kSquare = C::SquareTile::kBytes;
    tile::Arrival& arrival = stage.arrivals[0];
    block.Expect(arrival, (Room::kInTurn ? 1 : 2) * (kKey + kSquare) +
                              static_cast<int>(sizeof(WalkScalars)));
    block.CopyBulk(arrival, stage.keys, from.keys, kKey);
    if constexpr (Room::kInTurn) {
      block.CopyBulk(arrival, stage.inverse, from.scores, kSquare);
    } else {
      block.CopyBulk(arrival, stage.inverse, from.inverse, kSquare);
      block.CopyBulk(arrival, stage.queries, from.queries, kKey);
      block.CopyBulk(arrival, stage.scores, from.scores, kSquare);
    }
    CopyScalars(block, arrival, &stage.scalars, from.scalars);
    LoadValueRows<C, kMap>(block, task, chunk, d_o, stage.rows);
  }

  template <class Block>
  KLA_TILE_FUNCTION void Chunk(const Block& block, Shared& shared, Stage& stage,
                               const WalkTask& task, int i, State& d_state) const {
    constexpr int kTerms = C::kTerms;
    constexpr int kKey = C::KeyTile::kBytes, kSquare = C::SquareTile::kBytes;
    const Index chunk = task.end - 1 - i;
    const WalkScalars& s = stage.scalars;
    // Where the same memory holds one after the other, these name what is there by then.
    E* const queries_at = QueriesOf(stage);
    E* const scores_at = ScoresOf(stage);
    const typename C::KeyTile keys{stage.keys}, queries{queries_at};
    const typename C::SquareTile inverse{stage.inverse}, scores{scores_at}, d_out{stage.rows};
    [[maybe_unused]] const ChunkSource<C> from(in, heads, task, chunk);
    [[maybe_unused]] const Index saved =
        (chunk * heads.value_heads + task.value_head) * C::kValueTiles + task.value_tile;
    Square d_pseudo;  // K dS+^T, then dV'^T
    const auto keep_state = [&](const auto& part, int column) {
      if constexpr (!kMap && Room::kInTurn) {
        tile::StoreDistantOperand(part, typename C::KeyTile{d_states + saved * C::KeyTile::kSize},
                                  column);
      } else if constexpr (!kMap) {
        tile::StoreOperand(part, typename C::KeyTile{shared.saved_state}, column);
      }
    };
    if constexpr (kStateOperandFits<C>) {
      Square from_out;  // dO^T P, which waits for no state
      from_out.Fill(0.0f);
      tile::StartMultiply(from_out, tile::LoadTransposedOperand<kChunkRows>(d_out), scores);
      MultiplyState<C>(d_state, keys, d_pseudo, keep_state);
      tile::Complete(from_out);
      tile::ForEachElement(
          [&](const tile::Place& at, float& x, float& y) { x = x * s.write[at.column] + y; },
          d_pseudo, from_out);
    } else {
      MultiplyState<C>(d_state, keys, d_pseudo, keep_state);
      tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.write[at.column]; },
                           d_pseudo);
      tile::Multiply(d_pseudo, tile::LoadTransposedOperand<kChunkRows>(d_out), scores);
    }
    const float gamma = s.gamma[kChunkRows - 1];
    if constexpr (Room::kInTurn) {
      FetchInTurn(block, stage.arrivals[1], 3 * i, stage.inverse, from.inverse, kSquare);
      FetchInTurn(block, stage.arrivals[1], 3 * i + 1, stage.keys, from.queries, kKey);
    }
    Square work;  // Z^T
    work.Fill(0.0f);
    tile::StartMultiply(work, tile::ToOperand<E, kTerms>(d_pseudo, tile::Identity{}), inverse);
    tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, d_state);
    tile::ToTile(tile::LoadTransposedOperand<kChunkRows>(d_out), d_pseudo);
    const auto decayed = tile::ToOperand<E, kTerms>(
        d_pseudo, [&](const tile::Place& at, float x) { return x * s.out[at.column]; });
    tile::Complete(work);
    tile::StartMultiply(d_state, decayed, queries);
    const auto rounded = tile::ToOperand<E, kTerms>(work, tile::Identity{});
    if constexpr (Room::kInTurn) {
      tile::Complete(d_state);
      FetchInTurn(block, stage.arrivals[1], 3 * i + 2, stage.keys, from.keys, kKey);
    }
    tile::StartMultiply(
        d_state,
        tile::ToOperand<E, kTerms>(
            work, [&](const tile::Place& at, float x) { return -x * s.recall[at.column]; }),
        keys);
    if constexpr (!kMap) {
      if constexpr (Room::kInTurn) {
        tile::StoreDistantOperand(rounded,
                                  typename C::SquareTile{z + saved * C::SquareTile::kSize});
      } else {
        tile::StoreOperand(rounded, typename C::SquareTile{shared.saved_rows});
      }
      tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.given[at.column]; }, work);
      tile::StoreTransposed<kOutPitch<C>>(work, shared.out);
      block.Barrier();
      if constexpr (!Room::kInTurn) {
        block.StoreBulk(d_states + saved * C::KeyTile::kSize, shared.saved_state, kKey);
        block.StoreBulk(z + saved * C::SquareTile::kSize, shared.saved_rows, kSquare);
      }
      StoreValueRows<C, kOutPitch<C>>(block, task, chunk, shared.out, dv);
    }
    tile::Complete(d_state);
  }

  KLA_TILE_FUNCTION static E* QueriesOf(Stage& stage) {
    if constexpr (Room::kInTurn) {
      return stage.keys;
    } else {
      return stage.queries;
    }
  }
  KLA_TILE_FUNCTION static E* ScoresOf(Stage& stage) {
    if constexpr (Room::kInTurn) {
      return stage.inverse;
    } else {
      return stage.scores;
    }
  }
};

// Both walks of the backward pass in one launch: neither reads what the other writes. Blocks
// 0 ... back_walks - 1 go back, the rest forward.
//
// H200, bf16, 128/128, 16/32 heads, 1x32K: 3.0 GB, floor 0.70 ms; 1.23 ms, 1.8 x the floor. What a
// task needs is worked out once, and products of dO stand ahead of the state's. The way back is the
// longer one: four products wait for each other.
template <class C, bool kMap, class Room>
struct WalkBothWays {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = MapBlocksPerSm<C>(kMap, 2);
  using Forward = WalkChunks<C, kMap ? WalkFor::kMap : WalkFor::kBackward, Room>;
  using Back = WalkChunksBack<C, kMap, Room>;
  union Shared {
    typename Forward::Shared forward;
    typename Back::Shared back;
  };
  Forward forward;
  Back back;
  Index back_walks;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    if (block.index() < back_walks) {
      back(block, shared.back, block.index());
    } else {
      forward(block, shared.forward, block.index() - back_walks);
    }
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_WALK_BACK_H_
