// SPDX-License-Identifier: Apache-2.0
// build: every operation of kla::Simd behind one C function; compiled once per instruction set.
#include "two_isa.h"

#include <kla/backend/simd/simd.h>
#include <kla/op/chunk_backward.h>
#include <kla/op/chunk_forward.h>
#include <kla/op/decode_step.h>

#ifdef KLA_TWO_ISA_PLAIN_FUNCTION
// What a kernel would be without the tag in Highway's target namespace: one name, two codes.
namespace kla {
template <class T>
[[gnu::noinline]] T NamedAlikeForBoth(const T* x) {
  T sum = 0;
  for (int i = 0; i < 64; ++i) sum += x[i] * x[i];
  return sum;
}
}  // namespace kla
#endif

extern "C" const char* KLA_TWO_ISA_ENTRY(const TwoIsaCase& c) {
  using Head = kla::Shape<kKey, kValue>;
  const kla::KeyView<const float> q(c.q, {1, kTokens, kHeads, kKey});
  const kla::KeyView<const float> k(c.k, {1, kTokens, kHeads, kKey});
  const kla::ValueView<const float> v(c.v, {1, kTokens, kHeads, kValue});
  const kla::ValueView<const float> d_o(c.d_o, {1, kTokens, kHeads, kValue});
  const kla::GateView<const float> g(c.g, {1, kTokens, kHeads});
  const kla::GateView<const float> eta(c.eta, {1, kTokens, kHeads});

  kla::ChunkForward<kla::Simd, Head>(
      {.q = q, .k = k, .v = v, .g = g, .eta = eta, .o = {c.o, {1, kTokens, kHeads, kValue}}});
  kla::ChunkBackward<kla::Simd, Head>({.q = q,
                                       .k = k,
                                       .v = v,
                                       .g = g,
                                       .eta = eta,
                                       .d_o = d_o,
                                       .dq = {c.dq, {1, kTokens, kHeads, kKey}},
                                       .dk = {c.dk, {1, kTokens, kHeads, kKey}},
                                       .dv = {c.dv, {1, kTokens, kHeads, kValue}},
                                       .dg = {c.dg, {1, kTokens, kHeads}},
                                       .deta = {c.deta, {1, kTokens, kHeads}}});

  kla::DecodeState<kla::Simd, Head> state(1, kHeads);
  for (int t = 0; t < kTokens; ++t) {
    const int keys = t * kHeads * kKey, values = t * kHeads * kValue, gates = t * kHeads;
    kla::DecodeStep<kla::Simd, Head>({.q = {c.q + keys, {1, 1, kHeads, kKey}},
                                      .k = {c.k + keys, {1, 1, kHeads, kKey}},
                                      .v = {c.v + values, {1, 1, kHeads, kValue}},
                                      .g = {c.g + gates, {1, 1, kHeads}},
                                      .eta = {c.eta + gates, {1, 1, kHeads}},
                                      .o = {c.o_decode + values, {1, 1, kHeads, kValue}}},
                                     state);
  }
#ifdef KLA_TWO_ISA_PLAIN_FUNCTION
  c.o[0] += 0 * kla::NamedAlikeForBoth(c.q);
#endif
  return kla::Simd::kInstructionSet.data();
}
