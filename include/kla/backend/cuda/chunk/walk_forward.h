// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the forward walk by one group of threads: for the output where the pipelined
// walk has no room (walk_pipelined.h), for what the backward pass needs of it, and for the maps of
// segments.
#ifndef KLA_BACKEND_CUDA_CHUNK_WALK_FORWARD_H_
#define KLA_BACKEND_CUDA_CHUNK_WALK_FORWARD_H_

#include "kla/backend/cuda/chunk/walk.h"

namespace kla::internal::device {

enum class WalkFor {
  kOutput,    // O, the final state, the states that enter the chunks
  kBackward,  // S^T and V'^T of each chunk
  kMap,       // what a segment does to the state that enters it
};

// Fetches what the products before have made room for.
template <class E, class Block>
KLA_TILE_FUNCTION void FetchInTurn(const Block& block, tile::Arrival& arrival, Index use, E* to,
                                   const E* from, int bytes) {
  block.Barrier();
  block.Expect(arrival, bytes);
  block.CopyBulk(arrival, to, from, bytes);
  block.CommitCopies();
  block.template WaitCopies<0>();
  block.Wait(arrival, static_cast<int>(use % 2));
  block.Barrier();
}

// A block for each segment, value head and 64 columns of V, transposed so that every product's left
// factor is already in the registers of the threads that need it:
//   (b E)^T = b (V - gamma K S)^T        V'^T = (b E)^T T^T           [64, C]
//   O^T = s gamma (Q S)^T + V'^T P^T     S+^T = gamma_C S^T + V'^T (w K)
// A step is linear in (S, V): for kMap, blocks beyond the columns of V walk with V = 0 from 64
// columns of the identity [K, K], which gives these columns of the segment's map M.
template <class C, WalkFor kFor, class Room>
struct WalkChunks {
  static constexpr int kGroups = 1, kThreads = 128;
  static constexpr int kBlocksPerSm = MapBlocksPerSm<C>(kFor == WalkFor::kMap, 3);
  static constexpr bool kOutput = kFor == WalkFor::kOutput, kMap = kFor == WalkFor::kMap;
  static constexpr bool kSaved = kFor == WalkFor::kBackward;
  static constexpr int kTiles = C::kValueTiles + (kMap ? C::kKeyTiles : 0);
  using T = typename C::T;
  using E = typename C::E;
  using Shared = typename WalkShared<C, Room, kOutput, kSaved>::Type;
  using Stage = typename WalkShared<C, Room, kOutput, kSaved>::Stage;
  using Square = tile::RegisterTile<kChunkRows>;
  using State = tile::RegisterTile<C::kKeyDim>;

  ChunkMap map;
  HeadMap heads;
  SegmentMap segments;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> v;
  tile::TokenRows<T> o;
  StateRef<const typename C::State> initial_state;
  StateRef<typename C::State> final_state;
  ChunkStates<float> chunk_states;              // written
  ChunkStates<const float> given_chunk_states;  // read instead of carrying the state along
  E* states;                                    // KeyTile    S^T of 64 columns [chunks, HV, tiles]
  E* pseudo_values;                             // SquareTile V'^T
  // Where segments are more than one: S^T that enters each [segments, tiles of V], M^T
  // [segments, tiles of K]. Written by kMap.
  float *entering, *maps;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    (*this)(block, shared, block.index());
  }
  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared, Index walk) const {
    constexpr int kStages = Room::kStages;
    const WalkTask task = segments.template TaskOf<kTiles>(map, heads, walk);
    if (kMap && !MapIsAskedFor(task)) return;
    State state;
    Enter(task, state);
    const auto load = [&](Index chunk) {
      if (chunk < task.end) Load(block, shared.stages[(chunk - task.first) % kStages], task, chunk);
      block.CommitCopies();
    };
    for (auto& stage : shared.stages) block.PrepareArrival(stage.arrivals, 2);
    load(task.first);
    for (Index chunk = task.first; chunk < task.end; ++chunk) {
      Stage& stage = shared.stages[(chunk - task.first) % kStages];
      if constexpr (kStages == 2) {
        load(chunk + 1);
        block.template WaitCopies<1>();
      } else {
        block.template WaitCopies<0>();
      }
      block.Wait(stage.arrivals[0], static_cast<int>((chunk - task.first) / kStages % 2));
      block.Barrier();
      Chunk(block, shared, stage, task, chunk, state);
      if constexpr (kSaved) block.WaitStores();
      block.Barrier();
      if constexpr (kStages == 1) load(chunk + 1);
    }
    if constexpr (kOutput) {  // of the task nothing more in registers than each chunk asks for
      Leave(segments.template TaskOf<kTiles>(map, heads, tile::Afresh(walk)), state);
    } else {
      Leave(task, state);
    }
  }

 private:
  // The last segment hands its state to nobody; the first starts from a state that is known.
  KLA_TILE_FUNCTION bool MapIsAskedFor(const WalkTask& task) const {
    return task.segment + 1 < segments.count &&
           (task.value_tile < C::kValueTiles || task.segment > 0);
  }

  KLA_TILE_FUNCTION float* EnteringSlot(const WalkTask& task, Index segment) const {
    return entering + segments.template SlotOf<C::kValueTiles>(heads, task, segment) *
                          (kChunkRows * C::kKeyDim);
  }

  // The state that the walk starts with.
  KLA_TILE_FUNCTION void Enter(const WalkTask& task, State& state) const {
    if constexpr (kMap) {
      if (task.value_tile >= C::kValueTiles) {
        const int first = (task.value_tile - C::kValueTiles) * 64;
        tile::ForEachElement(
            [&](const tile::Place& at, float& x) { x = at.column == first + at.row ? 1.0f : 0.0f; },
            state);
        return;
      }
      state.Fill(0.0f);
      if (task.segment > 0) return;
    }
    if (kMap || segments.count == 1) {
      LoadStateTile<C>(task, task.sequence, initial_state, state);
      if (kMap) StoreSlot<C::kKeyDim>(state, EnteringSlot(task, 0));
    } else {
      LoadSlot<C::kKeyDim>(EnteringSlot(task, task.segment), state);
    }
  }
  KLA_TILE_FUNCTION void Leave(const WalkTask& task, State& state) const {
    if constexpr (kMap) {
      if (task.value_tile < C::kValueTiles) {
        StoreSlot<C::kKeyDim>(state, EnteringSlot(task, task.segment + 1));
      } else {
        WalkTask columns = task;
        columns.value_tile -= C::kValueTiles;
        StoreSlot<C::kKeyDim>(
            state, maps + segments.template SlotOf<C::kKeyTiles>(heads, columns, task.segment) *
                              (kChunkRows * C::kKeyDim));
      }
    } else if (task.segment + 1 == segments.count) {
      StoreStateTile<C>(task, task.sequence, state, final_state);
    }
  }

  // Queues everything that a chunk starts with.
  template <class Block>
  KLA_TILE_FUNCTION void Load(const Block& block, Stage& stage, const WalkTask& task,
                              Index chunk) const {
    const ChunkSource<C> from(in, heads, task, chunk);
    constexpr int kKey = C::KeyTile::kBytes, kSquare = C::SquareTile::kBytes;
    constexpr bool kBoth = kOutput && !Room::kInTurn;
    tile::Arrival& arrival = stage.arrivals[0];
    block.Expect(arrival,
                 (kBoth ? 2 : 1) * (kKey + kSquare) + static_cast<int>(sizeof(WalkScalars)));
    block.CopyBulk(arrival, stage.keys, kOutput && Room::kInTurn ? from.queries : from.keys, kKey);
    block.CopyBulk(arrival, stage.inverse, from.inverse, kSquare);
    if constexpr (kBoth) {
      block.CopyBulk(arrival, stage.queries, from.queries, kKey);
      block.CopyBulk(arrival, stage.scores, from.scores, kSquare);
    }
    CopyScalars(block, arrival, &stage.scalars, from.scalars);
    if (kMap && task.value_tile >= C::kValueTiles) {
      block.template ForEach<C::SquareTile::kSize>([&](int i) { stage.rows[i] = E(0.0f); });
    } else {
      LoadValueRows<C, kMap>(block, task, chunk, v, stage.rows);
    }
  }

  template <class Block>
  KLA_TILE_FUNCTION void Chunk(const Block& block, Shared& shared, Stage& stage,
                               const WalkTask& task, Index chunk, State& state) const {
    constexpr int kTerms = C::kTerms;
    const WalkScalars& s = stage.scalars;
    const typename C::KeyTile keys{stage.keys};
    const typename C::SquareTile inverse{stage.inverse}, values{stage.rows};
    const Index saved =
        (chunk * heads.value_heads + task.value_head) * C::kValueTiles + task.value_tile;
    if constexpr (kOutput) {
      StoreStateTile<C>(task, 0, state, chunk_states.At(chunk));
    }
    if constexpr (kSaved) {
      if (given_chunk_states.data != nullptr) {
        LoadStateTile<C>(task, 0, given_chunk_states.At(chunk), state);
      }
    }

    Square recalled, out;  // (K^ S)^T, (Q^ S)^T
    out.Fill(0.0f);
    [[maybe_unused]] const ChunkSource<C> from(in, heads, task, chunk);
    [[maybe_unused]] const Index turn = 2 * (chunk - task.first);
    if constexpr (!kOutput) {
      MultiplyState<C>(state, keys, recalled, [&](const auto& part, int column) {
        if constexpr (kSaved && Room::kInTurn) {
          tile::StoreDistantOperand(part, typename C::KeyTile{states + saved * C::KeyTile::kSize},
                                    column);
        } else if constexpr (kSaved) {
          tile::StoreOperand(part, typename C::KeyTile{shared.saved_state}, column);
        }
      });
    } else if constexpr (Room::kInTurn) {
      // keys: still the queries
      tile::MultiplyTransposedBy<E, kTerms>(state, tile::KeepNothing{}, &keys, out);
      FetchInTurn(block, stage.arrivals[1], turn, stage.keys, from.keys, C::KeyTile::kBytes);
      recalled.Fill(0.0f);
      tile::MultiplyTransposedBy<E, kTerms>(state, tile::KeepNothing{}, &keys, recalled);
    } else {
      const typename C::KeyTile tiles[] = {keys, {stage.queries}};
      recalled.Fill(0.0f);
      tile::MultiplyTransposedBy<E, kTerms>(state, tile::KeepNothing{}, tiles, recalled, out);
    }
    Square pseudo;  // first V^T, then V'^T
    tile::ToTile(tile::LoadTransposedOperand<kChunkRows>(values), pseudo);
    tile::ForEachElement(
        [&](const tile::Place& at, float& from_state, float& given) {
          from_state = s.given[at.column] * given - s.recall[at.column] * from_state;
        },
        recalled, pseudo);
    pseudo.Fill(0.0f);
    tile::StartMultiplyTransposed(pseudo, tile::ToOperand<E, kTerms>(recalled, tile::Identity{}),
                                  inverse);
    const float gamma = s.gamma[kChunkRows - 1];
    tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, state);
    tile::Complete(pseudo);
    const auto rounded = tile::ToOperand<E, kTerms>(pseudo, tile::Identity{});
    if constexpr (kOutput) {
      E* scores = stage.inverse;
      if constexpr (Room::kInTurn) {
        FetchInTurn(block, stage.arrivals[1], turn + 1, scores, from.scores, C::SquareTile::kBytes);
      } else {
        scores = stage.scores;
      }
      tile::Complete(out);
      tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.out[at.column]; }, out);
      tile::MultiplyTransposed(out, rounded, typename C::SquareTile{scores});
    }
    // Under way while O or V' is stored.
    const auto written = tile::ToOperand<E, kTerms>(
        pseudo, [&](const tile::Place& at, float x) { return x * s.write[at.column]; });
    tile::StartMultiply(state, written, keys);
    if constexpr (kOutput) {
      tile::StoreTransposed<kOutPitch<C>>(out, shared.out);
      block.Barrier();
      StoreValueRows<C, kOutPitch<C>>(block, task, chunk, shared.out, o);
    }
    if constexpr (kSaved && Room::kInTurn) {
      tile::StoreDistantOperand(
          rounded, typename C::SquareTile{pseudo_values + saved * C::SquareTile::kSize});
    } else if constexpr (kSaved) {
      tile::StoreOperand(rounded, typename C::SquareTile{shared.saved_rows});
      block.Barrier();
      block.StoreBulk(states + saved * C::KeyTile::kSize, shared.saved_state, C::KeyTile::kBytes);
      block.StoreBulk(pseudo_values + saved * C::SquareTile::kSize, shared.saved_rows,
                      C::SquareTile::kBytes);
    }
    tile::Complete(state);
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_WALK_FORWARD_H_
