// SPDX-License-Identifier: Apache-2.0
// bench: one decoding step of softmax attention over a cache of all earlier keys and values.
#ifndef KLA_BENCH_BASELINES_SOFTMAX_KV_H_
#define KLA_BENCH_BASELINES_SOFTMAX_KV_H_

#include <hwy/contrib/math/math-inl.h>

#include <algorithm>

#include "ceilings.h"

namespace kla::bench {

// One head:  p = softmax(scale K q),  o = V^T p.   K [context, K]  V [context, V]  q [K]  o [V]
// K and V multiples of the lanes. Each cache line of both is read once, in order; blocks of keys
// keep their scores in cache, and the running maximum rescales o when it grows (Milakov,
// Gimelshein: Online normalizer calculation for softmax, arXiv:1805.02867). Vectorised throughout,
// exp included.
template <Index kKeyDim, Index kValueDim>
void SoftmaxKvHead(const float* q, const float* keys, const float* values, Index context,
                   float scale, float* o) {
  using simd::LoadAs;
  using simd::Vector;
  constexpr Index kLanes = simd::kLanes<float>;
  constexpr Index kBlock = 256;
  constexpr Index kRows = 4;   // dot products in flight
  constexpr int kColumns = 4;  // vectors of o in registers
  static_assert(kKeyDim % kLanes == 0 && kValueDim % (kColumns * kLanes) == 0);
  const simd::Tag<float> d;
  alignas(64) float p[kBlock];
  std::fill(o, o + kValueDim, 0.0f);
  float maximum = -1e30f, total = 0.0f;
  for (Index begin = 0; begin < context; begin += kBlock) {
    const Index count = std::min(kBlock, context - begin);
    float block_maximum = maximum;
    for (Index t = 0; t < count; t += kRows) {
      Vector<float> dots[kRows];
      const Index rows = std::min(kRows, count - t);
      const float* row[kRows];
      for (Index r = 0; r < kRows; ++r)
        row[r] = keys + (begin + t + std::min(r, rows - 1)) * kKeyDim;
      simd::Unroll<kRows>([&](auto r) KLA_SIMD_INLINE { dots[r] = hn::Zero(d); });
      for (Index i = 0; i < kKeyDim; i += kLanes) {
        const auto query = hn::LoadU(d, q + i);
        simd::Unroll<kRows>([&](auto r) KLA_SIMD_INLINE {
          dots[r] = hn::MulAdd(query, hn::LoadU(d, row[r] + i), dots[r]);
        });
      }
      simd::Unroll<kRows>([&](auto r) KLA_SIMD_INLINE {
        p[t + r] = scale * hn::GetLane(hn::SumOfLanes(d, dots[r]));
        block_maximum = std::max(block_maximum, p[t + r]);
      });
    }
    std::fill(p + count, p + (count + kLanes - 1) / kLanes * kLanes, -1e30f);
    auto sum = hn::Zero(d);
    for (Index t = 0; t < count; t += kLanes) {
      const auto e = hn::Exp(d, hn::Sub(hn::Load(d, p + t), hn::Set(d, block_maximum)));
      hn::Store(e, d, p + t);
      sum = hn::Add(sum, e);
    }
    const float shrink = std::exp(maximum - block_maximum);
    total = total * shrink + hn::GetLane(hn::SumOfLanes(d, sum));
    maximum = block_maximum;
    for (Index j = 0; j < kValueDim; j += kColumns * kLanes) {
      Vector<float> out[kColumns];
      simd::Unroll<kColumns>([&](auto c) KLA_SIMD_INLINE {
        out[c] = hn::Mul(hn::Set(d, shrink), hn::LoadU(d, o + j + c * kLanes));
      });
      for (Index t = 0; t < count; ++t) {
        const auto weight = hn::Set(d, p[t]);
        const float* value = values + (begin + t) * kValueDim + j;
        simd::Unroll<kColumns>([&](auto c) KLA_SIMD_INLINE {
          out[c] = hn::MulAdd(weight, hn::LoadU(d, value + c * kLanes), out[c]);
        });
      }
      simd::Unroll<kColumns>([&](auto c)
                                 KLA_SIMD_INLINE { hn::StoreU(out[c], d, o + j + c * kLanes); });
    }
  }
  for (Index j = 0; j < kValueDim; ++j) o[j] /= total;
}

// Baseline/SoftmaxKv/f32/K<K>/V<V>/context:<C>: one token of kHeads heads.
template <Index kKeyDim, Index kValueDim>
void RegisterSoftmaxKv(Index context) {
  constexpr Index kHeads = 16;
  const double elements = static_cast<double>(kHeads * context * (kKeyDim + kValueDim));
  Register("Baseline/SoftmaxKv/f32/" + DimName(kKeyDim, kValueDim) +
               "/context:" + std::to_string(context),
           kHeads, 2 * elements, sizeof(float) * elements, [=] {
             struct Cache {
               std::vector<float> keys, values, q, o;
             };
             auto cache = std::make_shared<Cache>();
             const auto fill = [](std::vector<float>& x, Index size) {
               x.resize(static_cast<std::size_t>(size));
               std::minstd_rand random(1);
               for (float& value : x) value = static_cast<float>(random()) * 0x1p-31f - 0.5f;
             };
             fill(cache->keys, kHeads * context * kKeyDim);
             fill(cache->values, kHeads * context * kValueDim);
             fill(cache->q, kHeads * kKeyDim);
             fill(cache->o, kHeads * kValueDim);
             return [=] {
               for (Index h = 0; h < kHeads; ++h) {
                 SoftmaxKvHead<kKeyDim, kValueDim>(
                     cache->q.data() + h * kKeyDim, cache->keys.data() + h * context * kKeyDim,
                     cache->values.data() + h * context * kValueDim, context, 0.088f,
                     cache->o.data() + h * kValueDim);
               }
             };
           });
}

}  // namespace kla::bench

#endif  // KLA_BENCH_BASELINES_SOFTMAX_KV_H_
