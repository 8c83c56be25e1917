// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: what the chunk kernels share: their configuration, the map from chunks to
// tokens, and the arrays that one kernel leaves in the workspace for the next. Host and device.
#ifndef KLA_BACKEND_CUDA_CHUNK_TYPES_H_
#define KLA_BACKEND_CUDA_CHUNK_TYPES_H_

#include <cstdint>

#include "kla/backend/cuda/block/index_list.h"
#include "kla/backend/cuda/tile/tile.h"
#include "kla/core/heads.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"

namespace kla::internal::device {

inline constexpr int kChunkRows = tile::kRows;

// Shared memory of a block, in bytes: compute capability 9.0 and 10.0; 8.0 and 8.7; the others from
// 8.0 on.
inline constexpr int kSharedOf90 = 227 * 1024, kSharedOf80 = 163 * 1024, kSharedOf86 = 99 * 1024;

template <class StepSizeT, class Element, class StateElement, class HeadShape, int kTermCount>
struct ChunkConfig {
  static_assert(HeadShape::kKeyDim != kDynamic && HeadShape::kValueDim != kDynamic,
                "kla: Cuda kernels know their head sizes when they are compiled; use Dispatch "
                "(core/dispatch.h) to turn run-time sizes into a Shape");
  static_assert(HeadShape::kKeyDim % 16 == 0 && HeadShape::kKeyDim <= 256 &&
                    HeadShape::kValueDim % 16 == 0 && HeadShape::kValueDim <= 256,
                "kla: Cuda takes K and V in multiples of 16 up to 256 (matrix tiles)");
  static_assert(HeadShape::kChunk == kAutoChunk || HeadShape::kChunk == kChunkRows,
                "kla: Cuda's chunk length is 64 (rows of a matrix tile); leave kChunk out");
  using StepSize = StepSizeT;
  // For the kernels that see no step size, so that all step sizes share them.
  using Walk = ChunkConfig<void, Element, StateElement, HeadShape, kTermCount>;
  using T = Element;
  using State = StateElement;
  using E = tile::OperandElement<T>;
  static constexpr int kTerms = kTermCount;
  static constexpr int kKeyDim = static_cast<int>(HeadShape::kKeyDim);
  static constexpr int kValueDim = static_cast<int>(HeadShape::kValueDim);
  // Of 64 columns, the last one perhaps partial.
  static constexpr int kKeyTiles = (kKeyDim + 63) / 64, kValueTiles = (kValueDim + 63) / 64;

  using KeyTile = tile::Operand<E, kTerms, kChunkRows, kKeyDim>;        // [C, K] or [64 of V, K]
  using SquareTile = tile::Operand<E, kTerms, kChunkRows, kChunkRows>;  // [C, C] or [64 of V, C]
};

// a / b of numbers below 2^31, such as those of thread blocks: a division of 64 bits is a hundred
// instructions.
KLA_HOST_DEVICE inline Index Quotient(Index a, Index b) {
  return static_cast<Index>(static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b));
}

// Where chunk c lies: tokens [begin, begin + count) of batch row `batch`.
struct ChunkSpan {
  Index batch, begin;
  int count;
};

// The chunks of all sequences, one after the other.
struct ChunkMap {
  const Index* offsets = nullptr;      // [N + 1] cu_seqlens in device memory; null: equal lengths
  const Index* first_chunk = nullptr;  // [N + 1]
  Index sequences = 0, tokens = 0, chunks_per_sequence = 0, chunks = 0;

  KLA_HOST_DEVICE Index FirstChunk(Index n) const {
    return first_chunk != nullptr ? first_chunk[n] : n * chunks_per_sequence;
  }
  KLA_HOST_DEVICE Index SequenceOf(Index chunk) const {
    if (first_chunk == nullptr) return Quotient(chunk, chunks_per_sequence);
    return SearchStarts(first_chunk, sequences, chunk);
  }
  // Chunk `chunk`, which belongs to sequence n.
  KLA_HOST_DEVICE ChunkSpan SpanOf(Index n, Index chunk) const {
    const Index first = offsets != nullptr ? offsets[n] : 0;
    const Index end = offsets != nullptr ? offsets[n + 1] : tokens;
    const Index begin = first + (chunk - FirstChunk(n)) * kChunkRows;
    const Index left = end - begin;
    return {offsets != nullptr ? 0 : n, begin,
            static_cast<int>(left < kChunkRows ? left : kChunkRows)};
  }
};

struct GateRows {
  const float* data;
  Index batch, time;
  KLA_HOST_DEVICE const float* Row(Index b, Index t, Index head) const {
    return data + b * batch + t * time + head;
  }
};

struct QuotientOf {
  KLA_HOST_DEVICE Index operator()(Index a, Index b) const { return Quotient(a, b); }
};

// The heads of a problem and how they are grouped.
struct HeadMap : HeadGroups<Index, QuotientOf> {
  Index value_heads;
  KLA_HOST_DEVICE Index GroupSize() const { return group_size; }
};

// Of one chunk and key head: the rows lie in the tiles as k^ = down k and q^ = down q, scaled by
// powers of two (exact), whatever their length.
struct ChunkNorms {
  double key_norm2[kChunkRows], query_norm2[kChunkRows];  // |k|^2, |q|^2
  float key_down[kChunkRows], query_down[kChunkRows];
};

// Of one chunk and value head, in the notation of math/chunk_form.h; rows beyond the last token
// carry b = 0 and no decay. k~ = key k^, q~ = query q^ (normalised where the step size asks).
struct WalkScalars {
  float recall[kChunkRows];  // b gamma key   of K^ S in b E
  float given[kChunkRows];   // b r_v         of V in b E
  float out[kChunkRows];     // s gamma query of Q^ S in O
  float write[kChunkRows];   // w key         of K^ in S+
  float gamma[kChunkRows];   // exp(G); the last one is gamma_C
};
struct GradientScalars {
  float step[kChunkRows], key[kChunkRows], query[kChunkRows], value[kChunkRows];  // b, r, r_v
  float to_end[kChunkRows], gamma[kChunkRows];                                    // w, exp(G)
  float log_high[kChunkRows], log_low[kChunkRows];  // G / ln 2 as the sum of two floats
  float g[kChunkRows], eta[kChunkRows];             // as given
};
struct ChunkScalars : GradientScalars {
  WalkScalars walk;
};

// D_ij = exp(G_i - G_j), i >= j; 1 above the diagonal, where it is of no use and might overflow.
// The high parts cancel exactly where the difference is small.
template <class Scalars>
KLA_TILE_FUNCTION float DecayBetweenRows(const Scalars& s, int i, int j) {
  const float log = (s.log_high[i] - s.log_high[j]) + (s.log_low[i] - s.log_low[j]);
  return tile::Exp2(i >= j ? log : 0.0f);
}

// What PrepareChunks writes: per chunk and key head, and per chunk and value head.
template <class E>
struct Prepared {
  E* keys;            // KeyTile   k^   [chunks, H]
  E* queries;         // KeyTile   q^
  ChunkNorms* norms;  //
  E* inverse;         // SquareTile T = (I + A)^-1   [chunks, HV]
  E* scores;          // SquareTile P
  E* overlaps;        // SquareTile K~ K~^T * D, strictly lower; for the backward pass, else null
  ChunkScalars* scalars;
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_TYPES_H_
