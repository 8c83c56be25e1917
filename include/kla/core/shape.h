// SPDX-License-Identifier: Apache-2.0
// core: what a kernel is compiled for: the two dimensions of a head and the chunk length.
#ifndef KLA_CORE_SHAPE_H_
#define KLA_CORE_SHAPE_H_

#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla {

// Chunk length left to the backend, which has one measured for each shape.
inline constexpr Index kAutoChunk = 0;

// Head dimensions above this are an error: no kernel is tested beyond it.
inline constexpr Index kMaxHeadDim = 1024;

// The dimensions of one head, known at compile time or, with kDynamic, at run time only.
//   Shape<96, 192>        the paper's models
//   Shape<128, 128, 32>   with the chunk length chosen by the user
template <Index kKey, Index kValue, Index kChunkLength = kAutoChunk>
struct Shape {
  static_assert(
      kKey == kDynamic || (kKey > 0 && kKey <= kMaxHeadDim),
      "kla: kKeyDim must be between 1 and 1024 (no kernel is tested beyond), or kDynamic");
  static_assert(
      kValue == kDynamic || (kValue > 0 && kValue <= kMaxHeadDim),
      "kla: kValueDim must be between 1 and 1024 (no kernel is tested beyond), or kDynamic");
  static_assert(kChunkLength == kAutoChunk || kChunkLength % 16 == 0,
                "kla: kChunk must be a multiple of 16 (matrix tile); use 16, 32 or 64");
  static_assert(
      kChunkLength >= 0 && kChunkLength <= 64,
      "kla: kChunk must be at most 64 (a chunk's matrices stay in cache); use 16, 32 or 64");
  static_assert(
      kChunkLength != 48,
      "kla: kChunk must be a power of two (blocks are merged in pairs); use 16, 32 or 64");
  static constexpr Index kKeyDim = kKey;
  static constexpr Index kValueDim = kValue;
  static constexpr Index kChunk = kChunkLength;
};

// Both dimensions taken from the views at run time. Same results as a static shape.
using DynamicShape = Shape<kDynamic, kDynamic>;

// The chunk length of (Backend, Shape, T) where the user leaves it open. Backends specialise it.
template <class Backend, class Shape, class T>
inline constexpr Index kDefaultChunk = 64;

// The chunk length that ChunkForward and ChunkBackward use: tokens between two stored states.
template <class Backend, class Shape, class T>
inline constexpr Index kChunkLength =
    Shape::kChunk == kAutoChunk ? kDefaultChunk<Backend, Shape, T> : Shape::kChunk;

}  // namespace kla

#endif  // KLA_CORE_SHAPE_H_
