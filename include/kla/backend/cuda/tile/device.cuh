// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: the interface of tile.h on a device of compute capability 8.0 and above.
//
// A group is 4 warps; warp w owns rows 16 w ... 16 w + 15 of every register tile, in the layout of
// the accumulators of mma.m16n8k16: lane 4 g + t holds, of each 16 x 8 block, elements
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#ifndef KLA_BACKEND_CUDA_TILE_DEVICE_CUH_
#define KLA_BACKEND_CUDA_TILE_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kla/backend/cuda/tile/block.cuh"
#include "kla/backend/cuda/tile/layout.h"
#include "kla/backend/cuda/tile/mma.cuh"

namespace kla::internal::tile {
inline namespace on_device {

template <class X, int kGroups>
struct PerGroup {
  X at;
  KLA_TILE_FUNCTION X& operator[](int /*group*/) { return at; }
};

// x, of which the compiler knows nothing: what follows from it is worked out anew.
KLA_TILE_FUNCTION Index Afresh(Index x) {
  asm volatile("" : "+l"(x));
  return x;
}

// What is read from memory after is not read before.
KLA_TILE_FUNCTION void KeepOrder() { asm volatile("" ::: "memory"); }

// 2^x to 2^-22; 0 below 2^-126.
KLA_TILE_FUNCTION float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// ---- Tiles in registers -------------------------------------------------------------------------

template <int kColumnCount>
struct RegisterTile {
  static constexpr int kWidth = kColumnCount;
  KLA_TILE_FUNCTION void Fill(float value) {
    KLA_TILE_UNROLL
    for (int n = 0; n < kWidth / 8; ++n) {
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) at[n][i] = value;
    }
  }
  float at[kWidth / 8][4];
};

KLA_TILE_FUNCTION Place PlaceOf(int n, int i) {
  return {WarpOfGroup() * 16 + Lane() / 4 + (i >> 1) * 8, n * 8 + Lane() % 4 * 2 + (i & 1), i >> 1,
          n * 2 + (i & 1)};
}

template <class F, int kWidth, class... More>
KLA_TILE_FUNCTION void ForEachElement(const F& f, RegisterTile<kWidth>& tile, More&... more) {
  KLA_TILE_UNROLL
  for (int n = 0; n < kWidth / 8; ++n) {
    KLA_TILE_UNROLL
    for (int i = 0; i < 4; ++i) f(PlaceOf(n, i), tile.at[n][i], more.at[n][i]...);
  }
}

// Rows of a warp end at 16 w + 15: it leaves out the columns beyond.
template <class F, class... More>
KLA_TILE_FUNCTION void ForEachLowerElement(const F& f, RegisterTile<kRows>& tile, More&... more) {
  KLA_TILE_UNROLL
  for (int n = 0; n < kRows / 8; ++n) {
    if (n / 2 <= WarpOfGroup()) {
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) f(PlaceOf(n, i), tile.at[n][i], more.at[n][i]...);
    } else {
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) {
        tile.at[n][i] = 0.0f;
        ((more.at[n][i] = 0.0f), ...);
      }
    }
  }
}

// f(x, memory) for each element of the first `rows` rows, which lies at
// data[row * row_stride + column * column_stride].
template <class F, class S, int kWidth>
KLA_TILE_FUNCTION void ForEachInMemory(const F& f, S* data, Index row_stride, Index column_stride,
                                       int rows, RegisterTile<kWidth>& tile) {
  const Place first = PlaceOf(0, 0);
  S* at = data + first.row * row_stride + first.column * column_stride;
  KLA_TILE_UNROLL
  for (int n = 0; n < kWidth / 8; ++n) {
    KLA_TILE_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (first.row + i / 2 * 8 < rows) {
        f(tile.at[n][i], at[i / 2 * 8 * row_stride + i % 2 * column_stride]);
      }
    }
    at += 8 * column_stride;
    asm volatile("" : "+l"(at));  // one address, not one for each column
  }
}

// rows [64, kPitch] = tile, added to what is there unless `first`.
template <int kPitch, int kWidth>
KLA_TILE_FUNCTION void AccumulateRows(const RegisterTile<kWidth>& tile, float* rows, bool first) {
  const Place place = PlaceOf(0, 0);
  KLA_TILE_UNROLL
  for (int n = 0; n < kWidth / 8; ++n) {
    KLA_TILE_UNROLL
    for (int h = 0; h < 2; ++h) {
      auto* at =
          reinterpret_cast<float2*>(rows + (place.row + h * 8) * kPitch + place.column + n * 8);
      float2 sum = {tile.at[n][2 * h], tile.at[n][2 * h + 1]};
      if (!first) {
        const float2 before = *at;
        sum.x += before.x;
        sum.y += before.y;
      }
      *at = sum;
    }
  }
}

struct RowValues {
  float at[2] = {0, 0};
  KLA_TILE_FUNCTION void Reduce() {
    KLA_TILE_UNROLL
    for (int d = 1; d < 4; d *= 2) {
      at[0] += __shfl_xor_sync(kAllLanes, at[0], d);
      at[1] += __shfl_xor_sync(kAllLanes, at[1], d);
    }
  }
  KLA_TILE_FUNCTION void Store(float* out) const {
    if (Lane() % 4 != 0) return;
    out[WarpOfGroup() * 16 + Lane() / 4] = at[0];
    out[WarpOfGroup() * 16 + Lane() / 4 + 8] = at[1];
  }
  KLA_TILE_FUNCTION void Accumulate(float* out, const float* factor, bool first) const {
    if (Lane() % 4 != 0) return;
    KLA_TILE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = WarpOfGroup() * 16 + Lane() / 4 + h * 8;
      out[row] = factor[row] * at[h] + (first ? 0.0f : out[row]);
    }
  }
};

template <int kWidth>
struct ColumnValues {
  float at[kWidth / 4] = {};
  KLA_TILE_FUNCTION void StorePartial(float* out) const {
    KLA_TILE_UNROLL
    for (int s = 0; s < kWidth / 4; ++s) {
      float sum = at[s];
      KLA_TILE_UNROLL
      for (int d = 4; d < 32; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
      if (Lane() < 4) out[WarpOfGroup() * kWidth + s / 2 * 8 + Lane() * 2 + s % 2] = sum;
    }
  }
};

// Of each 16 x 16 block: the four registers of the A operand of mma.m16n8k16.
template <class E, int kTermCount, int kWidth>
struct RegisterOperand {
  static constexpr int kTerms = kTermCount;
  std::uint32_t at[kTerms][kWidth / 16][4];
};

template <class E, int kTerms, int kWidth, class F>
KLA_TILE_FUNCTION RegisterOperand<E, kTerms, kWidth> ToOperand(const RegisterTile<kWidth>& tile,
                                                               const F& f) {
  RegisterOperand<E, kTerms, kWidth> operand;
  KLA_TILE_UNROLL
  for (int k = 0; k < kWidth / 16; ++k) {
    KLA_TILE_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int n = 2 * k + r / 2, i = r % 2 * 2;
      float x = f(PlaceOf(n, i), tile.at[n][i]), y = f(PlaceOf(n, i + 1), tile.at[n][i + 1]);
      KLA_TILE_UNROLL
      for (int t = 0; t < kTerms; ++t) operand.at[t][k][r] = NextPair<E>(x, y);
    }
  }
  return operand;
}

template <class E, int kTerms, int kWidth>
KLA_TILE_FUNCTION void ToTile(const RegisterOperand<E, kTerms, kWidth>& operand,
                              RegisterTile<kWidth>& tile) {
  KLA_TILE_UNROLL
  for (int k = 0; k < kWidth / 16; ++k) {
    KLA_TILE_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int n = 2 * k + r / 2, i = r % 2 * 2;
      float2 sum = Unpack<E>(operand.at[kTerms - 1][k][r]);
      KLA_TILE_UNROLL
      for (int t = kTerms - 1; t-- > 0;) {
        const float2 term = Unpack<E>(operand.at[t][k][r]);
        sum.x += term.x;
        sum.y += term.y;
      }
      tile.at[n][i] = sum.x;
      tile.at[n][i + 1] = sum.y;
    }
  }
}

template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
KLA_TILE_FUNCTION RegisterOperand<E, kTerms, kWidth> LoadOperand(
    const Operand<E, kTerms, kHeight, kTileWidth>& tile, int column = 0) {
  RegisterOperand<E, kTerms, kWidth> operand;
  const int row = WarpOfGroup() * 16 + Lane() % 16, first = column + Lane() / 16 * 8;
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int k = 0; k < kWidth / 16; ++k) {
      LoadMatrices<false>(operand.at[t][k],
                          tile.data + t * tile.kTermSize + tile.Offset(row, first + k * 16));
    }
  }
  return operand;
}

template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
KLA_TILE_FUNCTION RegisterOperand<E, kTerms, kWidth> LoadDistantOperand(
    const Operand<E, kTerms, kHeight, kTileWidth>& tile) {
  RegisterOperand<E, kTerms, kWidth> operand;
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int k = 0; k < kWidth / 16; ++k) {
      KLA_TILE_UNROLL
      for (int r = 0; r < 4; ++r) {
        const Place place = PlaceOf(2 * k + r / 2, r % 2 * 2);
        operand.at[t][k][r] = *reinterpret_cast<const std::uint32_t*>(
            tile.data + t * tile.kTermSize + tile.Offset(place.row, place.column));
      }
    }
  }
  return operand;
}

template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
KLA_TILE_FUNCTION RegisterOperand<E, kTerms, kWidth> LoadTransposedOperand(
    const Operand<E, kTerms, kHeight, kTileWidth>& tile, int row = 0) {
  RegisterOperand<E, kTerms, kWidth> operand;
  const int first = row + Lane() % 8 + Lane() / 16 * 8;
  const int column = WarpOfGroup() * 16 + Lane() / 8 % 2 * 8;
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int k = 0; k < kWidth / 16; ++k) {
      LoadMatrices<true>(operand.at[t][k],
                         tile.data + t * tile.kTermSize + tile.Offset(first + k * 16, column));
    }
  }
  return operand;
}

template <class E, int kTerms, int kWidth, int kTileWidth>
KLA_TILE_FUNCTION void StoreDistantOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                                           const Operand<E, kTerms, kRows, kTileWidth>& tile,
                                           int column = 0) {
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int k = 0; k < kWidth / 16; ++k) {
      KLA_TILE_UNROLL
      for (int r = 0; r < 4; ++r) {
        const Place place = PlaceOf(2 * k + r / 2, r % 2 * 2);
        *reinterpret_cast<std::uint32_t*>(tile.data + t * tile.kTermSize +
                                          tile.Offset(place.row, column + place.column)) =
            operand.at[t][k][r];
      }
    }
  }
}

template <class E, int kTerms, int kWidth, int kTileWidth>
KLA_TILE_FUNCTION void StoreOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                                    const Operand<E, kTerms, kRows, kTileWidth>& tile,
                                    int column = 0) {
  if constexpr (KLA_TILE_STORES_MATRICES) {
    const int row = WarpOfGroup() * 16 + Lane() % 16, first = column + Lane() / 16 * 8;
    KLA_TILE_UNROLL
    for (int t = 0; t < kTerms; ++t) {
      KLA_TILE_UNROLL
      for (int k = 0; k < kWidth / 16; ++k) {
        StoreMatrices<false>(operand.at[t][k],
                             tile.data + t * tile.kTermSize + tile.Offset(row, first + k * 16));
      }
    }
  } else {
    StoreDistantOperand(operand, tile, column);
  }
}

template <int kPitch, class T, int kWidth>
KLA_TILE_FUNCTION void StoreTransposed(const RegisterTile<kWidth>& tile, T* out) {
  if constexpr (KLA_TILE_STORES_MATRICES && sizeof(T) == 2) {
    T* at = out + (Lane() % 8 + Lane() / 16 * 8) * kPitch + WarpOfGroup() * 16 + Lane() / 8 % 2 * 8;
    KLA_TILE_UNROLL
    for (int n = 0; n < kWidth / 8; n += 2) {
      std::uint32_t r[4];
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) {
        r[i] = Pack<T>(tile.at[n + i / 2][i % 2 * 2], tile.at[n + i / 2][i % 2 * 2 + 1]);
      }
      StoreMatrices<true>(r, at + n * 8 * kPitch);
    }
  } else {
    KLA_TILE_UNROLL
    for (int n = 0; n < kWidth / 8; ++n) {
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Place place = PlaceOf(n, i);
        out[place.column * kPitch + place.row] = Narrow<T>(tile.at[n][i]);
      }
    }
  }
}

template <class T, int kWidth>
KLA_TILE_FUNCTION void StoreTransposedOperand(const RegisterTile<kWidth>& tile,
                                              const Operand<T, 1, kWidth, kRows>& out) {
  KLA_TILE_UNROLL
  for (int n = 0; n < kWidth / 8; n += 2) {
    if constexpr (KLA_TILE_STORES_MATRICES) {
      std::uint32_t r[4];
      KLA_TILE_UNROLL
      for (int i = 0; i < 4; ++i) {
        r[i] = Pack<T>(tile.at[n + i / 2][i % 2 * 2], tile.at[n + i / 2][i % 2 * 2 + 1]);
      }
      const int row = Lane() % 8 + Lane() / 16 * 8;
      StoreMatrices<true>(
          r, out.data + out.Offset(n * 8 + row, WarpOfGroup() * 16 + Lane() / 8 % 2 * 8));
    } else {
      KLA_TILE_UNROLL
      for (int i = 0; i < 8; ++i) {
        const Place place = PlaceOf(n + i / 4, i % 4);
        out.data[out.Offset(place.column, place.row)] = Narrow<T>(tile.at[n + i / 4][i % 4]);
      }
    }
  }
}

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_DEVICE_CUH_
