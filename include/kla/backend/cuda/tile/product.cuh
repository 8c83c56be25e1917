// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: products of tiles on a device. CUDA sources only.
#ifndef KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_
#define KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_

#include "kla/backend/cuda/tile/device.cuh"
#include "kla/backend/cuda/tile/wgmma.cuh"

// wgmma exists in code for sm_90a alone; everything else uses mma.sync.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KLA_TILE_HAS_WGMMA true
#else
#define KLA_TILE_HAS_WGMMA false
#endif

namespace kla::internal::tile {
inline namespace on_device {

// One step of 16 along the inner dimension, blocks of 16 columns from n = kFrom on.
template <class E, int kTerms, bool kTransposed, int kN, int kHeight, int kWidth>
KLA_TILE_FUNCTION void MultiplyStep(RegisterTile<kN>& sum, const std::uint32_t (&a)[kTerms][4],
                                    const Operand<E, kTerms, kHeight, kWidth>& tile, int row,
                                    int column) {
  // Transposed: tile rows are columns of B. Otherwise tile rows are the inner dimension.
  const int lane_row = kTransposed ? Lane() % 8 + Lane() / 16 * 8 : Lane() % 16;
  const int lane_column = kTransposed ? Lane() / 8 % 2 * 8 : Lane() / 16 * 8;
  KLA_TILE_UNROLL
  for (int n = 0; n < kN; n += 16) {
    KLA_TILE_UNROLL
    for (int tb = 0; tb < kTerms; ++tb) {
      std::uint32_t b[4];
      LoadMatrices<!kTransposed>(b, tile.data + tb * tile.kTermSize +
                                        tile.Offset(row + lane_row + (kTransposed ? n : 0),
                                                    column + lane_column + (kTransposed ? 0 : n)));
      KLA_TILE_UNROLL
      for (int ta = 0; ta + tb < kTerms; ++ta) {
        MultiplyAdd<E>(sum.at[n / 8], a[ta], b[0], b[1]);
        MultiplyAdd<E>(sum.at[n / 8 + 1], a[ta], b[2], b[3]);
      }
    }
  }
}

template <class E, int kTerms, int kD>
KLA_TILE_FUNCTION void StepOf(const RegisterOperand<E, kTerms, kD>& a, int k,
                              std::uint32_t (&step)[kTerms][4]) {
  KLA_TILE_UNROLL
  for (int t = 0; t < kTerms; ++t) {
    KLA_TILE_UNROLL
    for (int r = 0; r < 4; ++r) step[t][r] = a.at[t][k][r];
  }
}

// Registers that asynchronous products write are not touched before this.
template <int kN>
KLA_TILE_FUNCTION void HoldRegisters(RegisterTile<kN>& tile) {
  KLA_TILE_UNROLL
  for (int n = 0; n < kN / 8; ++n) {
    KLA_TILE_UNROLL
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(tile.at[n][i])::"memory");
  }
}

// Waits for the products started so far; these are their sums.
template <class... Sums>
KLA_TILE_FUNCTION void Complete(Sums&... sums) {
  if constexpr (KLA_TILE_HAS_WGMMA) {
    WaitAsyncProducts<0>();
    (HoldRegisters(sums), ...);
  }
}

// Whether wgmma takes kN columns, cut at panels (MultiplyTransposed: kN rows).
template <class Tile, bool kTransposed, int kN>
inline constexpr bool kAsync = KLA_TILE_HAS_WGMMA &&
                               (kTransposed ? kN == 64 : kN % Tile::kPanel == 0);

// MultiplyStep by wgmma: queued, not done.
template <class E, int kTerms, bool kTransposed, int kN, int kHeight, int kWidth>
KLA_TILE_FUNCTION void IssueStep(RegisterTile<kN>& sum, const std::uint32_t (&a)[kTerms][4],
                                 const Operand<E, kTerms, kHeight, kWidth>& tile, int row,
                                 int column) {
  using Tile = Operand<E, kTerms, kHeight, kWidth>;
  constexpr int kPanel = Tile::kPanel, kPanelBytes = kHeight * kPanel * 2;
  KLA_TILE_UNROLL
  for (int tb = 0; tb < kTerms; ++tb) {
    const E* first = tile.data + tb * Tile::kTermSize + column / kPanel * (kHeight * kPanel) +
                     row * kPanel + column % kPanel;
    KLA_TILE_UNROLL
    for (int ta = 0; ta + tb < kTerms; ++ta) {
      if constexpr (kTransposed) {
        AsyncProduct<64>::Issue<E, 0>(sum.at, a[ta], MatrixDescriptor<kPanel>(first, 16));
      } else {
        constexpr int kPiece = kN % 128 == 0 ? 128 : kN % 96 == 0 && kPanel == 32 ? 96 : kPanel;
        KLA_TILE_UNROLL
        for (int n = 0; n < kN; n += kPiece) {
          AsyncProduct<kPiece>::template Issue<E, 1>(
              sum.at + n / 8, a[ta], MatrixDescriptor<kPanel>(first + n * kHeight, kPanelBytes));
        }
      }
    }
  }
}

// Queues a product, where the device can, or does it. Complete(sum) before sum is used.
template <bool kTransposed, class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void Start(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                             const Operand<E, kTerms, kHeight, kWidth>& tile, int row, int column) {
  constexpr bool kQueue = kAsync<Operand<E, kTerms, kHeight, kWidth>, kTransposed, kN>;
  if constexpr (kQueue) {
    HoldRegisters(sum);
    BeginAsyncProducts();
  }
  KLA_TILE_UNROLL
  for (int k = 0; k < kD / 16; ++k) {
    std::uint32_t step[kTerms][4];
    StepOf(a, k, step);
    const int tile_row = row + (kTransposed ? 0 : k * 16);
    const int tile_column = column + (kTransposed ? k * 16 : 0);
    if constexpr (kQueue) {
      IssueStep<E, kTerms, kTransposed>(sum, step, tile, tile_row, tile_column);
    } else {
      MultiplyStep<E, kTerms, kTransposed>(sum, step, tile, tile_row, tile_column);
    }
  }
  if constexpr (kQueue) CommitAsyncProducts();
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void StartMultiplyTransposed(RegisterTile<kN>& sum,
                                               const RegisterOperand<E, kTerms, kD>& a,
                                               const Operand<E, kTerms, kHeight, kWidth>& tile,
                                               int row = 0, int column = 0) {
  Start<true>(sum, a, tile, row, column);
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void MultiplyTransposed(RegisterTile<kN>& sum,
                                          const RegisterOperand<E, kTerms, kD>& a,
                                          const Operand<E, kTerms, kHeight, kWidth>& tile,
                                          int row = 0, int column = 0) {
  Start<true>(sum, a, tile, row, column);
  Complete(sum);
}

// Both factors in shared memory: sum = a tile^T, of one term.
template <class E, int kWidth>
KLA_TILE_FUNCTION void StartMultiplyRows(RegisterTile<kRows>& sum,
                                         const Operand<E, 1, kRows, kWidth>& a,
                                         const Operand<E, 1, kRows, kWidth>& tile) {
  if constexpr (KLA_TILE_HAS_WGMMA) {
    constexpr int kPanel = Operand<E, 1, kRows, kWidth>::kPanel;
    BeginAsyncProducts();
    IssueSharedProduct<E, 0>(sum.at, MatrixDescriptor<kPanel>(a.data, 16),
                             MatrixDescriptor<kPanel>(tile.data, 16));
    KLA_TILE_UNROLL
    for (int k = 16; k < kWidth; k += 16) {
      const int at = k / kPanel * (kRows * kPanel) + k % kPanel;
      IssueSharedProduct<E, 1>(sum.at, MatrixDescriptor<kPanel>(a.data + at, 16),
                               MatrixDescriptor<kPanel>(tile.data + at, 16));
    }
    CommitAsyncProducts();
  } else {
    sum.Fill(0.0f);
    StartMultiplyTransposed(sum, LoadOperand<kWidth>(a), tile);
  }
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void StartMultiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                                     const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                                     int column = 0) {
  Start<false>(sum, a, tile, row, column);
}

template <class E, int kTerms, int kN, int kD, int kHeight, int kWidth>
KLA_TILE_FUNCTION void Multiply(RegisterTile<kN>& sum, const RegisterOperand<E, kTerms, kD>& a,
                                const Operand<E, kTerms, kHeight, kWidth>& tile, int row = 0,
                                int column = 0) {
  Start<false>(sum, a, tile, row, column);
  Complete(sum);
}

// The left factor is rounded, kept and multiplied a few steps at a time: never are all its terms in
// registers. The first sum is complete at the end, the others after Complete.
template <class E, int kTerms, int kD, class Keep, class First, class... Others>
KLA_TILE_FUNCTION void MultiplyTransposedBy(const RegisterTile<kD>& a, const Keep& keep,
                                            const Operand<E, kTerms, kRows, kD>* tiles,
                                            First& first, Others&... others) {
  constexpr int kSteps = kD / 16;
  constexpr int kAtOnce = KLA_TILE_HAS_WGMMA ? (8 + kTerms - 1) / kTerms : 1;
  KLA_TILE_UNROLL
  for (int k0 = 0; k0 < kSteps; k0 += kAtOnce) {
    std::uint32_t steps[kAtOnce][kTerms][4];
    KLA_TILE_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      if (k0 + k >= kSteps) continue;
      RegisterOperand<E, kTerms, 16> part;
      KLA_TILE_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int n = 2 * (k0 + k) + r / 2, i = r % 2 * 2;
        float x = a.at[n][i], y = a.at[n][i + 1];
        KLA_TILE_UNROLL
        for (int t = 0; t < kTerms; ++t) part.at[t][0][r] = NextPair<E>(x, y);
      }
      keep(part, (k0 + k) * 16);
      StepOf(part, 0, steps[k]);
    }
    const auto product = [&](RegisterTile<kRows>& sum, const Operand<E, kTerms, kRows, kD>& tile) {
      if constexpr (KLA_TILE_HAS_WGMMA) {
        HoldRegisters(sum);
        BeginAsyncProducts();
      }
      KLA_TILE_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        if (k0 + k >= kSteps) continue;
        if constexpr (KLA_TILE_HAS_WGMMA) {
          IssueStep<E, kTerms, true>(sum, steps[k], tile, 0, (k0 + k) * 16);
        } else {
          MultiplyStep<E, kTerms, true>(sum, steps[k], tile, 0, (k0 + k) * 16);
        }
      }
      if constexpr (KLA_TILE_HAS_WGMMA) CommitAsyncProducts();
    };
    product(first, tiles[0]);
    int i = 1;
    (product(others, tiles[i++]), ...);
    if constexpr (KLA_TILE_HAS_WGMMA) {
      // Beside a left factor of half of all registers, products that wait for others have ptxas
      // give up (C7512: it makes every wgmma of the kernel wait).
      if (k0 + kAtOnce < kSteps || kD > 128) {
        Complete(first, others...);
      } else {
        WaitAsyncProducts<sizeof...(Others)>();
        HoldRegisters(first);
      }
    }
  }
}

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_PRODUCT_CUH_
