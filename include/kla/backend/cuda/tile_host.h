// SPDX-License-Identifier: Apache-2.0
// backend/cuda: the interface of tile.h on a CPU, by plain loops: its specification, and what the
// tests run the kernel bodies with. Memory is poisoned, so that reads of nothing show.
#ifndef KLA_BACKEND_CUDA_TILE_HOST_H_
#define KLA_BACKEND_CUDA_TILE_HOST_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <limits>

#include "kla/backend/cuda/tile_layout.h"

namespace kla::tile {
inline namespace on_host {

inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// One lane of the threads that share a row.
struct RowLanes {
  static constexpr int kCount = 1;
  int index = 0;
  float Sum(float x) const { return x; }
  float Max(float x) const { return x; }
};

struct Arrival {
  std::uint64_t unused;
};

template <int kGroupCount>
class Block {
 public:
  static constexpr int kGroups = kGroupCount;
  explicit Block(Index index) : index_(index) {}
  Index index() const { return index_; }
  void Barrier() const {}

  template <class F>
  void ForEach(int count, const F& f) const {
    for (int i = 0; i < count; ++i) f(i);
  }
  template <class F>
  void ForEachRow(const F& f) const {
    for (int row = 0; row < kRows; ++row) f(row, RowLanes{});
  }
  template <class F>
  void Groups(const F& f) const {
    for (int group = 0; group < kGroups; ++group) f(group);
  }
  // The sum of every thread's `part`, in every thread; `scratch` is shared, 32 floats.
  float Reduce(float part, float* /*scratch*/) const { return part; }
  void CumulativeSum(double* x) const {
    for (int i = 1; i < kRows; ++i) x[i] += x[i - 1];
  }
  void ReverseCumulativeSum(double* x) const {
    for (int i = kRows - 1; i-- > 0;) x[i] += x[i + 1];
  }

  template <class U>
  void Copy(U* to, const U* from, int bytes) const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  template <class U>
  void CopyAsync(U* to, const U* from, int bytes) const {
    Copy(to, from, bytes);
  }
  // 16 bytes, both sides aligned.
  template <class U>
  void CopyUnitAsync(U* to, const U* from) const {
    Copy(to, from, 16);
  }
  // 4 bytes.
  void CopyWordAsync(float* to, const float* from) const { *to = *from; }
  void CommitCopies() const {}

  // Bulk copies into shared memory: Expect the bytes, then copy, then wait for the arrival; `use`
  // counts how often this arrival was waited for before. Between them, barriers are the caller's.
  void PrepareArrival(Arrival* /*arrivals*/, int /*count*/) const {}
  void Expect(Arrival& /*arrival*/, int /*bytes*/) const {}
  template <class U>
  void CopyBulk(Arrival& /*arrival*/, U* to, const U* from, int bytes) const {
    Copy(to, from, bytes);
  }
  void Wait(Arrival& /*arrival*/, int /*use*/) const {}
  // From shared memory, after a barrier; WaitStores before the source is written again.
  template <class U>
  void StoreBulk(U* to, const U* from, int bytes) const {
    Copy(to, from, bytes);
  }
  void WaitStores() const {}

  template <int kPending>
  void WaitCopies() const {}

 private:
  Index index_;
};

template <class X, int kGroups>
struct PerGroup {
  X at[kGroups];
  X& operator[](int group) { return at[group]; }
};

inline float Exp2(float x) { return std::exp2(x); }

// ---- Tiles in registers -------------------------------------------------------------------------

// [64, kWidth] in float.
template <int kColumnCount>
struct RegisterTile {
  static constexpr int kWidth = kColumnCount;
  RegisterTile() { Fill(kPoison); }
  void Fill(float value) {
    for (auto& row : at) std::fill(std::begin(row), std::end(row), value);
  }
  float at[kRows][kWidth];
};

template <class F, int kWidth, class... More>
void ForEachElement(const F& f, RegisterTile<kWidth>& tile, More&... more) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) f(Place{r, c, r, c}, tile.at[r][c], more.at[r][c]...);
  }
}

// f(x, memory) for each element of the first `rows` rows, which lies at
// data[row * row_stride + column * column_stride].
template <class F, class S, int kWidth>
void ForEachInMemory(const F& f, S* data, Index row_stride, Index column_stride, int rows,
                     RegisterTile<kWidth>& tile) {
  for (int r = 0; r < std::min(rows, kRows); ++r) {
    for (int c = 0; c < kWidth; ++c) f(tile.at[r][c], data[r * row_stride + c * column_stride]);
  }
}

// A value for each row of a register tile, summed over its columns by Reduce.
struct RowValues {
  float at[kRows] = {};
  void Reduce() {}
  void Store(float* out) const { std::copy(std::begin(at), std::end(at), out); }
  // out = factor * value, added to what is there unless `first`.
  void Accumulate(float* out, const float* factor, bool first) const {
    for (int r = 0; r < kRows; ++r) out[r] = factor[r] * at[r] + (first ? 0.0f : out[r]);
  }
};

// A value for each column, summed over the rows of each warp; out [4][kWidth] takes four partial
// sums of every column.
template <int kWidth>
struct ColumnValues {
  float at[kWidth] = {};
  void StorePartial(float* out) const {
    std::fill(out, out + 4 * kWidth, 0.0f);
    std::copy(std::begin(at), std::end(at), out);
  }
};

// [64, kWidth] in terms of E, the left factor of a product.
template <class E, int kTermCount, int kWidth>
struct RegisterOperand {
  static constexpr int kTerms = kTermCount;
  float at[kTerms][kRows][kWidth];
};

// f(place, x) of every element, rounded to terms.
template <class E, int kTerms, int kWidth, class F>
RegisterOperand<E, kTerms, kWidth> ToOperand(const RegisterTile<kWidth>& tile, const F& f) {
  RegisterOperand<E, kTerms, kWidth> operand;
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) {
      float x = f(Place{r, c, r, c}, tile.at[r][c]);
      for (int t = 0; t < kTerms; ++t) operand.at[t][r][c] = static_cast<float>(NextTerm<E>(x));
    }
  }
  return operand;
}

template <class E, int kTerms, int kWidth>
void ToTile(const RegisterOperand<E, kTerms, kWidth>& operand, RegisterTile<kWidth>& tile) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) {
      float sum = 0;
      for (int t = kTerms; t-- > 0;) sum += operand.at[t][r][c];
      tile.at[r][c] = sum;
    }
  }
}

// Rows 0 ... 63 and columns `column` ... of a tile in memory.
template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
RegisterOperand<E, kTerms, kWidth> LoadOperand(const Operand<E, kTerms, kHeight, kTileWidth>& tile,
                                               int column = 0) {
  RegisterOperand<E, kTerms, kWidth> operand;
  for (int t = 0; t < kTerms; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kWidth; ++c) {
        operand.at[t][r][c] =
            static_cast<float>(tile.data[t * tile.kTermSize + tile.Offset(r, column + c)]);
      }
    }
  }
  return operand;
}

// The same from device memory.
template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
RegisterOperand<E, kTerms, kWidth> LoadDistantOperand(
    const Operand<E, kTerms, kHeight, kTileWidth>& tile) {
  return LoadOperand<kWidth>(tile);
}

// The transpose of rows `row` ... row + kWidth - 1 and columns 0 ... 63.
template <int kWidth, class E, int kTerms, int kHeight, int kTileWidth>
RegisterOperand<E, kTerms, kWidth> LoadTransposedOperand(
    const Operand<E, kTerms, kHeight, kTileWidth>& tile, int row = 0) {
  RegisterOperand<E, kTerms, kWidth> operand;
  for (int t = 0; t < kTerms; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kWidth; ++c) {
        operand.at[t][r][c] =
            static_cast<float>(tile.data[t * tile.kTermSize + tile.Offset(row + c, r)]);
      }
    }
  }
  return operand;
}

template <class E, int kTerms, int kWidth>
void StoreOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                  const Operand<E, kTerms, kRows, kWidth>& tile) {
  for (int t = 0; t < kTerms; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kWidth; ++c) {
        tile.data[t * tile.kTermSize + tile.Offset(r, c)] = E(operand.at[t][r][c]);
      }
    }
  }
}

// The transpose of a register tile, [kWidth, 64] row-major with kPitch elements from row to row.
template <int kPitch, class T, int kWidth>
void StoreTransposed(const RegisterTile<kWidth>& tile, T* out) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) out[c * kPitch + r] = static_cast<T>(tile.at[r][c]);
  }
}

// ---- Products -----------------------------------------------------------------------------------

// sum [64, N] += a [64, D] B^T, B = rows `row` ... row + N - 1, columns `column` ... of a tile.
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void MultiplyTransposed(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                        const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                        int column = 0) {
  for (int tb = 0; tb < kTerms; ++tb) {
    float b[kD][kN];
    for (int k = 0; k < kD; ++k) {
      for (int n = 0; n < kN; ++n) {
        b[k][n] =
            static_cast<float>(tile.data[tb * tile.kTermSize + tile.Offset(row + n, column + k)]);
      }
    }
    for (int ta = 0; ta + tb < kTerms; ++ta) {
      for (int m = 0; m < kRows; ++m) {
        for (int k = 0; k < kD; ++k) {
          for (int n = 0; n < kN; ++n) sum.at[m][n] += a.at[ta][m][k] * b[k][n];
        }
      }
    }
  }
}

// sum [64, N] += a [64, D] B, B = rows `row` ... row + D - 1, columns `column` ... column + N - 1.
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void Multiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
              const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0, int column = 0) {
  for (int tb = 0; tb < kTerms; ++tb) {
    float b[kD][kN];
    for (int k = 0; k < kD; ++k) {
      for (int n = 0; n < kN; ++n) {
        b[k][n] =
            static_cast<float>(tile.data[tb * tile.kTermSize + tile.Offset(row + k, column + n)]);
      }
    }
    for (int ta = 0; ta + tb < kTerms; ++ta) {
      for (int m = 0; m < kRows; ++m) {
        for (int k = 0; k < kD; ++k) {
          for (int n = 0; n < kN; ++n) sum.at[m][n] += a.at[ta][m][k] * b[k][n];
        }
      }
    }
  }
}

// The same, on a device perhaps still under way until Complete(sum).
template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
void StartMultiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                   const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0, int column = 0) {
  Multiply(sum, a, tile, row, column);
}
template <class... Sums>
void Complete(Sums&... /*sums*/) {}

// sums [64, 64] += a B^T for each tile B; on a device only the first is complete at the end, the
// left factor rounded from a register tile.
template <class E, int kTerms, int kD, class... Sums>
void MultiplyTransposedBy(const RegisterTile<kD>& a, const Operand<E, kTerms, kRows, kD>* tiles,
                          Sums&... sums) {
  const auto operand = ToOperand<E, kTerms>(a, [](const Place&, float x) { return x; });
  int i = 0;
  (MultiplyTransposed(sums, operand, tiles[i++]), ...);
}

// ---- (I + A)^-1 ---------------------------------------------------------------------------------

struct InverseScratch {
  float unused;
};

// T = (I + A)^-1 of a strictly lower A [64, 64]: blocks of 16 by forward substitution, then
//   T_ij = -T_ii sum_{j <= l < i} A_il T_lj
// block column by block column.
template <class E, int kTerms, int kGroups>
void InvertUnitLower(const Block<kGroups>& /*block*/, const RegisterTile<kRows>& a,
                     InverseScratch& /*scratch*/, const Operand<E, kTerms, kRows, kRows>& out) {
  constexpr int kB = 16;
  float t[kRows][kRows] = {};
  for (int d = 0; d < kRows; d += kB) {
    for (int c = 0; c < kB; ++c) {
      for (int i = 0; i < kB; ++i) {
        float sum = i == c ? 1.0f : 0.0f;
        for (int j = 0; j < i; ++j) sum -= a.at[d + i][d + j] * t[d + j][d + c];
        t[d + i][d + c] = sum;
      }
    }
  }
  for (int j = 0; j < kRows; j += kB) {
    for (int i = j + kB; i < kRows; i += kB) {
      float sum[kB][kB] = {};
      for (int l = j; l < i; ++l) {
        for (int r = 0; r < kB; ++r) {
          for (int c = 0; c < kB; ++c) sum[r][c] += a.at[i + r][l] * t[l][j + c];
        }
      }
      for (int r = 0; r < kB; ++r) {
        for (int c = 0; c < kB; ++c) {
          float product = 0;
          for (int l = 0; l <= r; ++l) product += t[i + r][i + l] * sum[l][c];
          t[i + r][j + c] = -product;
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kRows; ++c) {
      for (int s = 0; s < kTerms; ++s) {
        out.data[s * out.kTermSize + out.Offset(r, c)] = NextTerm<E>(t[r][c]);
      }
    }
  }
}

// 8 elements from memory, widened.
template <class T>
void LoadUnit(const T* from, bool /*aligned*/, float (&x)[8]) {
  for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(from[i]);
}
template <class T>
void StoreUnit(T* to, bool /*aligned*/, const float (&x)[8]) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<T>(x[i]);
}
template <class T>
void CopyUnit(T* to, const T* from, bool /*aligned*/) {
  std::copy_n(from, 8, to);
}

}  // namespace on_host
}  // namespace kla::tile

#endif  // KLA_BACKEND_CUDA_TILE_HOST_H_
