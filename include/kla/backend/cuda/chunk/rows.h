// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: what follows from the rows and gates of one chunk alone: lengths of rows,
// scalars, and the lower squares of the chunk form. Of PrepareChunks and of the fused forward pass.
#ifndef KLA_BACKEND_CUDA_CHUNK_ROWS_H_
#define KLA_BACKEND_CUDA_CHUNK_ROWS_H_

#include "kla/backend/cuda/chunk/types.h"
#include "kla/math/decay.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// Rows of one head of a chunk into a tile, zeros beyond the last token, by cp.async where they
// begin on 16 bytes.
template <bool kUnrolled = true, class T, class Block, class Tile>
KLA_TILE_FUNCTION void LoadHeadRows(const Block& block, const tile::TokenRows<const T>& rows,
                                    const ChunkSpan& span, Index head, const Tile& to) {
  constexpr int kUnits = Tile::kWidth / 8;
  const T* first = rows.At(span.batch, span.begin, head);
  const auto copy = [&](int i) {
    const int row = i / kUnits, column = i % kUnits * 8;
    const T* from = first + row * rows.time + column;
    if (row < span.count && rows.aligned) {
      if constexpr (std::is_same_v<T, typename Tile::Element>) {
        block.CopyUnitAsync(to.data + to.Offset(row, column), from);
        return;
      }
    }
    float x[8] = {};
    if (row < span.count) tile::LoadUnit(from, false, x);
    tile::StoreTerms(to, row, column, x);
  };
  if constexpr (kUnrolled) {
    block.template ForEach<kChunkRows * kUnits>(copy);
  } else {
    block.ForEach(kChunkRows * kUnits, copy);
  }
}

template <class Tile>
KLA_TILE_FUNCTION void StoreScaled(const Tile& to, int row, int column, float factor,
                                   float (&x)[8]) {
  KLA_TILE_UNROLL
  for (int e = 0; e < 8; ++e) x[e] *= factor;
  tile::StoreTerms(to, row, column, x);
}

// Whether there are tiles, all of bfloat16.
template <class... Tiles>
inline constexpr bool kAllBfloat16 = false;
template <class Tile, class... Tiles>
inline constexpr bool kAllBfloat16<Tile, Tiles...> =
    std::is_same_v<typename Tile::Element, bfloat16> &&
    (sizeof...(Tiles) == 0 || kAllBfloat16<Tiles...>);

// |x|^2 of each row and the power of two that brings it near 1; given tiles, also scales the rows.
// In bfloat16, whose range is float's, rows of lengths from 2^-8 to 2^8 are near enough as they
// are.
template <int kKeyDim, class Block, class Load, class... To>
KLA_TILE_FUNCTION void MeasureRows(const Block& block, const Load& load, double* norm2, float* down,
                                   const To&... to) {
  block.ForEachRow([&](int row, const auto& lanes) {
    float x[8], largest = 0, sum = 0;
    if constexpr (kAllBfloat16<To...>) {
      KLA_TILE_UNROLL
      for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
        load(row, c, x);
        KLA_TILE_UNROLL
        for (int e = 0; e < 8; ++e) sum += x[e] * x[e];
      }
      sum = lanes.Sum(sum);
      if (!lanes.Any(!(sum >= 0x1p-16f && sum <= 0x1p16f))) {
        if (lanes.index == 0) {
          norm2[row] = static_cast<double>(sum);
          down[row] = 1.0f;
        }
        return;
      }
      sum = 0;
    }
    KLA_TILE_UNROLL
    for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
      load(row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) largest = fmaxf(largest, fabsf(x[e]));
    }
    const float factor = tile::PowerOfTwoNear1(lanes.Max(largest));
    KLA_TILE_UNROLL
    for (int c = lanes.index * 8; c < kKeyDim; c += lanes.kCount * 8) {
      load(row, c, x);
      KLA_TILE_UNROLL
      for (int e = 0; e < 8; ++e) {
        const float scaled = x[e] * factor;
        sum += scaled * scaled;
      }
      (StoreScaled(to, row, c, factor, x), ...);
    }
    sum = lanes.Sum(sum);
    if (lanes.index == 0) {
      const double up = tile::InverseOfPowerOfTwo(factor);
      norm2[row] = static_cast<double>(sum) * up * up;
      down[row] = factor;
    }
  });
}

// g / ln 2; rows beyond the last token do not decay.
KLA_TILE_FUNCTION double Log2Decay(float g, bool inside) {
  constexpr double kPerLog2 = 1.44269504088896340736;  // 1 / ln 2
  return ClampLogDecay(inside ? static_cast<double>(g) : 0.0) * kPerLog2;
}

struct RowFactors {
  float value, to_end, gamma;  // r_v, w, exp(G)
};

// The scalars of row i: what the squares need to `s`, what the walk needs to `walk`. log_decay
// [C]: G / ln 2.
template <class StepSize, class Scalars>
KLA_TILE_FUNCTION RowFactors SetScalars(const ChunkNorms& norms, int i, bool inside, float eta,
                                        const double* log_decay, double scale, double epsilon,
                                        Scalars& s, WalkScalars& walk) {
  const auto unit = UnitKey<StepSize>(static_cast<double>(eta), norms.key_norm2[i], epsilon);
  const double query = StepSize::kNormalizeQuery ? InverseNorm(norms.query_norm2[i], epsilon) : 1.0;
  const double log = log_decay[i];
  const float b = inside ? static_cast<float>(unit.step) : 0.0f;
  s.step[i] = b;
  const double key_up = tile::InverseOfPowerOfTwo(norms.key_down[i]);
  // A zero key stays zero; r = eps^(-1/2) would only carry float16 out of its range.
  s.key[i] = norms.key_norm2[i] > 0.0 ? static_cast<float>(unit.key * key_up) : 0.0f;
  s.query[i] = static_cast<float>(query * tile::InverseOfPowerOfTwo(norms.query_down[i]));
  s.log_high[i] = static_cast<float>(log);
  s.log_low[i] = static_cast<float>(log - s.log_high[i]);
  const float gamma = tile::Exp2(s.log_high[i]) * tile::Exp2(s.log_low[i]);
  const float to_end = tile::Exp2(static_cast<float>(log_decay[kChunkRows - 1] - log));
  const float value = static_cast<float>(unit.value);
  walk.recall[i] = b * gamma * s.key[i];
  walk.given[i] = b * value;
  walk.out[i] = static_cast<float>(scale) * gamma * s.query[i];
  walk.write[i] = to_end * s.key[i];
  walk.gamma[i] = gamma;
  return {value, to_end, gamma};
}

// From K^ K^T and Q^ K^T: a = StrictLower(K~ K~^T * D), p = s Lower(Q~ K~^T * D).
template <class Scalars>
KLA_TILE_FUNCTION void LowerSquares(const Scalars& s, float scale,
                                    tile::RegisterTile<kChunkRows>& a,
                                    tile::RegisterTile<kChunkRows>& p) {
  // Of rows in registers, of columns read as they come, not all of them ahead.
  tile::RowValues high, low, key, query;
  tile::ForEachElement(
      [&](const tile::Place& at, float&) {
        high.at[at.row_slot] = s.log_high[at.row];
        low.at[at.row_slot] = s.log_low[at.row];
        key.at[at.row_slot] = s.key[at.row];
        query.at[at.row_slot] = s.query[at.row] * scale;
      },
      a);
  tile::ForEachLowerElement(
      [&](const tile::Place& at, float& a_ij, float& p_ij) {
        const int i = at.row, j = at.column, slot = at.row_slot;
        if (slot == 0) tile::KeepOrder();
        const float log = (high.at[slot] - s.log_high[j]) + (low.at[slot] - s.log_low[j]);
        const float decay = tile::Exp2(i >= j ? log : 0.0f) * s.key[j];
        const float a_inside = a_ij * (decay * key.at[slot]);
        const float p_inside = p_ij * (decay * query.at[slot]);
        a_ij = i > j ? a_inside : 0.0f;
        p_ij = i >= j ? p_inside : 0.0f;
      },
      a, p);
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_ROWS_H_
