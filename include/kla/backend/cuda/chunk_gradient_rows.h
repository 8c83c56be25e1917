// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the way back from unit-key form: dq and dk from the sums over value heads.
#ifndef KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_
#define KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_

#include "kla/backend/cuda/chunk_gradient_layout.h"
#include "kla/math/unit_key.h"

namespace kla::device {

// dq = r dq~ - r^3 <q, dq~> q (normalised q), dk = r dk~ + 2 (d |k|^2) k, in terms of the rows
// scaled to near 1.
template <class C, class Block, class Arrays, class Shared, class Sums>
KLA_TILE_FUNCTION void FinishRows(const Block& block, const Arrays& arrays, const Shared& shared,
                                  const Sums& total, const ChunkSpan& span, Index head) {
  using T = typename C::T;
  constexpr int kPitch = GradientLayout<C>::kPitch, kKeyDim = C::kKeyDim;
  const double epsilon = arrays.epsilon;
  const auto &q = arrays.q, &k = arrays.k;
  const auto &dq = arrays.dq, &dk = arrays.dk;
  // A unit of q^ or k^: from shared memory where all of it is still there, else from the caller's.
  using PassTile = typename GradientLayout<C>::PassTile;
  const auto load = [&](const T* from, const auto* there, bool aligned, float down, int row,
                        int column, float(&x)[8]) {
    if constexpr (GradientLayout<C>::kPasses == 1 && C::kTerms == 1) {
      tile::LoadUnit(there + PassTile::Offset(row, column), true, x);
    } else {
      tile::LoadUnit(from + column, aligned, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) x[e] *= down;
    }
  };
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
      load(q_row, shared.queries, q.aligned, q_down, row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) q_along += x[e] * d_query[c + e];
      load(k_row, shared.keys, k.aligned, k_down, row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) k_along += x[e] * d_key[c + e];
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
      load(q_row, shared.queries, q.aligned, q_down, row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) {
        x[e] = query * d_query[c + e] + query_part * x[e];
      }
      tile::StoreUnit(dq_row + c, dq.aligned, x);
      load(k_row, shared.keys, k.aligned, k_down, row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) x[e] = key * d_key[c + e] + key_part * x[e];
      tile::StoreUnit(dk_row + c, dk.aligned, x);
    }
  });
}

}  // namespace kla::device

#endif  // KLA_BACKEND_CUDA_CHUNK_GRADIENT_ROWS_H_
