// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the way back from unit-key form: dq and dk from the sums over value heads.
#ifndef KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_
#define KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_

#include "kla/backend/cuda/chunk/gradient_layout.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// dq = r dq~ - r^3 <q, dq~> q (normalised q), dk = r dk~ + 2 (d |k|^2) k, in terms of the rows
// scaled to near 1: products along each row by its lanes, then the factors by a thread a row, in
// double, then the rows. `work` [3][2][C] is free to use.
template <class C, class Layout, class Block, class Arrays, class Shared, class Sums, class Work>
KLA_TILE_FUNCTION void FinishRows(const Block& block, const Arrays& arrays, const Shared& shared,
                                  const Sums& total, Work& work, const ChunkSpan& span,
                                  Index head) {
  using T = typename C::T;
  constexpr int kPitch = Layout::kPitch, kKeyDim = C::kKeyDim;
  const double epsilon = arrays.epsilon;
  const auto &q = arrays.q, &k = arrays.k;
  const auto &dq = arrays.dq, &dk = arrays.dk;
  const ChunkNorms& norms = shared.small.norms;
  auto &query_factors = work[0], &key_factors = work[1], &along = work[2];
  // A unit of q^ or k^: from shared memory where all of it is still there, else from the caller's.
  using PassTile = typename Layout::PassTile;
  const auto load = [&](const tile::TokenRows<const T>& rows, const auto* there, const float* down,
                        int row, int column, float(&x)[8]) {
    if constexpr (Layout::kPasses == 1 && C::kTerms == 1) {
      tile::LoadUnit(there + PassTile::Offset(row, column), true, x);
    } else {
      const Index t = span.begin + (row < span.count ? row : 0);
      tile::LoadUnit(rows.At(span.batch, t, head) + column, rows.aligned, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) x[e] *= down[row];
    }
  };
  block.ForEachRow([&](int row, const auto& lanes) {
    float x[8], dx[8], q_along = 0, k_along = 0;  // <q^, dq~>, <k^, dk~>
    for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
      load(q, shared.queries, norms.query_down, row, c, x);
      tile::LoadUnit(total.dq + row * kPitch + c, true, dx);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) q_along += x[e] * dx[e];
      load(k, shared.keys, norms.key_down, row, c, x);
      tile::LoadUnit(total.dk + row * kPitch + c, true, dx);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) k_along += x[e] * dx[e];
    }
    q_along = lanes.Sum(q_along);
    k_along = lanes.Sum(k_along);
    if (lanes.index == 0) {
      along[0][row] = q_along;
      along[1][row] = k_along;
    }
  });
  block.Barrier();
  block.ForEach(kChunkRows, [&](int row) {
    const double q_up = tile::InverseOfPowerOfTwo(norms.query_down[row]);
    const double k_up = tile::InverseOfPowerOfTwo(norms.key_down[row]);
    const double key_norm2 = norms.key_norm2[row];
    const double d_norm2 =
        shared.small.norm2_gradient[row] +
        UnitKeyBackward<typename C::StepSize>(0.0, key_norm2, epsilon,
                                              static_cast<double>(along[1][row]) * k_up, 0.0, 0.0)
            .norm2;
    key_factors[0][row] = static_cast<float>(InverseNorm(key_norm2, epsilon));
    key_factors[1][row] = static_cast<float>(2.0 * d_norm2 * k_up);  // of k^
    double r = 1.0, query_along = 0.0;
    if constexpr (C::StepSize::kNormalizeQuery) {
      r = InverseNorm(norms.query_norm2[row], epsilon);
      query_along = -r * r * r * static_cast<double>(along[0][row]) * q_up * q_up;
    }
    query_factors[0][row] = static_cast<float>(r);
    query_factors[1][row] = static_cast<float>(query_along);  // of q^
  });
  block.Barrier();
  block.ForEachRow([&](int row, const auto& lanes) {
    if (row >= span.count) return;
    const Index t = span.begin + row;
    T* dq_row = dq.At(span.batch, t, head);
    T* dk_row = dk.At(span.batch, t, head);
    float x[8], dx[8];
    const auto combine = [&](const auto& factors) {
      const float of_gradient = factors[0][row], of_row = factors[1][row];
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) x[e] = of_gradient * dx[e] + of_row * x[e];
    };
    for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
      load(q, shared.queries, norms.query_down, row, c, x);
      tile::LoadUnit(total.dq + row * kPitch + c, true, dx);
      combine(query_factors);
      tile::StoreUnit(dq_row + c, dq.aligned, x);
      load(k, shared.keys, norms.key_down, row, c, x);
      tile::LoadUnit(total.dk + row * kPitch + c, true, dx);
      combine(key_factors);
      tile::StoreUnit(dk_row + c, dk.aligned, x);
    }
  });
}

// dg, deta, and what the value head adds to the gradient of |k|^2.
template <class C, class Block, class Arrays, class Shared, class Squares, class Dots>
KLA_TILE_FUNCTION void FinishGates(const Block& block, const Arrays& arrays, Shared& shared,
                                   const Squares& squares, const Dots& dots,
                                   const GradientScalars& s, const ChunkSpan& span,
                                   Index value_head) {
  const auto dot = [&](int which, int i) {
    return dots.dots[which][0][i] + dots.dots[which][1][i];
  };
  float part = 0;
  block.ForEach(kChunkRows, [&](int i) { part += dot(1, i); });
  const float written = block.Reduce(part, shared.small.scratch);
  block.ForEach(kChunkRows, [&](int i) {
    double sum = static_cast<double>(squares.row_sum[0][i]) + s.step[i] * squares.row_sum[1][i];
    for (int w = 0; w < 4; ++w) {
      sum -= squares.column_sum[0][w][i];
      sum -= squares.column_sum[1][w][i];
    }
    sum += s.step[i] * dot(2, i) + dot(0, i) - dot(1, i);
    if (i == kChunkRows - 1) sum += written + s.gamma[i] * shared.small.along;
    shared.small.log_gradient[i] = sum;
  });
  block.Barrier();
  block.ReverseCumulativeSum(shared.small.log_gradient);
  block.Barrier();
  block.ForEach(span.count, [&](int i) {
    const Index t = span.begin + i;
    const double eta_i = static_cast<double>(s.eta[i]);
    const float value_dot = squares.value_dot[i];
    const float d_step = s.value[i] * value_dot + dot(2, i) + squares.row_sum[1][i];
    const auto gradient = UnitKeyBackward<typename C::StepSize>(
        eta_i, shared.small.norms.key_norm2[i], arrays.epsilon, 0.0,
        static_cast<double>(s.step[i] * value_dot), static_cast<double>(d_step));
    shared.small.norm2_gradient[i] += gradient.norm2;
    // Beyond the clamp the decay is 0 whatever g is.
    const bool clamped = s.g[i] <= static_cast<float>(kMinLogDecay);
    arrays.dg[span.batch * arrays.dg_batch + t * arrays.dg_time + value_head] =
        clamped ? 0.0f : static_cast<float>(shared.small.log_gradient[i]);
    arrays.deta[span.batch * arrays.deta_batch + t * arrays.deta_time + value_head] =
        static_cast<float>(gradient.eta);
  });
  block.Barrier();
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_
