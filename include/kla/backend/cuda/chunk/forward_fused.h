// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the forward pass in one kernel: chunks are prepared where they are walked, so
// that nothing goes through device memory but inputs, outputs and states.
#ifndef KLA_BACKEND_CUDA_CHUNK_FORWARD_FUSED_H_
#define KLA_BACKEND_CUDA_CHUNK_FORWARD_FUSED_H_

#include "kla/backend/cuda/chunk/rows.h"
#include "kla/backend/cuda/chunk/walk.h"

namespace kla::internal::device {

// What the squares of a chunk need, in the notation of GradientScalars.
struct SquareScalars {
  float step[kChunkRows], key[kChunkRows], query[kChunkRows];
  float log_high[kChunkRows], log_low[kChunkRows];
};

// A block for each sequence and value head. In step i
//   the rows' group      brings in chunk i, scales its rows and makes its scalars; brings in V of
//                        chunk i - 1
//   the squares' group   makes, of chunk i - 1,
//                          A = StrictLower(b K~ K~^T * D)    T = (I + A)^-1    P = s Lower(Q~ K~^T
//                          * D)
//   the walkers          (64 columns of V each, the state in registers) take chunk i - 2:
//                          (b E)^T = b (V - gamma K S)^T        V'^T = (b E)^T T^T
//                          O^T = s gamma (Q S)^T + V'^T P^T     S+^T = gamma_C S^T + V'^T (w K)
// Bits are those of PrepareChunks and WalkPipelined.
//
// H200, bf16, 128/128, 16/16 heads, 8x4K: the bytes take 0.126 ms, products 0.11. 0.403 ms, 6.1 us
// a step, where PrepareChunks and WalkPipelined take 0.463. Alone, the rows' group takes 0.24 ms,
// the squares' 0.20, the walkers 0.18: they do not yet hide each other, for want of registers (what
// spills lies in the little L1 cache that shared memory leaves).
template <class C>
struct ForwardFused {
  static constexpr int kWalkers = C::kValueTiles;
  static constexpr int kGroups = kWalkers + 2, kThreads = 128 * kGroups, kBlocksPerSm = 1;
  using T = typename C::T;
  using E = typename C::E;
  using KeyTile = typename C::KeyTile;
  using SquareTile = typename C::SquareTile;
  using Square = tile::RegisterTile<kChunkRows>;
  using State = tile::RegisterTile<C::kKeyDim>;
  // Where it was seen to pay.
  static constexpr bool kTakes = std::is_same_v<T, E> && C::kTerms == 1 && C::kKeyDim > 64 &&
                                 C::kKeyDim <= 128 && kWalkers == 2;
  struct Registers {  // of a thread: at first, of walkers, of the squares' and the rows' group
    static constexpr int kEach = 128, kFirst = 160, kSecond = 136, kThird = 56;
  };
  struct Shared {
    alignas(1024) E keys[3][KeyTile::kSize];  // of chunk c in place c % 3, and likewise below
    alignas(1024) E queries[3][KeyTile::kSize];
    alignas(1024) E states[kWalkers][KeyTile::kSize];  // S^T [64, K] that enters the chunk
    alignas(1024) E inverse[2][SquareTile::kSize];
    alignas(1024) E scores[2][SquareTile::kSize];
    alignas(1024) E values[2][kWalkers][SquareTile::kSize];  // V [C, 64], then O
    tile::InverseScratch scratch;
    alignas(16) SquareScalars squares[2];
    alignas(16) WalkScalars walk[3];
    alignas(16) ChunkNorms norms;
    double log_decay[1][kChunkRows];
    float g[2][kChunkRows], eta[2][kChunkRows];
    WalkTask task;  // here, so that no thread keeps it in registers
  };

  ChunkMap map;
  HeadMap heads;
  tile::TokenRows<const T> q, k, v;
  tile::TokenRows<T> o;
  GateRows g, eta;
  double scale, epsilon;
  StateRef<const typename C::State> initial_state;
  StateRef<typename C::State> final_state;
  ChunkStates<float> chunk_states;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    block.ForEach(
        1, [&](int) { shared.task = SegmentMap{}.template TaskOf<1>(map, heads, block.index()); });
    block.Barrier();
    const int count = static_cast<int>(shared.task.end - shared.task.first);
    const auto group = block.Group();
    using Group = std::decay_t<decltype(group)>;
    block.template InSteps<Registers>(
        count == 0 ? 0 : count + 2,
        [&](int tile) { return Walker<Group>(*this, group, shared, tile); },
        [&] {
          return Squares<Group>{*this, group, shared, count};
        },
        [&] { return Rows<Group>(*this, group, shared, count); });
  }

 private:
  template <class Group>
  struct Rows {
    const ForwardFused& body;
    Group group;
    Shared& shared;
    int count;

    KLA_TILE_FUNCTION Rows(const ForwardFused& from, const Group& threads, Shared& memory,
                           int chunks)
        : body(from), group(threads), shared(memory), count(chunks) {}
    KLA_TILE_FUNCTION void Step(int i) {
      if (i < count) Load(i);
      Announce(i);
      group.CommitCopies();
      if (i > 0 && i - 1 < count) LoadValues(i - 1);
      group.CommitCopies();
      if (i < count) {
        group.template WaitCopies<1>();
        group.Barrier();
        Measure(i);
      }
      group.template WaitCopies<0>();
    }
    KLA_TILE_FUNCTION void End() {}

    // What the next step copies, into the L2 cache.
    KLA_TILE_FUNCTION void Announce(int i) const {
      constexpr int kLine = 128 / static_cast<int>(sizeof(T));
      const auto rows = [&](const tile::TokenRows<const T>& from, Index head, int chunk,
                            int width) {
        if (chunk >= count) return;
        const ChunkSpan span = shared.task.SpanOf(shared.task.first + chunk);
        const T* first = from.At(span.batch, span.begin, head);
        const int lines = (width + kLine - 1) / kLine;
        group.ForEach(span.count * lines, [&](int n) {
          group.Prefetch(first + n / lines * from.time + n % lines * kLine);
        });
      };
      rows(body.k, shared.task.key_head, i + 1, C::kKeyDim);
      rows(body.q, shared.task.key_head, i + 1, C::kKeyDim);
      rows(body.v, shared.task.value_head, i, C::kValueDim);
    }
    KLA_TILE_FUNCTION void Load(int i) {
      const ChunkSpan span = shared.task.SpanOf(shared.task.first + i);
      const KeyTile keys{shared.keys[i % 3]}, queries{shared.queries[i % 3]};
      if (body.k.aligned && body.q.aligned && span.count == kChunkRows) {
        constexpr int kUnits = C::kKeyDim / 8;
        const T* key = body.k.At(span.batch, span.begin, shared.task.key_head);
        const T* query = body.q.At(span.batch, span.begin, shared.task.key_head);
        group.ForEach(kChunkRows * kUnits, [&](int n) {
          const int row = n / kUnits, column = n % kUnits * 8, at = KeyTile::Offset(row, column);
          group.CopyUnitAsync(keys.data + at, key + row * body.k.time + column);
          group.CopyUnitAsync(queries.data + at, query + row * body.q.time + column);
        });
      } else {
        LoadHeadRows<false>(group, body.k, span, shared.task.key_head, keys);
        LoadHeadRows<false>(group, body.q, span, shared.task.key_head, queries);
      }
      group.ForEach(kChunkRows, [&](int row) {
        const Index t = span.begin + (row < span.count ? row : 0);
        group.CopyWordAsync(&shared.g[i % 2][row],
                            body.g.Row(span.batch, t, shared.task.value_head));
        group.CopyWordAsync(&shared.eta[i % 2][row],
                            body.eta.Row(span.batch, t, shared.task.value_head));
      });
    }
    KLA_TILE_FUNCTION void LoadValues(int i) {
      const ChunkSpan span = shared.task.SpanOf(shared.task.first + i);
      const T* first = body.v.At(span.batch, span.begin, shared.task.value_head);
      for (int tile = 0; tile < kWalkers; ++tile) {
        tile::LoadRows(group, SquareTile{shared.values[i % 2][tile]}, first + tile * 64,
                       body.v.time, body.v.aligned, span.count, C::kValueDim - tile * 64);
      }
    }
    KLA_TILE_FUNCTION void Measure(int i) {
      const int inside = shared.task.SpanOf(shared.task.first + i).count;
      const KeyTile keys{shared.keys[i % 3]}, queries{shared.queries[i % 3]};
      const auto from = [](const KeyTile& rows) {
        return [=](int row, int column, float(&x)[8]) {
          tile::LoadUnit(rows.data + rows.Offset(row, column), true, x);
        };
      };
      ChunkNorms& norms = shared.norms;
      group.ForEach(kChunkRows, [&](int row) {
        shared.log_decay[0][row] = Log2Decay(shared.g[i % 2][row], row < inside);
      });
      MeasureRows<C::kKeyDim>(group, from(keys), norms.key_norm2, norms.key_down, keys);
      MeasureRows<C::kKeyDim>(group, from(queries), norms.query_norm2, norms.query_down, queries);
      group.Barrier();
      group.CumulativeSums(shared.log_decay, 1);
      group.Barrier();
      group.ForEach(kChunkRows, [&](int row) {
        SetScalars<typename C::StepSize>(norms, row, row < inside, shared.eta[i % 2][row],
                                         shared.log_decay[0], body.scale, body.epsilon,
                                         shared.squares[i % 2], shared.walk[i % 3]);
      });
    }
  };

  template <class Group>
  struct Squares {
    const ForwardFused& body;
    Group group;
    Shared& shared;
    int count;

    KLA_TILE_FUNCTION void Step(int i) {
      const int chunk = i - 1;
      if (chunk < 0 || chunk >= count) return;
      const KeyTile keys{shared.keys[chunk % 3]}, queries{shared.queries[chunk % 3]};
      Square a, p;
      tile::StartMultiplyRows(a, keys, keys);
      tile::StartMultiplyRows(p, queries, keys);
      tile::Complete(a, p);
      const SquareScalars& s = shared.squares[chunk % 2];
      LowerSquares(s, static_cast<float>(body.scale), a, p);
      tile::StoreOperand(tile::ToOperand<E, 1>(p, tile::Identity{}),
                         SquareTile{shared.scores[chunk % 2]});
      tile::ForEachElement([&](const tile::Place& at, float& x) { x *= s.step[at.row]; }, a);
      tile::InvertUnitLower(group, a, shared.scratch, SquareTile{shared.inverse[chunk % 2]});
    }
    KLA_TILE_FUNCTION void End() {}
  };

  template <class Group>
  struct Walker {
    const ForwardFused& body;
    Group group;
    Shared& shared;
    int tile_index;
    State state;  // S^T of 64 columns

    KLA_TILE_FUNCTION Walker(const ForwardFused& from, const Group& threads, Shared& memory,
                             int index)
        : body(from), group(threads), shared(memory), tile_index(index) {
      const WalkTask task = Task();
      LoadStateTile<C>(task, task.sequence, body.initial_state, state);
    }
    KLA_TILE_FUNCTION void Step(int i) {
      const int chunk = i - 2;
      if (chunk < 0) return;
      if (body.chunk_states.data != nullptr) {
        const WalkTask task = Task();
        StoreStateTile<C>(task, 0, state, body.chunk_states.At(task.first + chunk));
      }
      const KeyTile keys{shared.keys[chunk % 3]}, queries{shared.queries[chunk % 3]};
      const SquareTile inverse{shared.inverse[chunk % 2]}, scores{shared.scores[chunk % 2]};
      const SquareTile values{shared.values[chunk % 2][tile_index]};
      const WalkScalars& s = shared.walk[chunk % 3];
      Square recalled, out, pseudo;  // (K^ S)^T, then (b E)^T; (Q^ S)^T, then O^T; V^T, then V'^T
      // From shared memory: registers hold the state and two sums, and not its operand too.
      const KeyTile entering{shared.states[tile_index]};
      tile::StoreOperand(tile::ToOperand<E, 1>(state, tile::Identity{}), entering);
      group.Barrier();
      tile::StartMultiplyRows(recalled, entering, keys);
      tile::StartMultiplyRows(out, entering, queries);
      tile::Complete(recalled, out);
      tile::ToTile(tile::LoadTransposedOperand<kChunkRows>(values), pseudo);
      tile::ForEachElement(
          [&](const tile::Place& at, float& x, float& given) {
            if (at.row_slot == 0) tile::KeepOrder();
            x = s.given[at.column] * given - s.recall[at.column] * x;
            given = 0.0f;
          },
          recalled, pseudo);
      tile::StartMultiplyTransposed(pseudo, tile::ToOperand<E, 1>(recalled, tile::Identity{}),
                                    inverse);
      tile::ForEachElement(
          [&](const tile::Place& at, float& x) {
            if (at.row_slot == 0) tile::KeepOrder();
            x *= s.out[at.column];
          },
          out);
      const float gamma = s.gamma[kChunkRows - 1];
      tile::ForEachElement([&](const tile::Place&, float& x) { x *= gamma; }, state);
      tile::Complete(pseudo);
      tile::StartMultiplyTransposed(out, tile::ToOperand<E, 1>(pseudo, tile::Identity{}), scores);
      tile::StartMultiply(
          state,
          tile::ToOperand<E, 1>(
              pseudo, [&](const tile::Place& at, float x) { return x * s.write[at.column]; }),
          keys);
      tile::Complete(out, state);
      tile::StoreTransposedOperand(out, values);
      group.Barrier();
      StoreOut(chunk, values);
    }
    KLA_TILE_FUNCTION void End() {
      const WalkTask task = Task();
      StoreStateTile<C>(task, task.sequence, state, body.final_state);
    }

    KLA_TILE_FUNCTION WalkTask Task() const {
      WalkTask task = shared.task;
      task.value_tile = tile_index;
      return task;
    }
    KLA_TILE_FUNCTION void StoreOut(int chunk, const SquareTile& from) const {
      const WalkTask& task = shared.task;
      const ChunkSpan span = task.SpanOf(task.first + chunk);
      const int first = tile_index * 64, columns = C::kValueDim - first;
      T* to = body.o.At(span.batch, span.begin, task.value_head) + first;
      group.ForEach(kChunkRows * 8, [&](int i) {
        const int row = i / 8, column = i % 8 * 8;
        if (row >= span.count || column >= columns) return;
        tile::CopyUnit(to + row * body.o.time + column, from.data + from.Offset(row, column),
                       body.o.aligned);
      });
    }
  };
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_FORWARD_FUSED_H_
