// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the interface of tile.h on a device of compute capability 8.0 and above.
//
// A group is 4 warps; warp w owns rows 16 w ... 16 w + 15 of every register tile, in the layout of
// the accumulators of mma.m16n8k16: lane 4 g + t holds, of each 16 x 8 block, elements
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#ifndef KLA_BACKEND_CUDA_TILE_DEVICE_CUH_
#define KLA_BACKEND_CUDA_TILE_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kla/backend/cuda/tile_layout.h"
#include "kla/backend/cuda/tile_mma.cuh"

namespace kla::tile {
inline namespace on_device {

inline constexpr unsigned kAllLanes = 0xffffffffu;

KLA_TILE_FUNCTION int Lane() { return static_cast<int>(threadIdx.x % 32); }
KLA_TILE_FUNCTION int WarpOfGroup() { return static_cast<int>(threadIdx.x / 32 % 4); }

struct RowLanes {
  static constexpr int kCount = 8;
  int index;
  KLA_TILE_FUNCTION float Sum(float x) const {
    KLA_TILE_UNROLL
    for (int d = 1; d < kCount; d *= 2) x += __shfl_xor_sync(kAllLanes, x, d);
    return x;
  }
  KLA_TILE_FUNCTION float Max(float x) const {
    KLA_TILE_UNROLL
    for (int d = 1; d < kCount; d *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, d));
    return x;
  }
};

template <int kGroupCount>
class Block {
 public:
  static constexpr int kGroups = kGroupCount, kThreads = 128 * kGroups;

  KLA_TILE_FUNCTION Index index() const { return blockIdx.x; }
  // What threads wrote to shared memory before is seen after, by matrix units too.
  KLA_TILE_FUNCTION void Barrier() const {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
    __syncthreads();
  }

  template <class F>
  KLA_TILE_FUNCTION void ForEach(int count, const F& f) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) f(i);
  }
  template <class F>
  KLA_TILE_FUNCTION void ForEachRow(const F& f) const {
    const RowLanes lanes{static_cast<int>(threadIdx.x % RowLanes::kCount)};
    for (int row = static_cast<int>(threadIdx.x) / RowLanes::kCount; row < kRows;
         row += kThreads / RowLanes::kCount) {
      f(row, lanes);
    }
  }
  template <class F>
  KLA_TILE_FUNCTION void Groups(const F& f) const {
    f(kGroups == 1 ? 0 : static_cast<int>(threadIdx.x / 128));
  }
  // The same sum, in the same order, in every thread.
  KLA_TILE_FUNCTION float Reduce(float part, float* scratch) const {
    KLA_TILE_UNROLL
    for (int d = 16; d > 0; d /= 2) part += __shfl_xor_sync(kAllLanes, part, d);
    Barrier();
    if (Lane() == 0) scratch[threadIdx.x / 32] = part;
    Barrier();
    float sum = 0;
    KLA_TILE_UNROLL
    for (int w = 0; w < kThreads / 32; ++w) sum += scratch[w];
    return sum;
  }
  // By the first warp, two elements a lane; barriers are the caller's.
  KLA_TILE_FUNCTION void CumulativeSum(double* x) const { Scan(x, 0); }
  KLA_TILE_FUNCTION void ReverseCumulativeSum(double* x) const { Scan(x, kRows - 1); }

  // Contiguous, 16-byte aligned, a multiple of 16 bytes.
  template <class U>
  KLA_TILE_FUNCTION void Copy(U* to, const U* from, int bytes) const {
    const auto* source = reinterpret_cast<const uint4*>(from);
    auto* target = reinterpret_cast<uint4*>(to);
    ForEach(bytes / 16, [&](int i) { target[i] = source[i]; });
  }
  template <class U>
  KLA_TILE_FUNCTION void CopyAsync(U* to, const U* from, int bytes) const {
    const auto* source = reinterpret_cast<const uint4*>(from);
    auto* target = reinterpret_cast<uint4*>(to);
    ForEach(bytes / 16, [&](int i) { CopyUnitAsync(target + i, source + i); });
  }
  template <class U>
  KLA_TILE_FUNCTION void CopyUnitAsync(U* to, const U* from) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(SharedAddress(to)), "l"(from)
                 : "memory");
  }
  KLA_TILE_FUNCTION void CommitCopies() const {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
  }
  template <int kPending>
  KLA_TILE_FUNCTION void WaitCopies() const {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
  }

 private:
  KLA_TILE_FUNCTION static void Scan(double* x, int first) {
    if (threadIdx.x >= 32) return;
    const int i = 2 * static_cast<int>(threadIdx.x);
    double& a = x[first == 0 ? i : first - i];
    double& b = x[first == 0 ? i + 1 : first - i - 1];
    const double pair = a + b;
    double sum = pair;
    KLA_TILE_UNROLL
    for (int d = 1; d < 32; d *= 2) {
      const double below = __shfl_up_sync(kAllLanes, sum, d);
      if (static_cast<int>(threadIdx.x) >= d) sum += below;
    }
    const double a_old = a;
    a = sum - pair + a_old;
    b = sum;
  }
};

template <class X, int kGroups>
struct PerGroup {
  X at;
  KLA_TILE_FUNCTION X& operator[](int /*group*/) { return at; }
};

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
      float2 sum = {0, 0};
      KLA_TILE_UNROLL
      for (int t = kTerms; t-- > 0;) {
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

template <class T, int kWidth>
KLA_TILE_FUNCTION void LoadRowsTile(const T* first, Index stride, int count, int columns,
                                    RegisterTile<kWidth>& tile) {
  ForEachElement(
      [&](const Place& at, float& x) {
        x = at.row < count && at.column < columns
                ? static_cast<float>(first[at.row * stride + at.column])
                : 0.0f;
      },
      tile);
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

template <class E, int kTerms, int kWidth>
KLA_TILE_FUNCTION void StoreOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                                    const Operand<E, kTerms, kRows, kWidth>& tile) {
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int k = 0; k < kWidth / 16; ++k) {
      KLA_TILE_UNROLL
      for (int r = 0; r < 4; ++r) {
        const Place place = PlaceOf(2 * k + r / 2, r % 2 * 2);
        *reinterpret_cast<std::uint32_t*>(tile.data + t * tile.kTermSize +
                                          tile.Offset(place.row, place.column)) =
            operand.at[t][k][r];
      }
    }
  }
}

template <int kPitch, class T, int kWidth>
KLA_TILE_FUNCTION void StoreTransposed(const RegisterTile<kWidth>& tile, T* out) {
  KLA_TILE_UNROLL
  for (int n = 0; n < kWidth / 8; ++n) {
    KLA_TILE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Place place = PlaceOf(n, i);
      out[place.column * kPitch + place.row] = Narrow<T>(tile.at[n][i]);
    }
  }
}

}  // namespace on_device
}  // namespace kla::tile

#include "kla/backend/cuda/tile_inverse.cuh"
#include "kla/backend/cuda/tile_product.cuh"

#endif  // KLA_BACKEND_CUDA_TILE_DEVICE_CUH_
