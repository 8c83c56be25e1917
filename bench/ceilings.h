// SPDX-License-Identifier: Apache-2.0
// bench: what the machine can do, measured in the same run as what the library does. One thread.
#ifndef KLA_BENCH_CEILINGS_H_
#define KLA_BENCH_CEILINGS_H_

#include <array>
#include <memory>
#include <random>

#include "bench_main.h"
#include "kla/backend/simd/amx_registers.h"
#include "kla/backend/simd/register_tile.h"
#include "kla/backend/simd/vector_math.h"

#if KLA_SIMD_HAS_BF16_DOT
#include <immintrin.h>
#endif

namespace kla::bench {

namespace simd = kla::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;

// As many independent sums as hide the latency of a multiply-add on two ports.
inline constexpr int kSums = 10;

// x <- a x for `count` floats in place: every byte of a state read once and written once.
inline void ScaleInPlace(float* x, Index count, float factor) {
  const simd::Tag<float> d;
  const auto a = hn::Set(d, factor);
  constexpr Index kLanes = simd::kLanes<float>;
  for (Index i = 0; i < count; i += 4 * kLanes) {
    simd::Unroll<4>([&](auto u) KLA_SIMD_INLINE {
      hn::Store(hn::Mul(a, hn::Load(d, x + i + u * kLanes)), d, x + i + u * kLanes);
    });
  }
}

// `steps` multiply-adds in each of kSums registers. The sums start from memory that the compiler
// does not know: from equal constants it would compute one of them.
inline void MultiplyAddRegisters(Index steps, float* memory) {
  const simd::Tag<float> d;
  constexpr Index kLanes = simd::kLanes<float>;
  benchmark::ClobberMemory();
  simd::Vector<float> sums[kSums];
  const auto a = hn::Load(d, memory + kSums * kLanes);
  const auto b = hn::Load(d, memory + (kSums + 1) * kLanes);
  simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { sums[i] = hn::Load(d, memory + i * kLanes); });
  for (Index step = 0; step < steps; ++step) {
    simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { sums[i] = hn::MulAdd(sums[i], a, b); });
  }
  simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { hn::Store(sums[i], d, memory + i * kLanes); });
  benchmark::ClobberMemory();
}

// Matrices a [kProductDepth][16], of which kTallRows columns are used, and b
// [kProductDepth][kPanel] that stay in the first-level cache, and a^T b.
inline constexpr Index kProductDepth = 128;
struct ProductMatrices {
  ProductMatrices() {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> value(-1.0f, 1.0f);
    for (float& x : a) x = value(random);
    for (float& x : b) x = value(random);
  }
  alignas(64) std::array<float, kProductDepth * 16> a;
  alignas(64) std::array<float, kProductDepth * simd::kPanel<float>> b;
  alignas(64) std::array<float, 16 * simd::kPanel<float>> product;
};

// `count` times a^T b by the register tile that the chunk kernels are made of.
inline void MultiplyMatrices(Index count, ProductMatrices& m) {
  for (Index i = 0; i < count; ++i) {
    simd::RegisterTile<float, simd::kTallRows> tile;
    tile.SetZero();
    tile.MulAdd<1, 16, simd::kPanel<float>>(m.a.data(), m.b.data(), kProductDepth);
    tile.Store(m.product.data(), simd::kPanel<float>);
    benchmark::ClobberMemory();
  }
}

#if KLA_SIMD_HAS_BF16_DOT
// As MultiplyAddRegisters, with vdpbf16ps: 64 flops an instruction.
inline void DotRegisters(Index steps, float* memory) {
  benchmark::ClobberMemory();
  __m512 sums[kSums];
  const auto a = reinterpret_cast<__m512bh>(_mm512_load_ps(memory + kSums * 16));
  const auto b = reinterpret_cast<__m512bh>(_mm512_load_ps(memory + (kSums + 1) * 16));
  simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { sums[i] = _mm512_load_ps(memory + i * 16); });
  for (Index step = 0; step < steps; ++step) {
    simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { sums[i] = _mm512_dpbf16_ps(sums[i], a, b); });
  }
  simd::Unroll<kSums>([&](auto i) KLA_SIMD_INLINE { _mm512_store_ps(memory + i * 16, sums[i]); });
  benchmark::ClobberMemory();
}
#endif

// Registers that hold `value` throughout.
inline AlignedVector<float> CeilingMemory(float value) {
  return AlignedVector<float>(static_cast<std::size_t>((kSums + 2) * simd::kLanes<float>), value);
}

// Ceiling/InPlaceScale/<storage>/heads:<N>: the bytes of N states [128, 128], 4 or 2 an element.
inline void RegisterInPlaceScale(const std::string& storage, Index element_bytes, Index heads) {
  const Index bytes = heads * 128 * 128 * element_bytes;
  Register("Ceiling/InPlaceScale/" + storage + "/heads:" + std::to_string(heads),
           static_cast<double>(heads), 0, 2.0 * static_cast<double>(bytes), [=] {
             auto x = std::make_shared<AlignedVector<float>>(static_cast<std::size_t>(bytes / 4));
             return [=] { ScaleInPlace(x->data(), bytes / 4, 0.999f); };
           });
}

// Ceiling/FmaPeak/f32/K<K>/V<V>/heads:<N>: 6KV flops a head as multiply-adds of registers.
inline void RegisterFmaPeak(Index key_dim, Index value_dim, Index heads) {
  const double flops = RecurrenceFlops(key_dim, value_dim) * static_cast<double>(heads);
  const auto steps =
      static_cast<Index>(flops / static_cast<double>(2 * kSums * simd::kLanes<float>));
  Register("Ceiling/FmaPeak/f32/" + DimName(key_dim, value_dim) + "/heads:" + std::to_string(heads),
           static_cast<double>(heads), flops, 0, [=] {
             auto memory = std::make_shared<AlignedVector<float>>(CeilingMemory(0.5f));
             return [=] { MultiplyAddRegisters(steps, memory->data()); };
           });
}

// Ceiling/ProductPeak/f32/K<K>/V<V>/heads:<N>: about those flops as products of matrices in the
// first-level cache. Where loads, and numbers that differ, lower the clock below that of FmaPeak's
// registers, this is what a kernel can come close to.
inline void RegisterProductPeak(Index key_dim, Index value_dim, Index heads) {
  const double product_flops =
      2.0 * static_cast<double>(simd::kTallRows * simd::kPanel<float> * kProductDepth);
  const auto count = static_cast<Index>(RecurrenceFlops(key_dim, value_dim) *
                                        static_cast<double>(heads) / product_flops);
  Register(
      "Ceiling/ProductPeak/f32/" + DimName(key_dim, value_dim) + "/heads:" + std::to_string(heads),
      static_cast<double>(heads), product_flops * static_cast<double>(count), 0, [=] {
        auto matrices = std::make_shared<ProductMatrices>();
        return [=] { MultiplyMatrices(count, *matrices); };
      });
}

// Ceiling/Bf16DotPeak/bf16/K<K>/V<V>/heads:<N>: the same flops as dot products of bfloat16 pairs;
// registered where the instruction set has them.
inline void RegisterBf16DotPeak(Index key_dim, Index value_dim, Index heads) {
#if KLA_SIMD_HAS_BF16_DOT
  const double flops = RecurrenceFlops(key_dim, value_dim) * static_cast<double>(heads);
  const auto steps = static_cast<Index>(flops / (64 * kSums));
  Register(
      "Ceiling/Bf16DotPeak/bf16/" + DimName(key_dim, value_dim) + "/heads:" + std::to_string(heads),
      static_cast<double>(heads), flops, 0, [=] {
        auto memory = std::make_shared<AlignedVector<float>>(CeilingMemory(0.0f));
        return [=] { DotRegisters(steps, memory->data()); };
      });
#else
  static_cast<void>(key_dim + value_dim + heads);
#endif
}

// Ceiling/Bf16TilePeak/bf16/K<K>/V<V>/heads:<N>: the same flops in tile registers, 16384 an
// instruction; registered where the instruction set has them and the system grants them.
inline void RegisterBf16TilePeak(Index key_dim, Index value_dim, Index heads) {
#if KLA_SIMD_HAS_BF16_TILES
  if (!simd::TilesAreAllowed()) return;
  const double flops = RecurrenceFlops(key_dim, value_dim) * static_cast<double>(heads);
  const auto steps = static_cast<Index>(flops / (3 * 16384));
  Register("Ceiling/Bf16TilePeak/bf16/" + DimName(key_dim, value_dim) +
               "/heads:" + std::to_string(heads),
           static_cast<double>(heads), flops, 0, [=] {
             return [=] {
               const simd::TileRegisters registers;
               _tile_zero(0);
               _tile_zero(1);
               _tile_zero(2);
               _tile_zero(3);
               _tile_zero(4);
               for (Index i = 0; i < steps; ++i) {
                 _tile_dpbf16ps(0, 3, 4);
                 _tile_dpbf16ps(1, 3, 4);
                 _tile_dpbf16ps(2, 3, 4);
               }
             };
           });
#else
  static_cast<void>(key_dim + value_dim + heads);
#endif
}

}  // namespace kla::bench

#endif  // KLA_BENCH_CEILINGS_H_
