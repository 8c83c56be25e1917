// SPDX-License-Identifier: Apache-2.0
// bench: a token by computing its whole prefix again, which is what the paper's decoding figures
// time.
#ifndef KLA_BENCH_BASELINES_RECOMPUTE_H_
#define KLA_BENCH_BASELINES_RECOMPUTE_H_

#include <memory>

#include "bench_main.h"

namespace kla::bench {

// Baseline/Recompute/f32/K<K>/V<V>/context:<C>: ChunkForward over C tokens of kHeads heads, for the
// output of the last one. ns_per_head_token is per token generated.
template <Index kKeyDim, Index kValueDim>
void RegisterRecompute(Index context) {
  constexpr Index kHeads = 4;
  Register(
      "Baseline/Recompute/f32/" + DimName(kKeyDim, kValueDim) +
          "/context:" + std::to_string(context),
      kHeads, RecurrenceFlops(kKeyDim, kValueDim) * static_cast<double>(kHeads * context), 0, [=] {
        auto in = std::make_shared<Inputs<float>>(context, kHeads, kKeyDim, kValueDim);
        return [=] {
          ChunkForward<Simd, Shape<kKeyDim, kValueDim>>({.q = {in->q.data(), in->extents_k},
                                                         .k = {in->k.data(), in->extents_k},
                                                         .v = {in->v.data(), in->extents_v},
                                                         .g = {in->g.data(), in->extents_g},
                                                         .eta = {in->eta.data(), in->extents_g},
                                                         .o = {in->o.data(), in->extents_v}});
        };
      });
}

}  // namespace kla::bench

#endif  // KLA_BENCH_BASELINES_RECOMPUTE_H_
