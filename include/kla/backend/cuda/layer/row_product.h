// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: products with one row on the left, as decoding a single sequence has them.
// Such a product is bound by reading the weight, once, and by how soon all of its reads are under
// way.
#ifndef KLA_BACKEND_CUDA_LAYER_ROW_PRODUCT_H_
#define KLA_BACKEND_CUDA_LAYER_ROW_PRODUCT_H_

#include <cstdint>
#include <type_traits>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/block/vector.h"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// c [1, n] = a [1, k] b^T, b [n, k], sums in float; kSplit warps share a column of c. a and the
// rows of b are 16-byte aligned. Bytes: n k of the weight. Each lane asks for kAhead vectors of 16
// bytes before it uses any.
//
// One H200, 2026-11-23, bf16, replayed graph, weights in L2, of a layer of D = 1536:
//   [6936, 1536] 5.7 us, [1536, 2304] 3.4 us with four warps a column (4.0 us with one)
// With four rows such a kernel took 13.6 and 10.1 us, cuBLAS 5.9 and 7.4: more than one row is
// cuBLAS's.
template <class T, int kSplit>
struct RowProductBody {
  static constexpr int kThreads = 256, kBlocksPerSm = 4, kWarps = kThreads / 32;
  static constexpr int kColumns = kWarps / kSplit, kVector = kVectorLength<T>, kAhead = 6;
  struct Shared {
    float sums[kWarps];
  };

  const T* a;
  const T* b;
  T* c;
  Index b_stride, columns, depth;

  Index Blocks() const { return (columns + kColumns - 1) / kColumns; }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    const Index first_column = Index{index} * kColumns;
    block.LetNextBegin();
    auto sums = block.template MakePrivate<Sums<float, 1>>();
    block.ForEachThread([&](int thread) {
      float sum = 0.0f;
      const Index column = first_column + thread / 32 / kSplit;
      const Index step = Index{32} * kSplit * kVector;
      const T* weight = b + column * b_stride;
      const Index begin = column < columns ? Index{thread % (32 * kSplit)} * kVector : depth;
      KLA_NO_UNROLL
      for (Index first = begin; first < depth; first += kAhead * step) {
        Words words[kAhead];
        KLA_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (first + i * step < depth) words[i] = LoadGlobalWords(weight + first + i * step);
        }
        if (first == begin) block.WaitForPrevious();  // for a; the weight was there before
        KLA_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (first + i * step >= depth) continue;
          float w[kVector], x[kVector];
          UnpackWords<T>(words[i], w);
          LoadVector(a + first + i * step, x);
          KLA_UNROLL
          for (int e = 0; e < kVector; ++e) sum += w[e] * x[e];
        }
      }
      sums[thread].value[0] = sum;
    });
    block.template GroupSum<32>(sums);
    if constexpr (kSplit > 1) {
      block.ForEachThread([&](int thread) {
        if (thread % 32 == 0) shared.sums[thread / 32] = sums[thread].value[0];
      });
      block.Barrier();
    }
    block.ForEachThread([&](int thread) {
      const int warp = thread / 32;
      const Index column = first_column + warp / kSplit;
      if (thread % 32 != 0 || warp % kSplit != 0 || column >= columns) return;
      float sum = sums[thread].value[0];
      if constexpr (kSplit > 1) {
        sum = 0.0f;
        KLA_UNROLL
        for (int part = 0; part < kSplit; ++part) sum += shared.sums[warp + part];
      }
      c[column] = static_cast<T>(sum);
    });
  }
};

// Queues c = a b^T where a is one row and its memory is aligned; false where it is not. The
// matrices are MatrixRefs (layer/panels.h).
template <class A, class C, class Launcher>
bool MultiplyRow(const A& a, const A& b, const C& c, const Launcher& launcher) {
  using T = std::remove_pointer_t<decltype(c.data)>;
  const auto aligned = [](const T* data) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  };
  if (c.rows != 1 || !aligned(a.data) || !aligned(b.data) || b.stride % kVectorLength<T> != 0 ||
      a.columns % kVectorLength<T> != 0) {
    return false;
  }
  const auto launch = [&](auto split) {
    const RowProductBody<T, decltype(split)::value> body{a.data,   b.data,    c.data,
                                                         b.stride, c.columns, a.columns};
    launcher.Launch("KlaLayer: product of one row", body, body.Blocks());
  };
  // A multiprocessor holds 40 or so of these warps.
  if (c.columns < 32 * Index{launcher.Multiprocessors()}) {
    launch(std::integral_constant<int, 4>{});
  } else {
    launch(std::integral_constant<int, 1>{});
  }
  return true;
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_ROW_PRODUCT_H_
