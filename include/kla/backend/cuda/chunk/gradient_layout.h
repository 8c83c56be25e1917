// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: what a block of ChunkGradients keeps in shared memory.
#ifndef KLA_BACKEND_CUDA_CHUNK_GRADIENT_LAYOUT_H_
#define KLA_BACKEND_CUDA_CHUNK_GRADIENT_LAYOUT_H_

#include <type_traits>

#include "kla/backend/cuda/chunk/types.h"

namespace kla::internal::device {

// Columns of K in one pass over V; panels of V in flight; whether dq~ and dk~ are summed in shared
// memory or in the workspace.
template <int kPassColumns, int kStageCount, bool kSharedSums>
struct GradientRoom {
  static constexpr int kPass = kPassColumns, kStages = kStageCount;
  static constexpr bool kSumsInShared = kSharedSums;
};

template <class C, class Room>
struct GradientLayout {
  using E = typename C::E;
  using Square = typename C::SquareTile;
  static constexpr int kTerms = C::kTerms, kKeyDim = C::kKeyDim;
  static constexpr int kPass = Room::kPass;  // of which a group takes kPart columns
  static constexpr int kPart = kPass % 32 == 0 ? kPass / 2 : kPass;
  static constexpr int kPasses = (kKeyDim + kPass - 1) / kPass;
  using PassTile = tile::Operand<E, kTerms, kChunkRows, kPass>;

  struct Panels {  // of 64 columns of V
    alignas(1024) E d_o[Square::kSize];
    alignas(1024) E z[Square::kSize];
    alignas(1024) E pseudo[Square::kSize];
    alignas(1024) E states[PassTile::kSize];
    alignas(1024) E d_states[PassTile::kSize];
  };
  struct Dots {
    float dots[3][2][kChunkRows];  // <I_q, Q~>, <F, K~>, <R, K~> by group
  };
  struct NoDots {};
  struct Squares : std::conditional_t<kPasses == 1, Dots, NoDots> {
    alignas(1024) E x_keys[Square::kSize];  // X diag(key)
    alignas(1024) E x_rows[Square::kSize];  // diag(query) X
    alignas(1024) E m_keys[Square::kSize];  // M diag(key)
    alignas(1024) E m_rows[Square::kSize];  // diag(b key) M
    float value_dot[kChunkRows];            // <Z, V>
    float row_sum[2][kChunkRows];           // of Y * P and of dA * B
    float column_sum[2][4][kChunkRows];     // of Y * P and of dA * b B
  };
  static constexpr int kPitch = kKeyDim + 4;
  struct Sums {  // dq~ and dk~ over the value heads
    alignas(16) float dq[kChunkRows * kPitch];
    alignas(16) float dk[kChunkRows * kPitch];
  };
  // The squares lie where the last panels of a value head were.
  union Stage {
    Panels panels;
    Squares squares;
  };
  // More than one pass adds to the dots, and overwrites the squares in between.
  struct Small : std::conditional_t<kPasses == 1, NoDots, Dots> {
    alignas(16) GradientScalars scalars[2];  // of this value head and the next
    ChunkNorms norms;
    double log_gradient[kChunkRows], norm2_gradient[kChunkRows];
    float along;  // <S, dS+>
    float scratch[32];
    tile::Arrival arrivals[Room::kStages];
  };
  template <int kStageCount>
  struct Tiles {
    static constexpr int kStages = kStageCount;
    alignas(1024) E keys[PassTile::kSize];
    alignas(1024) E queries[PassTile::kSize];
    alignas(1024) E values[Square::kSize];  // of the panels in work
    Stage stages[kStages];
  };
  struct NoSums {};
  static constexpr bool kSumsInShared = Room::kSumsInShared;
  struct Shared : Tiles<Room::kStages> {
    std::conditional_t<kSumsInShared, Sums, NoSums> sums;
    Small small;
  };

  // The columns of one pass of a tile with all of K, and how many bytes they are.
  KLA_TILE_FUNCTION static int ColumnBytes(int column) {
    const int width = kKeyDim - column < kPass ? kKeyDim - column : kPass;
    return kTerms * width * kChunkRows * 2;
  }
  template <class Block>
  KLA_TILE_FUNCTION static void CopyColumns(const Block& block, tile::Arrival& arrival, E* to,
                                            const E* from, int column) {
    if constexpr (kPasses == 1) {
      block.CopyBulk(arrival, to, from, PassTile::kBytes);
    } else {
      KLA_TILE_UNROLL
      for (int t = 0; t < kTerms; ++t) {
        block.CopyBulk(arrival, to + t * PassTile::kTermSize,
                       from + t * C::KeyTile::kTermSize + column * kChunkRows,
                       ColumnBytes(column) / kTerms);
      }
    }
  }
};

// The roomiest that fits in `kLimit` bytes: passes as wide as they can be, then sums in shared
// memory, then two panels of V.
template <class C, int kLimit>
class GradientRoomFor {
  template <class Room>
  static constexpr bool kFits = sizeof(typename GradientLayout<C, Room>::Shared) <= kLimit;
  template <int kPass, bool kSums>
  using Deep = std::conditional_t<kFits<GradientRoom<kPass, 2, kSums>>,
                                  GradientRoom<kPass, 2, kSums>, GradientRoom<kPass, 1, kSums>>;
  template <int kPass>
  static constexpr auto OfPass() {
    if constexpr (kFits<GradientRoom<kPass, 1, true>>) {
      return Deep<kPass, true>{};
    } else if constexpr (kFits<GradientRoom<kPass, 1, false>> || kPass == kPanel) {
      return Deep<kPass, false>{};
    } else {
      return OfPass < kPass / 2 % kPanel == 0 ? kPass / 2 : kPanel > ();
    }
  }
  static constexpr int kPanel = C::KeyTile::kPanel;  // columns that lie together
  static constexpr int kKeyDim = C::kKeyDim;
  // Without the products of sm_90, which read their right factor from shared memory, half as many
  // columns leave the registers that such factors take.
  static constexpr int kMost = kLimit < kSharedOf90 && kKeyDim % 64 == 0 ? 64 : 128;
  static constexpr int kWidest = kKeyDim <= kMost ? kKeyDim : kKeyDim % 64 == 0 ? kMost : kPanel;

 public:
  using Type = decltype(OfPass<kWidest>());
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_GRADIENT_LAYOUT_H_
