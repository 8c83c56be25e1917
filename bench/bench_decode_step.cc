// SPDX-License-Identifier: Apache-2.0
// bench: DecodeStep, one or a few tokens a call, beside its ceilings and baselines.
//   DecodeStep/Simd/<storage>/K<K>/V<V>/heads:<N>[/tokens:<T>][/threads:<P>]
// f32: everything in float; bf16state, f16state: states stored so; bf16: inputs and outputs.
#include <memory>
#include <string>

#include "baselines/recompute.h"
#include "baselines/softmax_kv.h"
#include "bench_main.h"
#include "ceilings.h"

namespace kla::bench {
namespace {

template <class Head, class T, class State, class StepSize = Kla, class Exec = Serial>
void RegisterDecode(const std::string& prefix, const std::string& storage, Index heads,
                    Index tokens = 1, const Exec& executor = {}) {
  constexpr Index kKeyDim = Head::kKeyDim, kValueDim = Head::kValueDim;
  std::string name = prefix + "/" + storage + "/" + DimName(kKeyDim, kValueDim) +
                     "/heads:" + std::to_string(heads);
  if (tokens > 1) name += "/tokens:" + std::to_string(tokens);
  if (executor.Concurrency() > 1) name += "/threads:" + std::to_string(executor.Concurrency());
  const double head_tokens = static_cast<double>(heads * tokens);
  const double state_bytes = static_cast<double>(heads * kKeyDim * kValueDim) * sizeof(State);
  Register(
      name, head_tokens, head_tokens * RecurrenceFlops(kKeyDim, kValueDim), 2 * state_bytes, [=] {
        auto in = std::make_shared<Inputs<T>>(tokens, heads, kKeyDim, kValueDim);
        auto state = std::make_shared<DecodeState<Simd, Head, State>>(1, heads);
        return [=] {
          DecodeStep<Simd, Head, StepSize>(DecodeStepArgs<T>{.q = {in->q.data(), in->extents_k},
                                                             .k = {in->k.data(), in->extents_k},
                                                             .v = {in->v.data(), in->extents_v},
                                                             .g = {in->g.data(), in->extents_g},
                                                             .eta = {in->eta.data(), in->extents_g},
                                                             .o = {in->o.data(), in->extents_v}},
                                           *state, executor);
        };
      });
}

template <Index kKeyDim, Index kValueDim>
void RegisterStorages() {
  using Head = Shape<kKeyDim, kValueDim>;
  for (const Index heads : {16, 2048}) {
    RegisterDecode<Head, float, float>("DecodeStep/Simd", "f32", heads);
    RegisterDecode<Head, float, bfloat16>("DecodeStep/Simd", "bf16state", heads);
    RegisterDecode<Head, float, float16>("DecodeStep/Simd", "f16state", heads);
  }
}

const bool kRegistered = [] {
  using Head = Shape<128, 128>;
  RegisterFmaPeak(128, 128, 16);
  for (const Index heads : {16, 2048}) {
    RegisterInPlaceScale("f32", 4, heads);
    RegisterInPlaceScale("bf16state", 2, heads);
  }

  RegisterStorages<128, 128>();
  RegisterStorages<96, 192>();
  RegisterStorages<64, 64>();
  RegisterStorages<256, 256>();

  for (const Index tokens : {2, 4, 8, 16}) {
    for (const Index heads : {16, 2048}) {
      RegisterDecode<Head, float, float>("DecodeStep/Simd", "f32", heads, tokens);
      RegisterDecode<Head, float, bfloat16>("DecodeStep/Simd", "bf16state", heads, tokens);
    }
  }
  RegisterDecode<Head, bfloat16, float>("DecodeStep/Simd", "bf16", 16);
  RegisterDecode<Head, bfloat16, float>("DecodeStep/Simd", "bf16", 2048);
#if defined(_OPENMP)
  for (const Index heads : {16, 2048}) {
    RegisterDecode<Head, float, float>("DecodeStep/Simd", "f32", heads, 1, OpenMp{2});
  }
#endif

  for (const Index heads : {16, 2048}) {
    RegisterDecode<Head, float, float, Gdn>("Baseline/GatedDelta", "f32", heads);
  }
  for (Index context = 1024; context <= 65536; context *= 2) RegisterSoftmaxKv<128, 128>(context);
  for (Index context = 1024; context <= 32768; context *= 2) RegisterRecompute<128, 128>(context);
  return true;
}();

}  // namespace
}  // namespace kla::bench
