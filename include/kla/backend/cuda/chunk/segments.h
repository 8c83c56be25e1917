// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: long sequences with few heads, cut into segments that are walked side by
// side.
//
// A chunk's step is affine in the state, so a segment is too: S_out = M S_in + B, with M [K, K] and
// B [K, V]. The walk itself gives both, B from a state of zero (the first segment's from its
// initial state) and M from the identity with V = 0 (WalkFor::kMap), without products for the
// output. Then every segment's S_in follows from those before it, and all are walked at once:
//   maps      columns of V and of M side by side      chunks / segments steps, 3 of 5 products
//   scan      S_in of segment 2, 3, ...               [K, K] x [K, 64] a segment
//   walks     chunks / segments steps
// The reverse walk's map has the linear part M^T, so M serves both ways. The state is passed on in
// float32; products of the scan have one operand term more than those of the chunks.
//
// H200, bf16, 1x32K: 128/128, 2/8 heads, forward 1.37 ms -> 0.36 in 8 segments (maps 0.12, scan
// 0.05, walks 0.11); 16/32 heads 1.17 -> 1.08 in 4; 96/192, 12 heads, 0.98 -> 0.62 in 7.
#ifndef KLA_BACKEND_CUDA_CHUNK_SEGMENTS_H_
#define KLA_BACKEND_CUDA_CHUNK_SEGMENTS_H_

#include "kla/backend/cuda/chunk/walk.h"

namespace kla::internal::device {

// What the walks of a call are, for the choice of a number of segments.
struct WalkLoad {
  Index chunks;       // of all sequences
  Index longest;      // of the longest one
  Index columns;      // blocks of the walks for each segment of a sequence
  Index map_columns;  // blocks of the maps, so many at a time on a multiprocessor:
  Index maps_side_by_side;
  Index processors;  // of the device
};

// The number of segments: a function of the shapes and of the number of multiprocessors alone, so
// that a card gives the same bits each time. Counts the steps that follow each other: of a walk,
// one block on a multiprocessor; of the maps, three side by side, which take about as long each;
// six for a segment of the scan. Splitting must promise a tenth of the time.
inline Index SegmentCount(const WalkLoad& load) {
  constexpr Index kMost = 32, kShortest = 4;  // segments; chunks of one
  if (load.longest == 0) return 1;
  const auto up = [](Index a, Index b) { return (a + b - 1) / b; };
  const Index sequences = up(load.chunks, load.longest);  // as long as the longest
  const auto steps = [&](Index blocks, Index side_by_side, Index segments) {
    return up(sequences * blocks, side_by_side) * up(load.longest, segments);
  };
  Index best = 1, least = 9 * steps(load.columns, load.processors, 1);
  for (Index n = 2; n <= kMost && n * kShortest <= load.longest; ++n) {
    const Index cost =
        10 * (steps(load.columns * n, load.processors, n) +
              steps(load.map_columns * (n - 1), load.maps_side_by_side * load.processors, n) +
              6 * (n - 2) + 8);
    if (cost < least) {
      best = n;
      least = cost;
    }
  }
  return best;
}

// A block for each sequence, value head and 64 columns of V, and as many again for the way back:
//   entering[s + 1] = B_s + M_s entering[s],        s = 1, 2, ..., n - 2     (B_s lies there)
//   leaving[s - 1]  = B'_s + M_s^T leaving[s],      s = n - 2, ..., 2, 1
// all transposed, [64, K].
template <class C>
struct ScanSegments {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1;
  static constexpr int kKeyDim = C::kKeyDim;
  static constexpr int kTerms = C::kTerms == 1 ? 2 : 3;
  // Columns of M at a time.
  static constexpr int kPart = kKeyDim == 64 || kKeyDim == 128 ? 64 : kKeyDim % 32 == 0 ? 32 : 16;
  using StateTile = tile::Operand<bfloat16, kTerms, kChunkRows, kKeyDim>;
  using MapTile = tile::Operand<bfloat16, kTerms, kPart, kKeyDim>;
  struct Shared {
    alignas(1024) bfloat16 state[StateTile::kSize];
    alignas(1024) bfloat16 map[MapTile::kSize];
  };

  ChunkMap map;
  HeadMap heads;
  SegmentMap segments;
  Index walks;  // sequences x value heads x tiles of V
  const float* maps;
  float *entering, *leaving;

  template <class Block>
  KLA_TILE_FUNCTION void operator()(const Block& block, Shared& shared) const {
    const bool back = block.index() >= walks;
    const Index walk = block.index() - (back ? walks : 0);
    const Index column = walk / C::kValueTiles, tile = walk % C::kValueTiles;
    constexpr Index kSlot = kChunkRows * kKeyDim;
    float* const states = back ? leaving : entering;
    const auto slot = [&](Index segment) {
      return states + ((column * segments.count + segment) * C::kValueTiles + tile) * kSlot;
    };
    for (Index i = 1; i + 1 < segments.count; ++i) {
      const Index segment = back ? segments.count - 1 - i : i;
      float* const next = slot(back ? segment - 1 : segment + 1);
      const WalkTask task =
          segments.template TaskOf<1>(map, heads, column * segments.count + segment);
      if (task.first == task.end) {  // nothing to round
        block.Copy(next, static_cast<const float*>(slot(segment)), kSlot * 4);
      } else {
        const float* linear = maps + (column * segments.count + segment) * C::kKeyTiles * kSlot;
        LoadTerms(block, slot(segment), StateTile{shared.state});
        if (back) {
          StepBack(block, shared, linear, next);
        } else {
          Step(block, shared, linear, next);
        }
      }
      block.Barrier();
    }
  }

 private:
  // Rows of K floats from the workspace, in terms.
  template <class Block, class Tile>
  KLA_TILE_FUNCTION static void LoadTerms(const Block& block, const float* from, const Tile& to) {
    constexpr int kUnits = kKeyDim / 8;
    block.template ForEach<Tile::kHeight * kUnits>([&](int i) {
      const int row = i / kUnits, column = i % kUnits * 8;
      float x[8];
      tile::LoadUnit(from + row * kKeyDim + column, true, x);
      tile::StoreTerms(to, row, column, x);
    });
  }

  // S^T M^T by rows of M^T.
  template <class Block>
  KLA_TILE_FUNCTION void Step(const Block& block, Shared& shared, const float* linear,
                              float* next) const {
    tile::RegisterTile<kKeyDim> sum;
    LoadSlot<kKeyDim>(next, sum);
    for (int part = 0; part < kKeyDim; part += kPart) {
      LoadTerms(block, linear + part * kKeyDim, MapTile{shared.map});
      block.Barrier();
      tile::Multiply(sum, tile::LoadOperand<kPart>(StateTile{shared.state}, part),
                     MapTile{shared.map});
      block.Barrier();
    }
    StoreSlot<kKeyDim>(sum, next);
  }
  // dS^T M by columns of M.
  template <class Block>
  KLA_TILE_FUNCTION void StepBack(const Block& block, Shared& shared, const float* linear,
                                  float* next) const {
    for (int part = 0; part < kKeyDim; part += kPart) {
      tile::RegisterTile<kPart> sum;
      LoadSlot<kKeyDim>(next + part, sum);
      LoadTerms(block, linear + part * kKeyDim, MapTile{shared.map});
      block.Barrier();
      for (int k = 0; k < kKeyDim; k += kPart) {
        tile::MultiplyTransposed(sum, tile::LoadOperand<kPart>(StateTile{shared.state}, k),
                                 MapTile{shared.map}, 0, k);
      }
      block.Barrier();
      StoreSlot<kKeyDim>(sum, next + part);
    }
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_SEGMENTS_H_
