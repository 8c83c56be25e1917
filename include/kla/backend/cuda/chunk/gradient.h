// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the gradients of a chunk's tokens once the walks have left the states and
// their gradients, all chunks in parallel.
#ifndef KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_
#define KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_

#include "kla/backend/cuda/chunk/gradient_layout.h"
#include "kla/backend/cuda/chunk/gradient_rows.h"
#include "kla/backend/cuda/chunk/types.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// A block of two groups for each chunk and key head, over the value heads that read it one after
// the other, so that dq and dk are summed in a fixed order. With Y = dO V'^T, dA = -StrictLower(Z
// V'^T), B = K~ K~^T * D (math/chunk_form.h):
//   X = s Y * D     M = dA * D     I_q = s gamma (dO S^T)     F = w (V' dS+^T)    R = -gamma Z S^T
//   dq~ = I_q + X K~               dk~ = F + X^T Q~ + M^T (b K~) + b (R + M K~)
//   db  = r_v <Z, V> + <R, K~> + rowsum(dA * B)
//   dG  = b <R, K~> + <I_q, Q~> - <F, K~> + (row - column sums of Y * P + dA * b B)
//   dG_last += sum <F, K~> + gamma_C <S, dS+>
// Group 0 makes Y and X, group 1 dA and M; then each takes half of the columns of K.
//
// H200, bf16, 128/128, 16/32 heads, 1x32K: 2.9 GB, floor 0.69 ms; 1.63 ms, 2.4 x the floor. Eight
// warps wait for each other's products; four groups would have 128 registers a thread and spill.
template <class C, class Room>
struct ChunkGradients {
  static constexpr int kGroups = 2, kThreads = 256, kBlocksPerSm = 1;
  using T = typename C::T;
  using E = typename C::E;
  using Square = typename C::SquareTile;
  using Layout = GradientLayout<C, Room>;
  using Shared = typename Layout::Shared;
  using Sums = typename Layout::Sums;
  using PassTile = typename Layout::PassTile;
  static constexpr int kTerms = C::kTerms, kKeyDim = C::kKeyDim;
  static constexpr int kPass = Layout::kPass, kPart = Layout::kPart, kPasses = Layout::kPasses;
  static constexpr int kPitch = Layout::kPitch;
  static constexpr bool kSumsInShared = Layout::kSumsInShared;
  using Part = tile::RegisterTile<kPart>;
  using Whole = tile::RegisterTile<kChunkRows>;

  ChunkMap map;
  HeadMap heads;
  Prepared<typename C::E> in;
  tile::TokenRows<const T> q, k, v, d_o;
  tile::TokenRows<T> dq, dk;
  float *dg, *deta;  // strides below
  Index dg_batch, dg_time, deta_batch, deta_time;
  double scale, epsilon;
  const E *states, *pseudo_values, *d_states, *z;
  Sums* sums;  // one for each block where they do not fit in shared memory

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const Index chunk = Quotient(block.index(), heads.key_heads);
    const Index head = block.index() - chunk * heads.key_heads;
    const ChunkSpan span = map.SpanOf(map.SequenceOf(chunk), chunk);
    const int steps = static_cast<int>(heads.GroupSize()) * kPasses * C::kValueTiles;
    block.Copy(reinterpret_cast<float*>(&shared.small.norms),
               reinterpret_cast<const float*>(in.norms + block.index()), sizeof(ChunkNorms));
    block.ForEach(kChunkRows, [&](int i) { shared.small.norm2_gradient[i] = 0.0; });
    block.PrepareArrival(shared.small.arrivals, kStages);
    LoadValues(block, shared, span, head, 0);
    LoadStep(block, shared, span, chunk, head, 0);
    for (int step = 0; step < steps; step += C::kValueTiles) {
      const int pass = step / C::kValueTiles % kPasses;
      const Index member = step / (C::kValueTiles * kPasses);
      const Index value_head = heads.ValueHeadOf(head, member);
      Pass(block, shared, span, chunk, head, step, steps, member == 0);
      if (pass == kPasses - 1) {
        auto& squares = shared.stages[(step + C::kValueTiles - 1) % kStages].squares;
        FinishGates<C>(block, *this, shared, squares, DotsOf(shared, squares),
                       shared.small.scalars[member % 2], span, value_head);
      }
      // Not before the gates have been read from where it goes.
      const int next = step + C::kValueTiles;
      if ((kStages == 1 || kPasses > 1) && next < steps) {
        LoadValues(block, shared, span, head, next);
        LoadStep(block, shared, span, chunk, head, next);
      }
    }
    auto& squares = shared.stages[(steps - 1) % kStages].squares;
    FinishRows<C, Layout>(block, *this, shared, SumsOf(block, shared), DotsOf(shared, squares).dots,
                          span, head);
  }

 private:
  static constexpr int kStages = Shared::kStages;

  template <class Block>
  KLA_TILE_FUNCTION Sums& SumsOf(const Block& block, Shared& shared) const {
    if constexpr (kSumsInShared) {
      return shared.sums;
    } else {
      return sums[block.index()];
    }
  }

  using Dots = typename Layout::Dots;
  KLA_TILE_FUNCTION static Dots& DotsOf(Shared& shared, typename Layout::Squares& squares) {
    if constexpr (kPasses == 1) {
      return squares;
    } else {
      return shared.small;
    }
  }

  // Queues what step (value head, pass, panel of V) reads.
  template <class Block>
  KLA_TILE_FUNCTION void LoadStep(const Block& block, Shared& shared, const ChunkSpan& span,
                                  Index chunk, Index head, int step) const {
    const int panel = step % C::kValueTiles, pass = step / C::kValueTiles % kPasses;
    const Index value_head = heads.ValueHeadOf(head, step / (C::kValueTiles * kPasses));
    const Index index = chunk * heads.value_heads + value_head;
    const Index saved = index * C::kValueTiles + panel;
    const int pass_column = pass * kPass;
    auto& panels = shared.stages[step % kStages].panels;
    tile::Arrival& arrival = shared.small.arrivals[step % kStages];
    const bool new_keys = panel == 0 && (step == 0 || kPasses > 1);
    const bool new_scalars = panel == 0 && pass == 0;
    block.Expect(arrival, 2 * Square::kBytes +
                              (new_keys ? 4 : 2) * Layout::ColumnBytes(pass_column) +
                              (new_scalars ? static_cast<int>(sizeof(GradientScalars)) : 0));
    if (new_keys) {
      const Index keys = block.index() * C::KeyTile::kSize;
      Layout::CopyColumns(block, arrival, shared.keys, in.keys + keys, pass_column);
      Layout::CopyColumns(block, arrival, shared.queries, in.queries + keys, pass_column);
    }
    if (new_scalars) {
      const int member = step / (C::kValueTiles * kPasses);
      const GradientScalars* from = in.scalars + index;
      block.CopyBulk(arrival, reinterpret_cast<float*>(&shared.small.scalars[member % 2]),
                     reinterpret_cast<const float*>(from), sizeof(GradientScalars));
    }
    block.CopyBulk(arrival, panels.z, z + saved * Square::kSize, Square::kBytes);
    block.CopyBulk(arrival, panels.pseudo, pseudo_values + saved * Square::kSize, Square::kBytes);
    const Index state = saved * C::KeyTile::kSize;
    Layout::CopyColumns(block, arrival, panels.states, states + state, pass_column);
    Layout::CopyColumns(block, arrival, panels.d_states, d_states + state, pass_column);
    tile::LoadRows(block, Square{panels.d_o},
                   d_o.At(span.batch, span.begin, value_head) + panel * 64, d_o.time, d_o.aligned,
                   span.count, C::kValueDim - panel * 64);
    block.CommitCopies();
  }

  // Queues the columns of V of a step: once those of the step before are out of use.
  template <class Block>
  KLA_TILE_FUNCTION void LoadValues(const Block& block, Shared& shared, const ChunkSpan& span,
                                    Index head, int step) const {
    const int panel = step % C::kValueTiles;
    const Index value_head = heads.ValueHeadOf(head, step / (C::kValueTiles * kPasses));
    tile::LoadRows(block, Square{shared.values},
                   v.At(span.batch, span.begin, value_head) + panel * 64, v.time, v.aligned,
                   span.count, C::kValueDim - panel * 64);
  }

  // Columns [pass * kPass, ...) of K: adds to dq~ and dk~, and its part of <S, dS+>.
  template <class Block>
  KLA_TILE_FUNCTION void Pass(const Block& block, Shared& shared, const ChunkSpan& span,
                              Index chunk, Index head, int first_step, int steps,
                              bool first) const {
    const int pass = first_step / C::kValueTiles % kPasses, pass_column = pass * kPass;
    const Index value_head = heads.ValueHeadOf(head, first_step / (C::kValueTiles * kPasses));
    const Index index = chunk * heads.value_heads + value_head;
    const GradientScalars& s = shared.small.scalars[first_step / (C::kValueTiles * kPasses) % 2];
    const int width = kKeyDim - pass_column < kPass ? kKeyDim - pass_column : kPass;
    const auto idle = [&](int group) { return group * kPart >= width; };
    tile::PerGroup<Whole, kGroups> inner;                        // Y, Z V'^T
    tile::PerGroup<Part, kGroups> from_state, to_state, recall;  // I_q, F, R
    tile::PerGroup<tile::RowValues, kGroups> value_dot;
    tile::PerGroup<tile::RegisterOperand<E, kTerms, kChunkRows>, kGroups> weights;  // P, B
    block.Groups([&](int group) {
      inner[group].Fill(0.0f);
      from_state[group].Fill(0.0f);
      to_state[group].Fill(0.0f);
      recall[group].Fill(0.0f);
      value_dot[group] = {};
    });
    // Early, where registers are left to wait in.
    const auto load_weights = [&](int group) {
      const E* from = (group == 0 ? in.scores : in.overlaps) + index * Square::kSize;
      weights[group] = tile::LoadDistantOperand<kChunkRows>(Square{const_cast<E*>(from)});
    };
    float along = 0;  // this thread's part
    for (int panel = 0; panel < C::kValueTiles; ++panel) {
      const int step = first_step + panel;
      const bool ahead =
          kStages == 2 && step + 1 < steps && (kPasses == 1 || panel + 1 < C::kValueTiles);
      if (ahead) {
        LoadStep(block, shared, span, chunk, head, step + 1);
        block.template WaitCopies<1>();
      } else {
        block.template WaitCopies<0>();
      }
      block.Wait(shared.small.arrivals[step % kStages], step / kStages % 2);
      block.Barrier();
      auto& panels = shared.stages[step % kStages].panels;
      const Square d_out{panels.d_o}, z_tile{panels.z}, pseudo{panels.pseudo};
      const PassTile s_tile{panels.states}, ds_tile{panels.d_states};
      block.Groups([&](int group) {
        const auto d_out_rows = tile::LoadOperand<kChunkRows>(d_out);
        const auto z_rows = tile::LoadTransposedOperand<kChunkRows>(z_tile);
        if (group == 0) {
          tile::StartMultiply(inner[group], d_out_rows, pseudo);
        } else {
          tile::StartMultiply(inner[group], z_rows, pseudo);
        }
        if (!idle(group)) {
          const int part = group * kPart;
          tile::StartMultiply(from_state[group], d_out_rows, s_tile, 0, part);
          tile::StartMultiply(recall[group], z_rows, s_tile, 0, part);
          // Of several terms, factors are let go before the next one is loaded.
          if constexpr (kTerms > 1) tile::Complete(inner[group], from_state[group], recall[group]);
          tile::StartMultiply(to_state[group], tile::LoadTransposedOperand<kChunkRows>(pseudo),
                              ds_tile, 0, part);
        }
        if (group == 1) {
          Whole z_values, v_values;
          tile::ToTile(z_rows, z_values);
          tile::ToTile(tile::LoadOperand<kChunkRows>(Square{shared.values}), v_values);
          tile::ForEachElement([&](const tile::Place& at, float& x,
                                   float& y) { value_dot[group].at[at.row_slot] += x * y; },
                               z_values, v_values);
        }
        tile::Complete(inner[group], from_state[group], recall[group], to_state[group]);
        if (kTerms == 1 && panel == C::kValueTiles - 1) load_weights(group);
      });
      block.ForEach(width * kChunkRows / 8, [&](int unit) {
        float a[8], b[8];
        tile::LoadUnit(s_tile.data + unit * 8, true, a);
        tile::LoadUnit(ds_tile.data + unit * 8, true, b);
        KLA_TILE_UNROLL
        for (int t = 1; t < kTerms; ++t) {
          float x[8], y[8];
          tile::LoadUnit(s_tile.data + t * PassTile::kTermSize + unit * 8, true, x);
          tile::LoadUnit(ds_tile.data + t * PassTile::kTermSize + unit * 8, true, y);
          KLA_TILE_UNROLL
          for (int e = 0; e < 8; ++e) {
            a[e] += x[e];
            b[e] += y[e];
          }
        }
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) along += a[e] * b[e];
      });
      block.Barrier();
      if (ahead) {
        LoadValues(block, shared, span, head, step + 1);
        block.CommitCopies();
      } else if (panel + 1 < C::kValueTiles) {
        LoadValues(block, shared, span, head, step + 1);
        LoadStep(block, shared, span, chunk, head, step + 1);
      }
    }

    auto& squares = shared.stages[(first_step + C::kValueTiles - 1) % kStages].squares;
    block.Groups([&](int group) {
      if (kTerms > 1) load_weights(group);
      if (group == 0) {
        InsideChunk(squares, s, group, inner[group], weights[group], squares.x_keys,
                    squares.x_rows);
      } else {
        InsideChunk(squares, s, group, inner[group], weights[group], squares.m_keys,
                    squares.m_rows);
        value_dot[group].Reduce();
        value_dot[group].Store(squares.value_dot);
      }
    });
    const float whole = block.Reduce(along, shared.small.scratch);
    block.ForEach(
        1, [&](int) { shared.small.along = whole + (pass == 0 ? 0.0f : shared.small.along); });
    block.Barrier();
    block.Groups([&](int group) {
      if (idle(group)) {
        if (pass > 0) return;
        for (auto& dot : DotsOf(shared, squares).dots) tile::RowValues{}.Store(dot[group]);
        return;
      }
      Columns(shared, squares, s, SumsOf(block, shared), group, pass, first, from_state[group],
              to_state[group], recall[group]);
    });
    block.Barrier();
  }

  // Group 0: from Y the sums of Y * P, and X. Group 1: from Z V'^T the sums of dA * B, and M.
  KLA_TILE_FUNCTION void InsideChunk(typename Layout::Squares& squares, const GradientScalars& s,
                                     int group, Whole& inner,
                                     const tile::RegisterOperand<E, kTerms, kChunkRows>& weights,
                                     E* by_keys, E* by_rows) const {
    tile::RowValues rows;
    tile::ColumnValues<kChunkRows> columns;
    Whole weight;
    tile::ToTile(weights, weight);
    const float factor = group == 0 ? static_cast<float>(scale) : -1.0f;
    tile::ForEachLowerElement(
        [&](const tile::Place& at, float& x, float& w) {
          const int i = at.row, j = at.column;
          const bool inside = group == 0 ? i >= j : i > j;
          const float through = group == 0 ? x * w : -x * w;  // w is 0 where not inside
          rows.at[at.row_slot] += through;
          columns.at[at.column_slot] += group == 0 ? through : through * s.step[i];
          const float decayed = x * factor * DecayBetweenRows(s, i, j);
          x = inside ? decayed : 0.0f;
        },
        inner, weight);
    rows.Reduce();
    rows.Store(squares.row_sum[group]);
    columns.StorePartial(&squares.column_sum[group][0][0]);
    tile::StoreOperand(
        tile::ToOperand<E, kTerms>(
            inner, [&](const tile::Place& at, float x) { return x * s.key[at.column]; }),
        Square{by_keys});
    tile::StoreOperand(
        tile::ToOperand<E, kTerms>(inner,
                                   [&](const tile::Place& at, float x) {
                                     return x * (group == 0 ? s.query[at.row]
                                                            : s.step[at.row] * s.key[at.row]);
                                   }),
        Square{by_rows});
  }

  // One group's columns of dq~ and dk~ and its part of the row products.
  KLA_TILE_FUNCTION void Columns(Shared& shared, typename Layout::Squares& squares,
                                 const GradientScalars& s, Sums& total, int group, int pass,
                                 bool first, Part& from_state, Part& to_state, Part& recall) const {
    const PassTile keys{shared.keys}, queries{shared.queries};
    const int part = group * kPart;
    const float output_scale = static_cast<float>(scale);
    tile::RowValues query_dot, write_dot, recall_dot;
    Part key_rows, query_rows;
    tile::ToTile(tile::LoadOperand<kPart>(keys, part), key_rows);
    tile::ToTile(tile::LoadOperand<kPart>(queries, part), query_rows);
    tile::ForEachElement(
        [&](const tile::Place& at, float& iq, float& f, float& r, float& k_hat, float& q_hat) {
          const float gamma = s.gamma[at.row];
          iq *= output_scale * gamma;
          f *= s.to_end[at.row];
          r *= -gamma;
          query_dot.at[at.row_slot] += iq * q_hat;
          write_dot.at[at.row_slot] += f * k_hat;
          recall_dot.at[at.row_slot] += r * k_hat;
        },
        from_state, to_state, recall, key_rows, query_rows);
    StoreDot(query_dot, DotsOf(shared, squares).dots[0][group], s.query, pass);
    StoreDot(write_dot, DotsOf(shared, squares).dots[1][group], s.key, pass);
    StoreDot(recall_dot, DotsOf(shared, squares).dots[2][group], s.key, pass);

    const Square x_rows{squares.x_rows}, m_rows{squares.m_rows};
    const auto x_keys = tile::LoadOperand<kChunkRows>(Square{squares.x_keys});
    tile::StartMultiply(from_state, x_keys, keys, 0, part);
    const auto m_keys = tile::LoadOperand<kChunkRows>(Square{squares.m_keys});
    tile::StartMultiply(recall, m_keys, keys, 0, part);
    if constexpr (kTerms > 1) tile::Complete(from_state, recall);
    const auto x_columns = tile::LoadTransposedOperand<kChunkRows>(x_rows);
    tile::StartMultiply(to_state, x_columns, queries, 0, part);
    const auto m_columns = tile::LoadTransposedOperand<kChunkRows>(m_rows);
    tile::StartMultiply(to_state, m_columns, keys, 0, part);
    tile::Complete(from_state, recall, to_state);
    const int column = pass * kPass + part;
    tile::ForEachElement(
        [&](const tile::Place& at, float& d_key, float& h) { d_key += s.step[at.row] * h; },
        to_state, recall);
    tile::AccumulateRows<kPitch>(from_state, total.dq + column, first);
    tile::AccumulateRows<kPitch>(to_state, total.dk + column, first);
  }

  // The sum of a row's products with k^ or q^, times what turns these into k~ or q~.
  KLA_TILE_FUNCTION static void StoreDot(tile::RowValues& dot, float* out, const float* factor,
                                         int pass) {
    dot.Reduce();
    dot.Accumulate(out, factor, pass == 0);
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_
