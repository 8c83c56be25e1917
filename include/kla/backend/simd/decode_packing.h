// SPDX-License-Identifier: Apache-2.0
// backend/simd: how DecodeStep keeps the state of one head between calls.
//
// The state [K, V] is stored as a scale, a body and the last token's update, not yet written:
//   S = A (c X + u d^T)        A in [1/2, 1], c a power of two, X [K, V], u [K], d [V]
// - The next token reads S^T k and S^T q anyway; it writes c X + u d^T as it goes. So a token reads
//   and writes the body once, the least that a state in memory costs.
// - The decay a = exp(g) multiplies A alone. When A falls below 1/2 its power of two moves to c,
//   exactly. X is never multiplied by a number near 1, which storage in 16 bits would round away:
//   in bfloat16 0.999 x is x, and what later keys leave alone would never be forgotten. (Where
//   keys reach every row, their updates dither the rounding and either way is as accurate.)
//   The body exceeds the state at most twofold.
//
// One record a head, in this order, each part 64-byte aligned:
//   A, c   double          u   B [row_pitch]     d   B [columns]
//   X      State, tiles of [rows, width], width the multiple of the lanes below
// B = Accumulator<State>; rows, row_pitch and columns are K, K and V padded. Zero bytes are the
// state 0 (A = 0), and what pads X, u and d stays 0.
#ifndef KLA_BACKEND_SIMD_DECODE_PACKING_H_
#define KLA_BACKEND_SIMD_DECODE_PACKING_H_

#include <algorithm>
#include <cstring>

#include "kla/backend/simd/vector_math.h"
#include "kla/op/decode_state.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Sizes of a record, in elements of B or State unless they say bytes.
template <class State>
class DecodeLayout {
 public:
  using B = Accumulator<State>;

  // Tiles are as wide as the accumulators of one pass, S^T k and S^T q for up to four vectors, and
  // narrower where K rows of that width would not stay in a first-level cache between tokens.
  static constexpr Index kMaxTileVectors = 4;
  static constexpr Index kMaxTileBytes = 32768;
  // Rows are padded so that a narrow pass may sum them in up to four interleaved parts.
  static constexpr Index kRowMultiple = 4;
  // No tile has more elements, whatever the dimensions.
  static constexpr Index kMaxTileSize =
      std::max<Index>(kMaxTileBytes / static_cast<Index>(sizeof(B)), kMaxHeadDim* kLanes<float>);

  constexpr DecodeLayout(Index key_dim, Index value_dim)
      : rows_(RoundUp(key_dim, kRowMultiple)),
        vectors_(RoundUp(value_dim, kLanes<float>) / kLanes<float>),
        tiles_((vectors_ + MaxVectors() - 1) / MaxVectors()),
        narrow_(vectors_ / tiles_),
        wider_(vectors_ % tiles_) {}

  constexpr Index rows() const { return rows_; }
  constexpr Index row_pitch() const { return RoundUp(rows_, kLanes<float>); }
  constexpr Index columns() const { return vectors_ * kLanes<float>; }

  // Tiles are of equal width, or differ by one vector.
  constexpr Index tiles() const { return tiles_; }
  constexpr Index TileBegin(Index tile) const {
    return (tile * narrow_ + std::min(tile, wider_)) * kLanes<float>;
  }
  constexpr Index TileWidth(Index tile) const {
    return (narrow_ + (tile < wider_ ? 1 : 0)) * kLanes<float>;
  }

  constexpr Index UpdateKeyBytes() const { return 64; }
  constexpr Index UpdateValueBytes() const {
    return UpdateKeyBytes() + Padded(row_pitch(), sizeof(B));
  }
  constexpr Index TileBytes(Index tile) const {
    return UpdateValueBytes() + Padded(columns(), sizeof(B)) +
           rows_ * TileBegin(tile) * static_cast<Index>(sizeof(State));
  }
  constexpr Index Bytes() const { return RoundUp(TileBytes(tiles_), 64); }

 private:
  constexpr Index MaxVectors() const {
    const Index row_bytes = rows_ * kLanes<float> * static_cast<Index>(sizeof(B));
    return std::clamp<Index>(kMaxTileBytes / row_bytes, rows_ > 512 ? 1 : 2, kMaxTileVectors);
  }
  static constexpr Index Padded(Index count, std::size_t size) {
    return RoundUp(count * static_cast<Index>(size), 64);
  }

  Index rows_, vectors_, tiles_;
  Index narrow_, wider_;  // vectors of a tile, and how many tiles have one more
};

// A and c, at the start of a record.
struct DecodeScale {
  double scale;    // A
  double rescale;  // c
};

// The same bytes read and written as what they hold.
template <class To, class From>
HWY_INLINE void CopyBytes(const From* from, Index bytes, To* to) {
  std::memcpy(static_cast<void*>(to), from, static_cast<std::size_t>(bytes));
}

template <class State>
HWY_INLINE auto* AtByte(State* record, Index bytes) {
  using Byte = std::conditional_t<std::is_const_v<State>, const char, char>;
  return reinterpret_cast<State*>(reinterpret_cast<Byte*>(record) + bytes);
}

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class Shape, class State>
struct StatePacking<Simd, Shape, State> {
  using Layout = HWY_NAMESPACE::DecodeLayout<State>;
  using B = Accumulator<State>;

  static Index Size(Index key_dim, Index value_dim) {
    return Layout(key_dim, value_dim).Bytes() / static_cast<Index>(sizeof(State));
  }

  // A = c = 1, X = S, no update.
  template <class U>
  static void Load(const U* given, Index key_stride, Index value_stride, Index key_dim,
                   Index value_dim, State* record) {
    const Layout layout(key_dim, value_dim);
    std::memset(static_cast<void*>(record), 0, static_cast<std::size_t>(layout.Bytes()));
    const HWY_NAMESPACE::DecodeScale one{1.0, 1.0};
    HWY_NAMESPACE::CopyBytes(&one, sizeof(one), record);
    for (Index tile = 0; tile < layout.tiles(); ++tile) {
      State* body = HWY_NAMESPACE::AtByte(record, layout.TileBytes(tile));
      const Index begin = layout.TileBegin(tile), width = layout.TileWidth(tile);
      for (Index i = 0; i < key_dim; ++i) {
        for (Index j = 0; j < std::min(width, value_dim - begin); ++j) {
          body[i * width + j] =
              internal::ConvertElement<State>(given[i * key_stride + (begin + j) * value_stride]);
        }
      }
    }
  }

  // S = A (c X + u d^T), in double and rounded once.
  template <class U>
  static void Store(const State* record, Index key_dim, Index value_dim, U* given, Index key_stride,
                    Index value_stride) {
    const Layout layout(key_dim, value_dim);
    HWY_NAMESPACE::DecodeScale scale;
    HWY_NAMESPACE::CopyBytes(record, sizeof(scale), &scale);
    const auto element = [&](Index bytes, Index at) {
      B value;
      HWY_NAMESPACE::CopyBytes(
          HWY_NAMESPACE::AtByte(record, bytes + at * static_cast<Index>(sizeof(B))), sizeof(B),
          &value);
      return static_cast<double>(value);
    };
    for (Index tile = 0; tile < layout.tiles(); ++tile) {
      const State* body = HWY_NAMESPACE::AtByte(record, layout.TileBytes(tile));
      const Index begin = layout.TileBegin(tile), width = layout.TileWidth(tile);
      for (Index i = 0; i < key_dim; ++i) {
        const double u = element(layout.UpdateKeyBytes(), i);
        for (Index j = 0; j < std::min(width, value_dim - begin); ++j) {
          const double x = static_cast<double>(static_cast<B>(body[i * width + j]));
          const double d = element(layout.UpdateValueBytes(), begin + j);
          given[i * key_stride + (begin + j) * value_stride] =
              internal::ConvertElement<U>(scale.scale * (scale.rescale * x + u * d));
        }
      }
    }
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_DECODE_PACKING_H_
