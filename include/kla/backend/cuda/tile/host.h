// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: the interface of tile.h on a CPU, by plain loops: its specification, and what
// the tests run the kernel bodies with. Memory is poisoned, so that reads of nothing show.
#ifndef KLA_BACKEND_CUDA_TILE_HOST_H_
#define KLA_BACKEND_CUDA_TILE_HOST_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "kla/backend/cuda/tile/layout.h"

namespace kla::internal::tile {
inline namespace on_host {

inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// One lane of the threads that share a row.
struct RowLanes {
  static constexpr int kCount = 1;
  int index = 0;
  float Sum(float x) const { return x; }
  float Max(float x) const { return x; }
  // Of all rows that are at hand at once.
  bool Any(bool x) const { return x; }
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
  // The threads of the group that asks, inside Groups: what they do together.
  Block<1> Group() const { return Block<1>(index_); }

  template <class F>
  void ForEach(int count, const F& f) const {
    for (int i = 0; i < count; ++i) f(i);
  }
  // The same for a count that the compiler knows.
  template <int kCount, class F>
  void ForEach(const F& f) const {
    ForEach(kCount, f);
  }
  template <class F>
  void ForEachRow(const F& f) const {
    for (int row = 0; row < kRows; ++row) f(row, RowLanes{});
  }
  template <class F>
  void Groups(const F& f) const {
    for (int group = 0; group < kGroups; ++group) f(group);
  }
  // Groups with a part each, in `steps` steps and a barrier after each: groups 0 ... kGroups - 3
  // have the part that first(group) makes, the last but one second(), the last third(). A part has
  // Step(i) and End(); what one group reads, another wrote in a step before. kRegisters: of a
  // thread of each of the three, where the device can divide them.
  template <class Registers, class First, class Second, class Third>
  void InSteps(int steps, const First& first, const Second& second, const Third& third) const {
    std::vector<decltype(first(0))> firsts;
    for (int group = 0; group + 2 < kGroups; ++group) firsts.push_back(first(group));
    auto before_last = second();
    auto last = third();
    for (int i = 0; i < steps; ++i) {
      for (auto& part : firsts) part.Step(i);
      before_last.Step(i);
      last.Step(i);
    }
    for (auto& part : firsts) part.End();
    before_last.End();
    last.End();
  }
  // The sum of every thread's `part`, in every thread; `scratch` is shared, 32 floats.
  float Reduce(float part, float* /*scratch*/) const { return part; }
  // Of each of x[0] ... x[count - 1]; barriers before and after are the caller's.
  void CumulativeSums(double (*x)[kRows], int count) const {
    for (int n = 0; n < count; ++n) {
      for (int i = 1; i < kRows; ++i) x[n][i] += x[n][i - 1];
    }
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
  void Prefetch(const void* /*from*/) const {}
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

// x; on a device, what follows from it is worked out anew instead of kept in registers.
inline Index Afresh(Index x) { return x; }

inline void KeepOrder() {}

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

// The same for the elements on and below the diagonal, and perhaps some above it; the rest is set
// to zero.
template <class F, class... More>
void ForEachLowerElement(const F& f, RegisterTile<kRows>& tile, More&... more) {
  ForEachElement(f, tile, more...);
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

// rows [64, kPitch] = tile, added to what is there unless `first`.
template <int kPitch, int kWidth>
void AccumulateRows(const RegisterTile<kWidth>& tile, float* rows, bool first) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) {
      rows[r * kPitch + c] = tile.at[r][c] + (first ? 0.0f : rows[r * kPitch + c]);
    }
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
      float sum = operand.at[kTerms - 1][r][c];
      for (int t = kTerms - 1; t-- > 0;) sum += operand.at[t][r][c];
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

template <class E, int kTerms, int kWidth, int kTileWidth>
void StoreOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                  const Operand<E, kTerms, kRows, kTileWidth>& tile, int column = 0) {
  for (int t = 0; t < kTerms; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kWidth; ++c) {
        tile.data[t * tile.kTermSize + tile.Offset(r, column + c)] = E(operand.at[t][r][c]);
      }
    }
  }
}

// The same to device memory.
template <class E, int kTerms, int kWidth, int kTileWidth>
void StoreDistantOperand(const RegisterOperand<E, kTerms, kWidth>& operand,
                         const Operand<E, kTerms, kRows, kTileWidth>& tile, int column = 0) {
  StoreOperand(operand, tile, column);
}

// The transpose of a register tile, [kWidth, 64] row-major with kPitch elements from row to row.
template <int kPitch, class T, int kWidth>
void StoreTransposed(const RegisterTile<kWidth>& tile, T* out) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) out[c * kPitch + r] = static_cast<T>(tile.at[r][c]);
  }
}

// The same into the layout of an operand [kWidth, 64].
template <class T, int kWidth>
void StoreTransposedOperand(const RegisterTile<kWidth>& tile,
                            const Operand<T, 1, kWidth, kRows>& out) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kWidth; ++c) out.data[out.Offset(c, r)] = static_cast<T>(tile.at[r][c]);
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
// The next term of each of 8 floats.
template <class E>
void StoreNextTerm(float (&x)[8], E* to) {
  for (int i = 0; i < 8; ++i) to[i] = NextTerm<E>(x[i]);
}
template <class T>
void CopyUnit(T* to, const T* from, bool /*aligned*/) {
  std::copy_n(from, 8, to);
}

}  // namespace on_host
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_HOST_H_
