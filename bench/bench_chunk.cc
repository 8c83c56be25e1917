// SPDX-License-Identifier: Apache-2.0
// bench: ChunkForward and ChunkBackward (prefill and training), beside the peak of the processor.
//   ChunkForward/Simd/<type>/K<K>/V<V>/heads:<N>/tokens:<T>[/threads:<P>]
//   ChunkBackward/...[/states:kept]   kept: the states that enter the chunks come from ChunkForward
// Ceilings are for one token of 16 heads: multiply by the tokens to compare.
#include <memory>
#include <string>

#include "bench_main.h"
#include "ceilings.h"

namespace kla::bench {
namespace {

template <class T>
struct TypeName;
template <>
struct TypeName<float> {
  static constexpr const char* kValue = "f32";
};
template <>
struct TypeName<double> {
  static constexpr const char* kValue = "f64";
};
template <>
struct TypeName<bfloat16> {
  static constexpr const char* kValue = "bf16";
};
template <>
struct TypeName<float16> {
  static constexpr const char* kValue = "f16";
};

template <class Head, class T, class Exec>
std::string CaseName(const std::string& operation, Index heads, Index tokens,
                     const Exec& executor) {
  std::string name = operation + "/Simd/" + TypeName<T>::kValue + "/" +
                     DimName(Head::kKeyDim, Head::kValueDim) + "/heads:" + std::to_string(heads) +
                     "/tokens:" + std::to_string(tokens);
  if (executor.Concurrency() > 1) name += "/threads:" + std::to_string(executor.Concurrency());
  return name;
}

// Inputs, gradients and the states that enter the chunks, as large as asked for.
template <class Head, class T>
struct Training : Inputs<T> {
  using R = Accumulator<T>;
  static constexpr Index kChunk = kChunkLength<Simd, Head, T>;
  using Base = Inputs<T>;

  Training(Index tokens, Index heads, bool keep_states)
      : Base(tokens, heads, Head::kKeyDim, Head::kValueDim),
        d_o(this->v),
        dq(this->q.size()),
        dk(this->k.size()),
        dv(this->v.size()),
        dg(this->g.size()),
        deta(this->g.size()),
        extents_s{(tokens + kChunk - 1) / kChunk, heads, Head::kKeyDim, Head::kValueDim},
        states(keep_states ? Base::Size(extents_s) : 0) {}

  ChunkForwardArgs<T> Forward() {
    ChunkForwardArgs<T> args{.q = {this->q.data(), this->extents_k},
                             .k = {this->k.data(), this->extents_k},
                             .v = {this->v.data(), this->extents_v},
                             .g = {this->g.data(), this->extents_g},
                             .eta = {this->eta.data(), this->extents_g},
                             .o = {this->o.data(), this->extents_v}};
    if (!states.empty()) args.chunk_states = {states.data(), extents_s};
    return args;
  }

  ChunkBackwardArgs<T> Backward() {
    ChunkBackwardArgs<T> args{.q = {this->q.data(), this->extents_k},
                              .k = {this->k.data(), this->extents_k},
                              .v = {this->v.data(), this->extents_v},
                              .g = {this->g.data(), this->extents_g},
                              .eta = {this->eta.data(), this->extents_g},
                              .d_o = {d_o.data(), this->extents_v},
                              .dq = {dq.data(), this->extents_k},
                              .dk = {dk.data(), this->extents_k},
                              .dv = {dv.data(), this->extents_v},
                              .dg = {dg.data(), this->extents_g},
                              .deta = {deta.data(), this->extents_g}};
    if (!states.empty()) args.chunk_states = {states.data(), extents_s};
    return args;
  }

  AlignedVector<T> d_o, dq, dk, dv;
  AlignedVector<R> dg, deta;
  typename ChunkStateView<R>::Sizes extents_s;
  AlignedVector<R> states;
};

// Bytes are those of the arguments, each read or written once.
template <class Head, class T, class Exec = Serial>
void RegisterForward(Index heads, Index tokens, const Exec& executor = {}) {
  const double head_tokens = static_cast<double>(heads * tokens);
  const double bytes =
      head_tokens * 2.0 * static_cast<double>(Head::kKeyDim + Head::kValueDim) * sizeof(T);
  Register(CaseName<Head, T>("ChunkForward", heads, tokens, executor), head_tokens,
           head_tokens * RecurrenceFlops(Head::kKeyDim, Head::kValueDim), bytes, [=] {
             auto data = std::make_shared<Training<Head, T>>(tokens, heads, false);
             return [=] { ChunkForward<Simd, Head, Kla, T>(data->Forward(), executor); };
           });
}

// FLOP/s counts the forward recurrence's 6KV flops here, too: time relative to it is what matters.
template <class Head, class T, class Exec = Serial>
void RegisterBackward(Index heads, Index tokens, bool keep_states, const Exec& executor = {}) {
  const double head_tokens = static_cast<double>(heads * tokens);
  const double bytes =
      head_tokens * static_cast<double>(4 * Head::kKeyDim + 3 * Head::kValueDim) * sizeof(T);
  Register(CaseName<Head, T>("ChunkBackward", heads, tokens, executor) +
               (keep_states ? "/states:kept" : ""),
           head_tokens, head_tokens * RecurrenceFlops(Head::kKeyDim, Head::kValueDim), bytes, [=] {
             auto data = std::make_shared<Training<Head, T>>(tokens, heads, keep_states);
             if (keep_states) ChunkForward<Simd, Head, Kla, T>(data->Forward(), executor);
             return [=] { ChunkBackward<Simd, Head, Kla, T>(data->Backward(), executor); };
           });
}

template <class Head, class T, class Exec = Serial>
void RegisterBoth(Index heads, Index tokens, const Exec& executor = {}) {
  RegisterForward<Head, T>(heads, tokens, executor);
  RegisterBackward<Head, T>(heads, tokens, true, executor);
}

template <class Head, class T>
void RegisterShape() {
  RegisterForward<Head, T>(16, 4096);
  RegisterBackward<Head, T>(16, 4096, false);
}

const bool kRegistered = [] {
  using Head = Shape<128, 128>;
  RegisterFmaPeak(128, 128, 16);
  RegisterProductPeak(128, 128, 16);
  RegisterBf16DotPeak(128, 128, 16);
  RegisterBf16TilePeak(128, 128, 16);
  RegisterShape<Head, float>();
  RegisterShape<Head, bfloat16>();
  RegisterShape<Shape<96, 192>, float>();
  RegisterShape<Shape<96, 192>, bfloat16>();
  RegisterShape<Shape<64, 64>, float>();
  RegisterShape<Shape<256, 256>, float>();
  RegisterForward<Head, double>(16, 4096);
  RegisterForward<Head, float16>(16, 4096);
  RegisterBackward<Head, float>(16, 4096, true);
  for (const Index tokens : {512, 1024, 16384, 65536}) RegisterForward<Head, float>(16, tokens);
  RegisterForward<Head, float>(1, 4096);
  RegisterForward<Head, float>(1, 65536);
  RegisterBackward<Head, float>(1, 65536, false);
#if defined(_OPENMP)
  RegisterForward<Head, float>(16, 4096, OpenMp{2});
  RegisterForward<Head, float>(8, 4096, OpenMp{2});
  RegisterForward<Head, float>(1, 65536, OpenMp{2});
  RegisterForward<Head, bfloat16>(16, 4096, OpenMp{2});
  RegisterBackward<Head, float>(16, 4096, false, OpenMp{2});
  RegisterBackward<Head, float>(1, 65536, false, OpenMp{2});
  RegisterForward<Head, float>(8, 4096);
  // Heads that are few for the threads, or no multiple of them.
  RegisterBoth<Head, float>(3, 16384);
  RegisterBoth<Head, float>(3, 16384, OpenMp{2});
  if (omp_get_num_procs() > 2) RegisterBoth<Head, float>(6, 16384);
  for (int threads = 4; threads <= omp_get_num_procs(); threads *= 2) {
    RegisterBoth<Head, float>(6, 16384, OpenMp{threads});
  }
#endif
  return true;
}();

}  // namespace
}  // namespace kla::bench
