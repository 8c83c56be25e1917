// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: what the walks share. A walk goes through the chunks of a sequence, or of a
// segment of one (segments.h), in order, the state in registers. The columns of S are independent
// of each other, so each block takes 64 of them and no block waits for another.
#ifndef KLA_BACKEND_CUDA_CHUNK_WALK_H_
#define KLA_BACKEND_CUDA_CHUNK_WALK_H_

#include <type_traits>

#include "kla/backend/cuda/chunk/types.h"

namespace kla::internal::device {

// ---- Which walk, and where its states lie -------------------------------------------------------

// Chunks [first, end) of a sequence, value head and 64 columns of V.
struct WalkTask {
  Index sequence, value_head, key_head;
  int value_tile;
  Index segment, first, end;
  Index batch, begin, stop;  // tokens [begin, stop) of a batch row: from chunk `first` on

  KLA_HOST_DEVICE ChunkSpan SpanOf(Index chunk) const {
    const Index at = begin + (chunk - first) * kChunkRows, left = stop - at;
    return {batch, at, static_cast<int>(left < kChunkRows ? left : kChunkRows)};
  }
};

// How sequences are cut: into `count` pieces of nearly equal numbers of chunks, some perhaps empty.
struct SegmentMap {
  Index count = 1;
  // Block `block` of kTiles blocks for each segment.
  template <int kTiles>
  KLA_HOST_DEVICE WalkTask TaskOf(const ChunkMap& map, const HeadMap& heads, Index block) const {
    WalkTask task;
    const Index piece = Quotient(block, kTiles), column = Quotient(piece, count);
    task.value_tile = static_cast<int>(block - piece * kTiles);
    task.segment = piece - column * count;
    task.sequence = Quotient(column, heads.value_heads);
    task.value_head = column - task.sequence * heads.value_heads;
    task.key_head = heads.KeyHeadOf(task.value_head);
    const Index first = map.FirstChunk(task.sequence);
    const Index chunks = map.FirstChunk(task.sequence + 1) - first;
    task.first = first + Quotient(chunks * task.segment, count);
    task.end = first + Quotient(chunks * (task.segment + 1), count);
    const ChunkSpan span = map.SpanOf(task.sequence, task.first);
    task.batch = span.batch;
    task.begin = span.begin;
    task.stop = map.offsets != nullptr ? map.offsets[task.sequence + 1] : map.tokens;
    return task;
  }
  // Which [64, K] of an array of kTiles for each segment.
  template <int kTiles>
  KLA_HOST_DEVICE Index SlotOf(const HeadMap& heads, const WalkTask& task, Index segment) const {
    return ((task.sequence * heads.value_heads + task.value_head) * count + segment) * kTiles +
           task.value_tile;
  }
};

// The 64 rows of S^T [V, K] that belong to a task, from and to the caller's states of a sequence.
template <class C, class Tile, class State>
KLA_TILE_FUNCTION void LoadStateTile(const WalkTask& task, Index sequence,
                                     const StateRef<State>& states, Tile& tile) {
  tile.Fill(0.0f);
  if (states.data == nullptr) return;
  const int first = task.value_tile * 64;
  const State* data = states.Head(sequence, task.value_head) + first * states.value_stride;
  tile::ForEachInMemory([](float& x, const State& element) { x = static_cast<float>(element); },
                        data, states.value_stride, states.key_stride, C::kValueDim - first, tile);
}
template <class C, class Tile, class State>
KLA_TILE_FUNCTION void StoreStateTile(const WalkTask& task, Index sequence, Tile& tile,
                                      const StateRef<State>& states) {
  if (states.data == nullptr) return;
  const int first = task.value_tile * 64;
  State* data = states.Head(sequence, task.value_head) + first * states.value_stride;
  tile::ForEachInMemory([](float& x, State& element) { element = static_cast<State>(x); }, data,
                        states.value_stride, states.key_stride, C::kValueDim - first, tile);
}

// Rows of 64 floats x K in the workspace, [64, kStride].
template <int kStride, class Tile>
KLA_TILE_FUNCTION void LoadSlot(const float* slot, Tile& tile) {
  tile::ForEachInMemory([](float& x, const float& element) { x = element; }, slot, kStride, 1,
                        kChunkRows, tile);
}
template <int kStride, class Tile>
KLA_TILE_FUNCTION void StoreSlot(Tile& tile, float* slot) {
  tile::ForEachInMemory([](float& x, float& element) { element = x; }, slot, kStride, 1, kChunkRows,
                        tile);
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

// Whether a state's terms find room in registers beside the state.
template <class C>
inline constexpr bool kStateOperandFits = C::kTerms* C::kKeyDim <= 128;

// Blocks of the maps hide each other's waiting: as many on a multiprocessor as registers allow.
template <class C>
constexpr int MapBlocksPerSm(bool map, int most) {
  return map && kStateOperandFits<C> ? most : 1;
}

// ---- Inputs in shared memory --------------------------------------------------------------------

// How much of a chunk a block holds at once: kStages chunks whole, or (kInTurn) of one chunk either
// keys or queries and either T or P, fetched when it is their turn.
template <int kStageCount, bool kTakenInTurn>
struct WalkRoom {
  static constexpr int kStages = kStageCount;
  static constexpr bool kInTurn = kTakenInTurn;
};

// What the state's own step reads: keys and T (queries and P take their place in turn).
template <class C>
struct StateInputs {
  alignas(1024) typename C::E keys[C::KeyTile::kSize];
  alignas(1024) typename C::E inverse[C::SquareTile::kSize];
  alignas(1024) typename C::E rows[C::SquareTile::kSize];  // V or dO, [C, 64]
  alignas(16) WalkScalars scalars;
  tile::Arrival arrivals[2];  // of what comes first; of what is fetched in turn
};
template <class C>
struct OutputInputs {
  alignas(1024) typename C::E queries[C::KeyTile::kSize];
  alignas(1024) typename C::E scores[C::SquareTile::kSize];
};

// Where chunk `chunk` of a task finds what PrepareChunks left.
template <class C>
struct ChunkSource {
  using E = typename C::E;
  const E *keys, *queries, *inverse, *scores;
  const WalkScalars* scalars;
  KLA_TILE_FUNCTION ChunkSource(const Prepared<E>& in, const HeadMap& heads, const WalkTask& task,
                                Index chunk) {
    const Index key_index = chunk * heads.key_heads + task.key_head;
    const Index index = chunk * heads.value_heads + task.value_head;
    keys = in.keys + key_index * C::KeyTile::kSize;
    queries = in.queries + key_index * C::KeyTile::kSize;
    inverse = in.inverse + index * C::SquareTile::kSize;
    scores = in.scores + index * C::SquareTile::kSize;
    scalars = &in.scalars[index].walk;
  }
};

template <class U, class Block>
KLA_TILE_FUNCTION void CopyScalars(const Block& block, tile::Arrival& arrival, U* to,
                                   const U* from) {
  block.CopyBulk(arrival, reinterpret_cast<float*>(to), reinterpret_cast<const float*>(from),
                 sizeof(U));
}

// The rows of V or dO of a chunk that belong to a task, by cp.async. A walk that keeps or stores
// something beside a state of half of all registers has none for the addresses of unrolled copies.
template <class C, bool kMap, class Block>
KLA_TILE_FUNCTION void LoadValueRows(const Block& block, const WalkTask& task, Index chunk,
                                     const tile::TokenRows<const typename C::T>& rows,
                                     typename C::E* to) {
  const ChunkSpan span = task.SpanOf(chunk);
  const int column = task.value_tile * 64;
  tile::LoadRows<kMap || kStateOperandFits<C>>(
      block, typename C::SquareTile{to}, rows.At(span.batch, span.begin, task.value_head) + column,
      rows.time, rows.aligned, span.count, C::kValueDim - column);
}
template <class C, int kPitch, class Block>
KLA_TILE_FUNCTION void StoreValueRows(const Block& block, const WalkTask& task, Index chunk,
                                      const typename C::T* from,
                                      const tile::TokenRows<typename C::T>& rows) {
  const ChunkSpan span = task.SpanOf(chunk);
  const int column = task.value_tile * 64;
  tile::StoreRows<kPitch>(block, from, rows.At(span.batch, span.begin, task.value_head) + column,
                          rows.time, rows.aligned, span.count, C::kValueDim - column);
}

// sum = state * tile^T, the state rounded to terms; keep(columns of the rounded state, the first of
// them) has its own work meanwhile.
template <class C, class F>
KLA_TILE_FUNCTION void MultiplyState(const tile::RegisterTile<C::kKeyDim>& state,
                                     const typename C::KeyTile& tile,
                                     tile::RegisterTile<kChunkRows>& sum, const F& keep) {
  using E = typename C::E;
  sum.Fill(0.0f);
  if constexpr (kStateOperandFits<C>) {
    const auto rounded = tile::ToOperand<E, C::kTerms>(state, tile::Identity{});
    tile::StartMultiplyTransposed(sum, rounded, tile);
    keep(rounded, 0);
    tile::Complete(sum);
  } else {
    tile::MultiplyTransposedBy<E, C::kTerms>(state, keep, &tile, sum);
  }
}

// Elements from row to row of a [64, 64] result on its way to memory.
template <class C>
inline constexpr int kOutPitch = 64 + 16 / static_cast<int>(sizeof(typename C::T));

// What one group does that walks on its own. kOutput: queries and P are read too. kSaved: the state
// and V' or Z of a chunk go to memory by bulk copies.
template <class C, class Room, bool kOutput, bool kSaved>
struct WalkShared {
  struct Both : StateInputs<C>, OutputInputs<C> {};
  using Stage = std::conditional_t<kOutput && !Room::kInTurn, Both, StateInputs<C>>;
  struct SavedTiles {
    alignas(1024) typename C::E saved_state[C::KeyTile::kSize];
    alignas(1024) typename C::E saved_rows[C::SquareTile::kSize];
  };
  struct OutRows {
    alignas(16) typename C::T out[kChunkRows * kOutPitch<C>];
  };
  struct NotSaved {};
  struct NoOutRows {};
  struct Stages {
    Stage stages[Room::kStages];
  };
  struct Type : Stages,
                std::conditional_t<kSaved && !Room::kInTurn, SavedTiles, NotSaved>,
                std::conditional_t<kOutput, OutRows, NoOutRows> {};
};

// The roomiest of these that fits in `kLimit` bytes; the last one if none does.
template <class C, bool kOutput, bool kSaved, int kLimit>
struct WalkRoomFor {
  template <class Room>
  static constexpr bool kFits =
      sizeof(typename WalkShared<C, Room, kOutput, kSaved>::Type) <= kLimit;
  using Single =
      std::conditional_t<kFits<WalkRoom<1, false>>, WalkRoom<1, false>, WalkRoom<1, true>>;
  using Type = std::conditional_t<kFits<WalkRoom<2, false>>, WalkRoom<2, false>, Single>;
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_WALK_H_
