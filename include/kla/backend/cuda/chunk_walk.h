// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the forward walk: chunk after chunk, the state in registers. The columns of S are
// independent of each other, so each block takes 64 of them and no block waits for another.
#ifndef KLA_BACKEND_CUDA_CHUNK_WALK_H_
#define KLA_BACKEND_CUDA_CHUNK_WALK_H_

#include "kla/backend/cuda/chunk_types.h"

namespace kla::device {

inline constexpr int kSharedLimit = 227 * 1024;  // bytes a block may have on sm_90

// One chunk's inputs in shared memory.
template <class C>
struct WalkStage {
  alignas(1024) typename C::E keys[C::KeyTile::kSize];
  alignas(1024) typename C::E queries[C::KeyTile::kSize];
  alignas(1024) typename C::E inverse[C::SquareTile::kSize];
  alignas(1024) typename C::E scores[C::SquareTile::kSize];
  alignas(1024) typename C::E rows[C::SquareTile::kSize];  // V or dO, [C, 64]
  alignas(16) WalkScalars scalars;
};

// kSaved: with room for what the backward pass keeps of a chunk on its way to memory.
template <class C, bool kSaved>
struct WalkShared {
  static constexpr int kPitch = 64 + 16 / static_cast<int>(sizeof(typename C::T));
  template <int kStageCount>
  struct Layout {
    WalkStage<C> stages[kStageCount];
    alignas(1024) typename C::E saved_state[kSaved ? C::KeyTile::kSize : 8];
    alignas(1024) typename C::E saved_rows[kSaved ? C::SquareTile::kSize : 8];
    alignas(16) typename C::T out[kChunkRows * kPitch];
    tile::Arrival arrivals[2];
  };
  static constexpr int kStages = sizeof(Layout<2>) <= kSharedLimit ? 2 : 1;
  using Type = Layout<kStages>;
};

// Which block of a walk this is.
struct WalkTask {
  Index sequence, value_head;
  int value_tile;
};

template <class C>
KLA_TILE_FUNCTION WalkTask WalkTaskOf(Index block, Index value_heads) {
  const Index column = block / C::kValueTiles;
  return {column / value_heads, column % value_heads, static_cast<int>(block % C::kValueTiles)};
}

// Everything of chunk `chunk` that a walk reads, queued as asynchronous copies.
template <class C, class Block>
KLA_TILE_FUNCTION void LoadWalkStage(const Block& block, WalkStage<C>& stage,
                                     tile::Arrival& arrival, const Prepared<typename C::E>& in,
                                     const ChunkMap& map, const HeadMap& heads,
                                     const WalkTask& task, Index chunk,
                                     const tile::TokenRows<const typename C::T>& rows,
                                     bool scores_and_queries) {
  const Index key_index = chunk * heads.key_heads + heads.KeyHeadOf(task.value_head);
  const Index index = chunk * heads.value_heads + task.value_head;
  using Key = typename C::KeyTile;
  using Square = typename C::SquareTile;
  block.Expect(arrival, (scores_and_queries ? 2 : 1) * (Key::kBytes + Square::kBytes) +
                            static_cast<int>(sizeof(WalkScalars)));
  block.CopyBulk(arrival, stage.keys, in.keys + key_index * Key::kSize, Key::kBytes);
  block.CopyBulk(arrival, stage.inverse, in.inverse + index * Square::kSize, Square::kBytes);
  if (scores_and_queries) {
    block.CopyBulk(arrival, stage.queries, in.queries + key_index * Key::kSize, Key::kBytes);
    block.CopyBulk(arrival, stage.scores, in.scores + index * Square::kSize, Square::kBytes);
  }
  block.CopyBulk(arrival, reinterpret_cast<float*>(&stage.scalars),
                 reinterpret_cast<const float*>(&in.scalars[index].walk), sizeof(WalkScalars));
  const ChunkSpan span = map.SpanOf(task.sequence, chunk);
  const int column = task.value_tile * 64;
  tile::LoadRows(block, Square{stage.rows},
                 rows.At(span.batch, span.begin, task.value_head) + column, rows.time, rows.aligned,
                 span.count, C::kValueDim - column);
}

// The 64 rows of S^T [V, K] that belong to a task, from and to the caller's states.
template <class C, class Tile, class State>
KLA_TILE_FUNCTION void LoadStateTile(const WalkTask& task, const StateRef<State>& states,
                                     Tile& tile) {
  tile.Fill(0.0f);
  if (states.data == nullptr) return;
  const int first = task.value_tile * 64;
  const State* data = states.Head(task.sequence, task.value_head) + first * states.value_stride;
  tile::ForEachInMemory([](float& x, const State& element) { x = static_cast<float>(element); },
                        data, states.value_stride, states.key_stride, C::kValueDim - first, tile);
}
template <class C, class Tile, class State>
KLA_TILE_FUNCTION void StoreStateTile(const WalkTask& task, Tile& tile,
                                      const StateRef<State>& states) {
  if (states.data == nullptr) return;
  const int first = task.value_tile * 64;
  State* data = states.Head(task.sequence, task.value_head) + first * states.value_stride;
  tile::ForEachInMemory([](float& x, State& element) { element = static_cast<State>(x); }, data,
                        states.value_stride, states.key_stride, C::kValueDim - first, tile);
}

// The states that enter the chunks, [NT, HV, K, V] in float.
template <class R>
struct ChunkStates {
  R* data = nullptr;
  Index chunk_stride = 0, head_stride = 0, key_stride = 0;
  KLA_HOST_DEVICE StateRef<R> At(Index chunk) const {
    StateRef<R> ref;
    ref.data = data == nullptr ? nullptr : data + chunk * chunk_stride;
    ref.head_stride = head_stride;
    ref.key_stride = key_stride;
    ref.value_stride = 1;
    return ref;
  }
};

enum class WalkFor { kOutput, kBackward };

// A block for each sequence, value head and 64 columns of V, transposed so that every product's
// left factor is already in the registers of the threads that need it:
//   (b E)^T = b (V - gamma K S)^T        V'^T = (b E)^T T^T           [64, C]
//   O^T = s gamma (Q S)^T + V'^T P^T     S+^T = gamma_C S^T + V'^T (w K)
// H200, bf16, 128/128, 16/64 heads, 1x32K: 1.26 ms, 2.5 us a chunk (1.70 by mma.sync and cp.async).
// For the backward pass it writes S^T and V'^T of each chunk instead of O.
template <class C, WalkFor kFor>
struct WalkChunks {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1;
  using T = typename C::T;
  using E = typename C::E;
  using Room = WalkShared<C, kFor == WalkFor::kBackward>;
  using Shared = typename Room::Type;
  using Square = tile::RegisterTile<kChunkRows>;
  static constexpr bool kOutput = kFor == WalkFor::kOutput;

  ChunkMap map;
  HeadMap heads;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> v;
  tile::TokenRows<T> o;
  StateRef<const typename C::State> initial_state;
  StateRef<typename C::State> final_state;
  ChunkStates<float> chunk_states;              // written
  ChunkStates<const float> given_chunk_states;  // read instead of carrying the state along
  E* states;                                    // KeyTile    S^T of 64 columns [chunks, HV, tiles]
  E* pseudo_values;                             // SquareTile V'^T

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    (*this)(block, shared, block.index());
  }
  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared, Index walk) const {
    constexpr int kStages = Room::kStages;
    const WalkTask task = WalkTaskOf<C>(walk, heads.value_heads);
    const Index first = map.FirstChunk(task.sequence), end = map.FirstChunk(task.sequence + 1);
    tile::RegisterTile<C::kKeyDim> state;
    LoadStateTile<C>(task, initial_state, state);
    const auto load = [&](Index chunk) {
      if (chunk < end) {
        LoadWalkStage<C>(block, shared.stages[(chunk - first) % kStages],
                         shared.arrivals[(chunk - first) % kStages], in, map, heads, task, chunk, v,
                         kOutput);
      }
      block.CommitCopies();
    };
    block.PrepareArrival(shared.arrivals, kStages);
    load(first);
    for (Index chunk = first; chunk < end; ++chunk) {
      if constexpr (kStages == 2) {
        load(chunk + 1);
        block.template WaitCopies<1>();
      } else {
        block.template WaitCopies<0>();
      }
      block.Wait(shared.arrivals[(chunk - first) % kStages],
                 static_cast<int>((chunk - first) / kStages % 2));
      block.Barrier();
      Chunk(block, shared, shared.stages[(chunk - first) % kStages], task, chunk, state);
      if constexpr (!kOutput) block.WaitStores();
      block.Barrier();
      if constexpr (kStages == 1) load(chunk + 1);
    }
    StoreStateTile<C>(task, state, final_state);
  }

 private:
  template <class Block>
  KLA_TILE_FUNCTION void Chunk(const Block& block, Shared& shared, const WalkStage<C>& stage,
                               const WalkTask& task, Index chunk,
                               tile::RegisterTile<C::kKeyDim>& state) const {
    constexpr int kTerms = C::kTerms;
    const WalkScalars& s = stage.scalars;
    const typename C::KeyTile tiles[] = {{const_cast<E*>(stage.keys)},
                                         {const_cast<E*>(stage.queries)}};
    const typename C::SquareTile inverse{const_cast<E*>(stage.inverse)},
        scores{const_cast<E*>(stage.scores)}, values{const_cast<E*>(stage.rows)};
    const Index saved =
        (chunk * heads.value_heads + task.value_head) * C::kValueTiles + task.value_tile;
    if constexpr (kOutput) {
      StoreStateTile<C>({0, task.value_head, task.value_tile}, state, chunk_states.At(chunk));
    } else {
      if (given_chunk_states.data != nullptr) {
        LoadStateTile<C>({0, task.value_head, task.value_tile}, given_chunk_states.At(chunk),
                         state);
      }
      tile::StoreOperand(tile::ToOperand<E, kTerms>(state, tile::Identity{}),
                         typename C::KeyTile{shared.saved_state});
    }

    Square recalled, out;  // (K^ S)^T, (Q^ S)^T
    recalled.Fill(0.0f);
    out.Fill(0.0f);
    if constexpr (kOutput) {
      tile::MultiplyTransposedBy<E, kTerms>(state, tiles, recalled, out);
    } else {
      tile::MultiplyTransposedBy<E, kTerms>(state, tiles, recalled);
    }
    Square pseudo;  // first V^T, then V'^T
    tile::ToTile(tile::LoadTransposedOperand<kChunkRows>(values), pseudo);
    tile::ForEachElement(
        [&](const tile::Place& at, float& from_state, float& given) {
          from_state = s.given[at.column] * given - s.recall[at.column] * from_state;
        },
        recalled, pseudo);
    pseudo.Fill(0.0f);
    tile::MultiplyTransposed(pseudo, tile::ToOperand<E, kTerms>(recalled, tile::Identity{}),
                             inverse);
    const auto rounded = tile::ToOperand<E, kTerms>(pseudo, tile::Identity{});
    if constexpr (kOutput) {
      tile::Complete(out);
      tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.out[at.column]; }, out);
      tile::MultiplyTransposed(out, rounded, scores);
    }
    // Under way while O is stored.
    const auto written = tile::ToOperand<E, kTerms>(
        pseudo, [&](const tile::Place& at, float x) { return x * s.write[at.column]; });
    const float gamma = s.gamma[kChunkRows - 1];
    tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, state);
    tile::StartMultiply(state, written, tiles[0]);
    if constexpr (kOutput) {
      tile::StoreTransposed<Room::kPitch>(out, shared.out);
      block.Barrier();
      const ChunkSpan span = map.SpanOf(task.sequence, chunk);
      const int column = task.value_tile * 64;
      tile::StoreRows<Room::kPitch>(block, shared.out,
                                    o.At(span.batch, span.begin, task.value_head) + column, o.time,
                                    o.aligned, span.count, C::kValueDim - column);
    } else {
      tile::StoreOperand(rounded, typename C::SquareTile{shared.saved_rows});
      block.Barrier();
      block.StoreBulk(states + saved * C::KeyTile::kSize, shared.saved_state, C::KeyTile::kBytes);
      block.StoreBulk(pseudo_values + saved * C::SquareTile::kSize, shared.saved_rows,
                      C::SquareTile::kBytes);
    }
    tile::Complete(state);
  }
};

// The same in reverse, the gradient dS in registers (dS+ enters, dS leaves):
//   dV'^T = dO^T P + w (K dS+)^T     Z^T = dV'^T T     dV = b Z
//   dS^T = gamma_C dS+^T + dO^T (s gamma Q) - Z^T (b gamma K)
// Writes dV, and dS+^T and Z^T of each chunk.
template <class C>
struct WalkChunksBack {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1;
  using T = typename C::T;
  using E = typename C::E;
  using Room = WalkShared<C, true>;
  using Shared = typename Room::Type;
  using Square = tile::RegisterTile<kChunkRows>;

  ChunkMap map;
  HeadMap heads;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> d_o;
  tile::TokenRows<T> dv;
  StateRef<const typename C::State> d_final_state;
  StateRef<typename C::State> d_initial_state;
  E* d_states;  // KeyTile    dS+^T of 64 columns [chunks, HV, tiles]
  E* z;         // SquareTile Z^T

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    (*this)(block, shared, block.index());
  }
  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared, Index walk) const {
    constexpr int kStages = Room::kStages;
    const WalkTask task = WalkTaskOf<C>(walk, heads.value_heads);
    const Index first = map.FirstChunk(task.sequence), end = map.FirstChunk(task.sequence + 1);
    tile::RegisterTile<C::kKeyDim> d_state;
    LoadStateTile<C>(task, d_final_state, d_state);
    const auto load = [&](Index chunk) {
      if (chunk >= first) {
        LoadWalkStage<C>(block, shared.stages[(chunk - first) % kStages],
                         shared.arrivals[(chunk - first) % kStages], in, map, heads, task, chunk,
                         d_o, true);
      }
      block.CommitCopies();
    };
    block.PrepareArrival(shared.arrivals, kStages);
    load(end - 1);
    for (Index chunk = end - 1; chunk >= first; --chunk) {
      if constexpr (kStages == 2) {
        load(chunk - 1);
        block.template WaitCopies<1>();
      } else {
        block.template WaitCopies<0>();
      }
      // How often this stage has been waited for: in steps of kStages from the last chunk on.
      block.Wait(shared.arrivals[(chunk - first) % kStages],
                 static_cast<int>((end - 1 - chunk) / kStages % 2));
      block.Barrier();
      Chunk(block, shared, shared.stages[(chunk - first) % kStages], task, chunk, d_state);
      block.WaitStores();
      block.Barrier();
      if constexpr (kStages == 1) load(chunk - 1);
    }
    StoreStateTile<C>(task, d_state, d_initial_state);
  }

 private:
  template <class Block>
  KLA_TILE_FUNCTION void Chunk(const Block& block, Shared& shared, const WalkStage<C>& stage,
                               const WalkTask& task, Index chunk,
                               tile::RegisterTile<C::kKeyDim>& d_state) const {
    constexpr int kTerms = C::kTerms;
    const WalkScalars& s = stage.scalars;
    const typename C::KeyTile keys{const_cast<E*>(stage.keys)},
        queries{const_cast<E*>(stage.queries)};
    const typename C::SquareTile inverse{const_cast<E*>(stage.inverse)},
        scores{const_cast<E*>(stage.scores)}, d_out{const_cast<E*>(stage.rows)};
    const Index saved =
        (chunk * heads.value_heads + task.value_head) * C::kValueTiles + task.value_tile;
    tile::StoreOperand(tile::ToOperand<E, kTerms>(d_state, tile::Identity{}),
                       typename C::KeyTile{shared.saved_state});

    Square d_pseudo;  // dV'^T
    d_pseudo.Fill(0.0f);
    tile::MultiplyTransposedBy<E, kTerms>(d_state, &keys, d_pseudo);
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.write[at.column]; },
                         d_pseudo);
    const auto d_out_rows = tile::LoadTransposedOperand<kChunkRows>(d_out);  // dO^T
    tile::Multiply(d_pseudo, d_out_rows, scores);

    const float gamma = s.gamma[kChunkRows - 1];
    tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, d_state);
    Square work;
    tile::ToTile(d_out_rows, work);
    tile::Multiply(d_state,
                   tile::ToOperand<E, kTerms>(
                       work, [&](const tile::Place& at, float x) { return x * s.out[at.column]; }),
                   queries);

    work.Fill(0.0f);  // Z^T
    tile::Multiply(work, tile::ToOperand<E, kTerms>(d_pseudo, tile::Identity{}), inverse);
    tile::StoreOperand(tile::ToOperand<E, kTerms>(work, tile::Identity{}),
                       typename C::SquareTile{shared.saved_rows});
    tile::Multiply(
        d_state,
        tile::ToOperand<E, kTerms>(
            work, [&](const tile::Place& at, float x) { return -x * s.recall[at.column]; }),
        keys);
    tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.given[at.column]; }, work);
    tile::StoreTransposed<Room::kPitch>(work, shared.out);
    block.Barrier();
    block.StoreBulk(d_states + saved * C::KeyTile::kSize, shared.saved_state, C::KeyTile::kBytes);
    block.StoreBulk(z + saved * C::SquareTile::kSize, shared.saved_rows, C::SquareTile::kBytes);
    const ChunkSpan span = map.SpanOf(task.sequence, chunk);
    const int column = task.value_tile * 64;
    tile::StoreRows<Room::kPitch>(block, shared.out,
                                  dv.At(span.batch, span.begin, task.value_head) + column, dv.time,
                                  dv.aligned, span.count, C::kValueDim - column);
  }
};

// Both walks of the backward pass in one launch: neither reads what the other writes. Blocks
// 0 ... walks - 1 go back, the rest forward.
template <class C>
struct WalkBothWays {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1;
  using Shared = typename WalkShared<C, true>::Type;
  WalkChunks<C, WalkFor::kBackward> forward;
  WalkChunksBack<C> back;
  Index walks;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    if (block.index() < walks) {
      back(block, shared, block.index());
    } else {
      forward(block, shared, block.index() - walks);
    }
  }
};

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_WALK_H_
