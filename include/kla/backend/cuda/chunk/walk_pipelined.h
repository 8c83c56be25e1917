// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the forward walk by two groups of threads: while one is at chunk c, the other
// makes the output of chunk c - 1.
#ifndef KLA_BACKEND_CUDA_CHUNK_WALK_PIPELINED_H_
#define KLA_BACKEND_CUDA_CHUNK_WALK_PIPELINED_H_

#include "kla/backend/cuda/chunk/walk.h"

namespace kla::internal::device {

// A block for each segment, value head and 64 columns of V.
//   group 0:  (b E)^T = b (V - gamma K S)^T     V'^T = (b E)^T T^T
//             S+^T = gamma_C S^T + V'^T (w K)
//   group 1:  O^T = s gamma (Q S)^T + V'^T P^T
//             from S^T and V'^T as group 0 rounded them; and all copies from and to memory
// Group 0 holds the state and is what a walk waits for: it has no work but the recurrence.
//
// H200, bf16, 128/128, 16/64 heads, 1x32K: 1.9 GB and 0.28 TFLOP, floors 0.45 and 0.35 ms;
// 0.79 ms (1.5 us a chunk), 1.8 x the floor. One group alone takes 2.5 us a chunk, and divisions of
// 64 bits in a step would make group 1 the one that is waited for.
template <class C>
struct WalkPipelined {
  static constexpr int kGroups = 2, kThreads = 256, kBlocksPerSm = 1;
  static constexpr int kTiles = C::kValueTiles;
  using T = typename C::T;
  using E = typename C::E;
  using KeyTile = typename C::KeyTile;
  using SquareTile = typename C::SquareTile;
  using Square = tile::RegisterTile<kChunkRows>;
  using State = tile::RegisterTile<C::kKeyDim>;
  struct OutputStage : OutputInputs<C> {
    alignas(16) float out[kChunkRows];
    tile::Arrival arrival;
  };
  struct Handed {  // from group 0 to group 1
    alignas(1024) E state[KeyTile::kSize];
    alignas(1024) E rows[SquareTile::kSize];
  };
  struct Shared {
    StateInputs<C> inputs[2];
    OutputStage outputs[2];
    Handed handed[2];
    alignas(16) T out[kChunkRows * kOutPitch<C>];
  };
  // One operand of the state in registers beside it.
  static constexpr bool kTakes = C::kTerms == 1 && C::kKeyDim <= 128;

  ChunkMap map;
  HeadMap heads;
  SegmentMap segments;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> v;
  tile::TokenRows<T> o;
  StateRef<const typename C::State> initial_state;
  StateRef<typename C::State> final_state;
  ChunkStates<float> chunk_states;
  const float* entering;  // of segments, where they are more than one

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const WalkTask task = segments.template TaskOf<kTiles>(map, heads, block.index());
    tile::PerGroup<State, kGroups> state;
    for (int i = 0; i < 2; ++i) {
      block.PrepareArrival(shared.inputs[i].arrivals, 1);
      block.PrepareArrival(&shared.outputs[i].arrival, 1);
    }
    block.Groups([&](int group) {
      if (group == 1) {
        LoadInputs(block.Group(), shared.inputs[0], task, task.first);
        block.template WaitCopies<0>();
      } else if (segments.count == 1) {
        LoadStateTile<C>(task, task.sequence, initial_state, state[group]);
      } else {
        LoadSlot<C::kKeyDim>(
            entering + segments.template SlotOf<kTiles>(heads, task, task.segment) *
                           (kChunkRows * C::kKeyDim),
            state[group]);
      }
    });
    block.Barrier();
    // Step i: chunk i of group 0, chunk i - 1 of group 1.
    const int count = static_cast<int>(task.end - task.first);
    for (int i = 0; i <= count; ++i) {
      const Index chunk = task.first + i;
      block.Groups([&](int group) {
        if (group == 0) {
          if (i < count) {
            block.Wait(shared.inputs[i % 2].arrivals[0], i / 2 % 2);
            Advance(task, chunk, shared.inputs[i % 2], shared.handed[i % 2], state[group]);
          }
        } else {
          LoadInputs(block.Group(), shared.inputs[(i + 1) % 2], task, chunk + 1);
          LoadOutputs(block.Group(), shared.outputs[i % 2], task, chunk);
          if (i > 0) {
            OutputStage& stage = shared.outputs[(i - 1) % 2];
            block.Wait(stage.arrival, (i - 1) / 2 % 2);
            Output(block.Group(), shared, stage, shared.handed[(i - 1) % 2], task, chunk - 1);
          }
          block.template WaitCopies<0>();
        }
      });
      block.Barrier();
    }
    block.Groups([&](int group) {
      if (group == 0 && task.segment + 1 == segments.count) {
        StoreStateTile<C>(task, task.sequence, state[group], final_state);
      }
    });
  }

 private:
  template <class Block>
  KLA_TILE_FUNCTION void LoadInputs(const Block& group, StateInputs<C>& inputs,
                                    const WalkTask& task, Index chunk) const {
    if (chunk < task.end) {
      const ChunkSource<C> from(in, heads, task, chunk);
      tile::Arrival& arrival = inputs.arrivals[0];
      group.Expect(arrival,
                   KeyTile::kBytes + SquareTile::kBytes + static_cast<int>(sizeof(WalkScalars)));
      group.CopyBulk(arrival, inputs.keys, from.keys, KeyTile::kBytes);
      group.CopyBulk(arrival, inputs.inverse, from.inverse, SquareTile::kBytes);
      CopyScalars(group, arrival, &inputs.scalars, from.scalars);
      LoadValueRows<C, false>(group, task, chunk, v, inputs.rows);
    }
    group.CommitCopies();
  }
  template <class Block>
  KLA_TILE_FUNCTION void LoadOutputs(const Block& group, OutputStage& stage, const WalkTask& task,
                                     Index chunk) const {
    if (chunk < task.end) {
      const ChunkSource<C> from(in, heads, task, chunk);
      group.Expect(stage.arrival,
                   KeyTile::kBytes + SquareTile::kBytes + static_cast<int>(sizeof(stage.out)));
      group.CopyBulk(stage.arrival, stage.queries, from.queries, KeyTile::kBytes);
      group.CopyBulk(stage.arrival, stage.scores, from.scores, SquareTile::kBytes);
      CopyScalars(group, stage.arrival, &stage.out, &from.scalars->out);
    }
    group.CommitCopies();
  }

  KLA_TILE_FUNCTION void Advance(const WalkTask& task, Index chunk, StateInputs<C>& inputs,
                                 Handed& handed, State& state) const {
    const WalkScalars& s = inputs.scalars;
    const KeyTile keys{inputs.keys};
    StoreStateTile<C>(task, 0, state, chunk_states.At(chunk));
    Square recalled, pseudo;  // (K^ S)^T, then (b E)^T; first b r_v V^T, then V'^T
    const auto entering_state = tile::ToOperand<E, 1>(state, tile::Identity{});
    recalled.Fill(0.0f);
    tile::StartMultiplyTransposed(recalled, entering_state, keys);
    tile::StoreOperand(entering_state, KeyTile{handed.state});
    tile::ToTile(tile::LoadTransposedOperand<kChunkRows>(SquareTile{inputs.rows}), pseudo);
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.given[at.column]; }, pseudo);
    const float gamma = s.gamma[kChunkRows - 1];
    tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, state);
    tile::Complete(recalled);
    tile::ForEachElement(
        [&](const tile::Place& at, float& x, float& given) {
          x = given - s.recall[at.column] * x;
          given = 0.0f;
        },
        recalled, pseudo);
    tile::MultiplyTransposed(pseudo, tile::ToOperand<E, 1>(recalled, tile::Identity{}),
                             SquareTile{inputs.inverse});
    tile::StartMultiply(
        state,
        tile::ToOperand<E, 1>(
            pseudo, [&](const tile::Place& at, float x) { return x * s.write[at.column]; }),
        keys);
    tile::StoreOperand(tile::ToOperand<E, 1>(pseudo, tile::Identity{}), SquareTile{handed.rows});
    tile::Complete(state);
  }

  template <class Block>
  KLA_TILE_FUNCTION void Output(const Block& group, Shared& shared, OutputStage& stage,
                                Handed& handed, const WalkTask& task, Index chunk) const {
    Square out;
    out.Fill(0.0f);
    tile::StartMultiplyTransposed(out, tile::LoadOperand<C::kKeyDim>(KeyTile{handed.state}),
                                  KeyTile{stage.queries});
    const auto rows = tile::LoadOperand<kChunkRows>(SquareTile{handed.rows});
    tile::Complete(out);
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= stage.out[at.column]; }, out);
    tile::MultiplyTransposed(out, rows, SquareTile{stage.scores});
    tile::StoreTransposed<kOutPitch<C>>(out, shared.out);
    group.Barrier();
    StoreValueRows<C, kOutPitch<C>>(group, task, chunk, shared.out, o);
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_WALK_PIPELINED_H_
