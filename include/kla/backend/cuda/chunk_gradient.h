// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the gradients of a chunk's tokens once the walks have left the states and their
// gradients, all chunks in parallel.
#ifndef KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_
#define KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_

#include "kla/backend/cuda/chunk_gradient_layout.h"
#include "kla/backend/cuda/chunk_types.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::device {

// A block of two groups for each chunk and key head, over the value heads that read it one after
// the other, so that dq and dk are summed in a fixed order. With Y = dO V'^T, dA = -StrictLower(Z
// V'^T), B = K~ K~^T * D (math/chunk_form.h):
//   X = s Y * D     M = dA * D     I_q = s gamma (dO S^T)     F = w (V' dS+^T)    R = -gamma Z S^T
//   dq~ = I_q + X K~               dk~ = F + X^T Q~ + M^T (b K~) + b (R + M K~)
//   db  = r_v <Z, V> + <R, K~> + rowsum(dA * B)
//   dG  = b <R, K~> + <I_q, Q~> - <F, K~> + (row - column sums of Y * P + dA * b B)
//   dG_last += sum <F, K~> + gamma_C <S, dS+>
// Group 0 makes Y and X, group 1 dA and M; then each takes half of the columns of K.
template <class C>
struct ChunkGradients {
  static constexpr int kGroups = 2, kThreads = 256, kBlocksPerSm = 1;
  using T = typename C::T;
  using E = typename C::E;
  using Square = typename C::SquareTile;
  using Layout = GradientLayout<C>;
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
  GateRows g, eta;
  float *dg, *deta;  // strides below
  Index dg_batch, dg_time, deta_batch, deta_time;
  double scale, epsilon;
  const E *states, *pseudo_values, *d_states, *z;
  Sums* sums;  // one for each block where they do not fit in shared memory

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const Index chunk = block.index() / heads.key_heads, head = block.index() % heads.key_heads;
    const ChunkSpan span = map.SpanOf(map.SequenceOf(chunk), chunk);
    Sums& total = SumsOf(block, shared);
    block.Copy(reinterpret_cast<float*>(&shared.norms),
               reinterpret_cast<const float*>(in.norms + block.index()), sizeof(ChunkNorms));
    block.ForEach(kChunkRows, [&](int i) { shared.norm2_gradient[i] = 0.0; });
    for (Index i = 0; i < heads.GroupSize(); ++i) {
      const Index value_head = heads.ValueHeadOf(head, i);
      const Index index = chunk * heads.value_heads + value_head;
      block.Copy(reinterpret_cast<float*>(&shared.scalars),
                 reinterpret_cast<const float*>(in.scalars + index), sizeof(ChunkScalars));
      float along = 0;  // <S, dS+>
      for (int pass = 0; pass < kPasses; ++pass) {
        along += Pass(block, shared, total, span, index, value_head, pass, i == 0);
      }
      Gates(block, shared, span, value_head, along);
    }
    Finish(block, shared, total, span, head);
  }

 private:
  template <class Block>
  KLA_TILE_FUNCTION Sums& SumsOf(const Block& block, Shared& shared) const {
    if constexpr (kSumsInShared) {
      return shared.sums;
    } else {
      return sums[block.index()];
    }
  }

  // The columns of one pass of a tile with all of K.
  template <class Block>
  KLA_TILE_FUNCTION static void CopyColumns(const Block& block, E* to, const E* from, int column) {
    if constexpr (kPasses == 1) {
      block.CopyAsync(to, from, PassTile::kBytes);
    } else {
      const int width = kKeyDim - column < kPass ? kKeyDim - column : kPass;
      KLA_TILE_UNROLL
      for (int t = 0; t < kTerms; ++t) {
        block.CopyAsync(to + t * PassTile::kTermSize,
                        from + t * C::KeyTile::kTermSize + column * kChunkRows,
                        width * kChunkRows * 2);
      }
    }
  }

  // Columns [pass * kPass, ...) of K: adds to dq~ and dk~. Returns its part of <S, dS+>.
  template <class Block>
  KLA_TILE_FUNCTION float Pass(const Block& block, Shared& shared, Sums& total,
                               const ChunkSpan& span, Index index, Index value_head, int pass,
                               bool first) const {
    const int pass_column = pass * kPass;
    tile::PerGroup<Whole, kGroups> inner;                        // Y, Z V'^T
    tile::PerGroup<Part, kGroups> from_state, to_state, recall;  // I_q, F, R
    tile::PerGroup<tile::RowValues, kGroups> value_dot;
    block.Groups([&](int group) {
      inner[group].Fill(0.0f);
      from_state[group].Fill(0.0f);
      to_state[group].Fill(0.0f);
      recall[group].Fill(0.0f);
      value_dot[group] = {};
    });
    const Square d_out{shared.panels.d_o}, values{shared.panels.values}, z_tile{shared.panels.z},
        pseudo{shared.panels.pseudo};
    const PassTile s_tile{shared.panels.states}, ds_tile{shared.panels.d_states};
    float along = 0;
    const Index key_index = block.index() * C::KeyTile::kSize;
    if (first || kPasses > 1) {
      CopyColumns(block, shared.keys, in.keys + key_index, pass_column);
      CopyColumns(block, shared.queries, in.queries + key_index, pass_column);
    }
    for (int panel = 0; panel < C::kValueTiles; ++panel) {
      const Index saved = index * C::kValueTiles + panel;
      const int column = panel * 64;
      block.CopyAsync(shared.panels.z, z + saved * Square::kSize, Square::kBytes);
      block.CopyAsync(shared.panels.pseudo, pseudo_values + saved * Square::kSize, Square::kBytes);
      CopyColumns(block, shared.panels.states, states + saved * C::KeyTile::kSize, pass_column);
      CopyColumns(block, shared.panels.d_states, d_states + saved * C::KeyTile::kSize, pass_column);
      tile::LoadRows(block, d_out, d_o.At(span.batch, span.begin, value_head) + column, d_o.time,
                     d_o.aligned, span.count, C::kValueDim - column);
      tile::LoadRows(block, values, v.At(span.batch, span.begin, value_head) + column, v.time,
                     v.aligned, span.count, C::kValueDim - column);
      block.CommitCopies();
      block.template WaitCopies<0>();
      block.Barrier();
      block.Groups([&](int group) {
        const auto d_out_rows = tile::LoadOperand<kChunkRows>(d_out);
        const auto z_rows = tile::LoadTransposedOperand<kChunkRows>(z_tile);
        if (group == 0) {
          tile::Multiply(inner[group], d_out_rows, pseudo);
        } else {
          tile::Multiply(inner[group], z_rows, pseudo);
          Whole z_values, v_values;
          tile::ToTile(z_rows, z_values);
          tile::ToTile(tile::LoadOperand<kChunkRows>(values), v_values);
          tile::ForEachElement([&](const tile::Place& at, float& x,
                                   float& y) { value_dot[group].at[at.row_slot] += x * y; },
                               z_values, v_values);
        }
        const int part = group * kPart;
        if (part >= kPass || pass_column + part >= kKeyDim) return;
        tile::Multiply(from_state[group], d_out_rows, s_tile, 0, part);
        tile::Multiply(recall[group], z_rows, s_tile, 0, part);
        tile::Multiply(to_state[group], tile::LoadTransposedOperand<kChunkRows>(pseudo), ds_tile, 0,
                       part);
      });
      const int width = kKeyDim - pass_column < kPass ? kKeyDim - pass_column : kPass;
      along += block.Sum(width * kChunkRows / 8, shared.scratch, [&](int unit) {
        float sum = 0, a[8] = {}, b[8] = {};
        KLA_TILE_UNROLL
        for (int t = 0; t < kTerms; ++t) {
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
        for (int e = 0; e < 8; ++e) sum += a[e] * b[e];
        return sum;
      });
      block.Barrier();
    }

    const Square scores{shared.squares.scores}, overlaps{shared.squares.overlaps};
    block.CopyAsync(shared.squares.scores, in.scores + index * Square::kSize, Square::kBytes);
    block.CopyAsync(shared.squares.overlaps, in.overlaps + index * Square::kSize, Square::kBytes);
    block.CommitCopies();
    block.template WaitCopies<0>();
    block.Barrier();
    block.Groups([&](int group) {
      if (group == 0) {
        InsideChunk(shared, group, inner[group], scores, shared.squares.x_keys,
                    shared.squares.x_rows);
      } else {
        InsideChunk(shared, group, inner[group], overlaps, shared.squares.m_keys,
                    shared.squares.m_rows);
        value_dot[group].Reduce();
        value_dot[group].Store(shared.value_dot);
      }
    });
    block.Barrier();
    block.Groups([&](int group) {
      const int part = group * kPart;
      if (part >= kPass || pass_column + part >= kKeyDim) {
        if (pass == 0) tile::RowValues{}.Store(shared.dots[0][group]);
        if (pass == 0) tile::RowValues{}.Store(shared.dots[1][group]);
        if (pass == 0) tile::RowValues{}.Store(shared.dots[2][group]);
        return;
      }
      Columns(shared, total, group, pass, first, from_state[group], to_state[group], recall[group]);
    });
    block.Barrier();
    return along;
  }

  // Group 0: from Y the sums of Y * P, and X. Group 1: from Z V'^T the sums of dA * B, and M.
  KLA_TILE_FUNCTION void InsideChunk(Shared& shared, int group, Whole& inner, const Square& weights,
                                     E* by_keys, E* by_rows) const {
    const ChunkScalars& s = shared.scalars;
    tile::RowValues rows;
    tile::ColumnValues<kChunkRows> columns;
    Whole weight;
    tile::ToTile(tile::LoadOperand<kChunkRows>(weights), weight);
    const float factor = group == 0 ? static_cast<float>(scale) : -1.0f;
    tile::ForEachElement(
        [&](const tile::Place& at, float& x, float& w) {
          const int i = at.row, j = at.column;
          const bool inside = group == 0 ? i >= j : i > j;
          const float through = group == 0 ? x * w : -x * w;  // w is 0 where not inside
          rows.at[at.row_slot] += through;
          columns.at[at.column_slot] += group == 0 ? through : through * s.step[i];
          x = inside ? x * factor * DecayBetweenRows(s, i, j) : 0.0f;
        },
        inner, weight);
    rows.Reduce();
    rows.Store(shared.row_sum[group]);
    columns.StorePartial(&shared.column_sum[group][0][0]);
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
  KLA_TILE_FUNCTION void Columns(Shared& shared, Sums& total, int group, int pass, bool first,
                                 Part& from_state, Part& to_state, Part& recall) const {
    const ChunkScalars& s = shared.scalars;
    const PassTile keys{shared.keys}, queries{shared.queries};
    const int part = group * kPart;
    const float output_scale = static_cast<float>(scale);
    tile::RowValues query_dot, write_dot, recall_dot;
    Part key_rows, query_rows;
    tile::ToTile(tile::LoadOperand<kPart>(keys, part), key_rows);
    tile::ToTile(tile::LoadOperand<kPart>(queries, part), query_rows);
    tile::ForEachElement(
        [&](const tile::Place& at, float& iq, float& f, float& r, float& k_hat, float& q_hat) {
          const float gamma = s.walk.gamma[at.row];
          iq *= output_scale * gamma;
          f *= s.to_end[at.row];
          r *= -gamma;
          query_dot.at[at.row_slot] += iq * q_hat;
          write_dot.at[at.row_slot] += f * k_hat;
          recall_dot.at[at.row_slot] += r * k_hat;
        },
        from_state, to_state, recall, key_rows, query_rows);
    StoreDot(query_dot, shared.dots[0][group], s.query, pass);
    StoreDot(write_dot, shared.dots[1][group], s.key, pass);
    StoreDot(recall_dot, shared.dots[2][group], s.key, pass);

    const Square x_rows{shared.squares.x_rows}, m_rows{shared.squares.m_rows};
    tile::Multiply(from_state, tile::LoadOperand<kChunkRows>(Square{shared.squares.x_keys}), keys,
                   0, part);
    tile::Multiply(recall, tile::LoadOperand<kChunkRows>(Square{shared.squares.m_keys}), keys, 0,
                   part);
    tile::Multiply(to_state, tile::LoadTransposedOperand<kChunkRows>(x_rows), queries, 0, part);
    tile::Multiply(to_state, tile::LoadTransposedOperand<kChunkRows>(m_rows), keys, 0, part);
    const int column = pass * kPass + part;
    tile::ForEachElement(
        [&](const tile::Place& at, float& d_query, float& d_key, float& h) {
          const int to = at.row * kPitch + column + at.column;
          const float key = d_key + s.step[at.row] * h;
          total.dq[to] = first ? d_query : total.dq[to] + d_query;
          total.dk[to] = first ? key : total.dk[to] + key;
        },
        from_state, to_state, recall);
  }

  // The sum of a row's products with k^ or q^, times what turns these into k~ or q~.
  KLA_TILE_FUNCTION static void StoreDot(tile::RowValues& dot, float* out, const float* factor,
                                         int pass) {
    dot.Reduce();
    dot.Accumulate(out, factor, pass == 0);
  }

  // dg, deta, and what the value head adds to the gradient of |k|^2.
  template <class Block>
  KLA_TILE_FUNCTION void Gates(const Block& block, Shared& shared, const ChunkSpan& span,
                               Index value_head, float along) const {
    const ChunkScalars& s = shared.scalars;
    const auto dot = [&](int which, int i) {
      return shared.dots[which][0][i] + shared.dots[which][1][i];
    };
    const float written = block.Sum(kChunkRows, shared.scratch, [&](int i) { return dot(1, i); });
    block.ForEach(kChunkRows, [&](int i) {
      double sum = static_cast<double>(shared.row_sum[0][i]) + s.step[i] * shared.row_sum[1][i];
      for (int w = 0; w < 4; ++w) {
        sum -= shared.column_sum[0][w][i];
        sum -= shared.column_sum[1][w][i];
      }
      sum += s.step[i] * dot(2, i) + dot(0, i) - dot(1, i);
      if (i == kChunkRows - 1) sum += written + s.walk.gamma[i] * along;
      shared.log_gradient[i] = sum;
    });
    block.Barrier();
    block.ReverseCumulativeSum(shared.log_gradient);
    block.Barrier();
    block.ForEach(span.count, [&](int i) {
      const Index t = span.begin + i;
      const double eta_i = static_cast<double>(eta.At(span.batch, t, value_head));
      const float value_dot = shared.value_dot[i];
      const float d_step = s.value[i] * value_dot + dot(2, i) + shared.row_sum[1][i];
      const auto gradient = UnitKeyBackward<typename C::StepSize>(
          eta_i, shared.norms.key_norm2[i], epsilon, 0.0,
          static_cast<double>(s.step[i] * value_dot), static_cast<double>(d_step));
      shared.norm2_gradient[i] += gradient.norm2;
      // Beyond the clamp the decay is 0 whatever g is.
      const bool clamped = g.At(span.batch, t, value_head) <= static_cast<float>(kMinLogDecay);
      dg[span.batch * dg_batch + t * dg_time + value_head] =
          clamped ? 0.0f : static_cast<float>(shared.log_gradient[i]);
      deta[span.batch * deta_batch + t * deta_time + value_head] = static_cast<float>(gradient.eta);
    });
    block.Barrier();
  }

  // dq = r dq~ - r^3 <q, dq~> q (normalised q), dk = r dk~ + 2 (d |k|^2) k, in terms of the rows
  // scaled to near 1.
  template <class Block>
  KLA_TILE_FUNCTION void Finish(const Block& block, Shared& shared, const Sums& total,
                                const ChunkSpan& span, Index head) const {
    block.ForEachRow([&](int row, const auto& lanes) {
      const bool inside = row < span.count;
      const Index t = span.begin + (inside ? row : 0);
      const T* q_row = q.At(span.batch, t, head);
      const T* k_row = k.At(span.batch, t, head);
      const float q_down = shared.norms.query_down[row], k_down = shared.norms.key_down[row];
      const float* d_query = total.dq + row * kPitch;
      const float* d_key = total.dk + row * kPitch;
      float x[8], q_along = 0, k_along = 0;  // <q^, dq~>, <k^, dk~>
      for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
        tile::LoadUnit(q_row + c, q.aligned, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) q_along += x[e] * q_down * d_query[c + e];
        tile::LoadUnit(k_row + c, k.aligned, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) k_along += x[e] * k_down * d_key[c + e];
      }
      q_along = lanes.Sum(q_along);
      k_along = lanes.Sum(k_along);
      if (!inside) return;
      const double key_norm2 = shared.norms.key_norm2[row];
      const double d_norm2 =
          shared.norm2_gradient[row] +
          UnitKeyBackward<typename C::StepSize>(0.0, key_norm2, epsilon,
                                                static_cast<double>(k_along) / k_down, 0.0, 0.0)
              .norm2;
      const float key = static_cast<float>(InverseNorm(key_norm2, epsilon));
      const float key_part = static_cast<float>(2.0 * d_norm2 / k_down);  // of k^
      double r = 1.0, query_along = 0.0;
      if constexpr (C::StepSize::kNormalizeQuery) {
        r = InverseNorm(shared.norms.query_norm2[row], epsilon);
        query_along = -r * r * r * static_cast<double>(q_along) / q_down / q_down;
      }
      const float query = static_cast<float>(r), query_part = static_cast<float>(query_along);
      T* dq_row = dq.At(span.batch, t, head);
      T* dk_row = dk.At(span.batch, t, head);
      for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
        tile::LoadUnit(q_row + c, q.aligned, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) {
          x[e] = query * d_query[c + e] + query_part * (x[e] * q_down);
        }
        tile::StoreUnit(dq_row + c, dq.aligned, x);
        tile::LoadUnit(k_row + c, k.aligned, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) x[e] = key * d_key[c + e] + key_part * (x[e] * k_down);
        tile::StoreUnit(dk_row + c, dk.aligned, x);
      }
    });
  }
};

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_GRADIENT_H_
