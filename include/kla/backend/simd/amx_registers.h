// SPDX-License-Identifier: Apache-2.0
// backend/simd: the processor's tile registers (Intel AMX), of bfloat16 pairs with sums in float.
//
// Sixteen rows of 64 bytes each; sum [16][16] += a [16][32] b [32][16] is one instruction, 15 times
// the multiply-adds of float vectors in the same time (measured: 3590 GFLOP/s beside 239). b is
// stored in pairs (pair_tile.h): [16 pairs][16].
#ifndef KLA_BACKEND_SIMD_AMX_REGISTERS_H_
#define KLA_BACKEND_SIMD_AMX_REGISTERS_H_

#include "kla/backend/simd/pair_tile.h"

#if KLA_SIMD_HAS_BF16_TILES

#include <immintrin.h>

#include <atomic>
#include <cstdint>

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// The instructions name a register by a number in their text; these are the roles:
//   0, 1   sums                          [16][16] float
//   2, 3   left factors                  [16][32]
//   4      right factor                  [16 pairs][16]
//   5      left factor of half depth     [16][16]
//   6, 7   right factors of half depth   [8 pairs][16]
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 32, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 8, 8};
};

// While it lives, this thread's tile registers have those shapes.
class TileRegisters {
 public:
  TileRegisters() { _tile_loadconfig(&kShapes); }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  static constexpr TileShapes kShapes{};
};

// Between the vectors' accesses to memory and the tiles': to the compiler the latter have no
// arguments in memory.
HWY_INLINE void TileFence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_SIMD_HAS_BF16_TILES

#endif  // KLA_BACKEND_SIMD_AMX_REGISTERS_H_
