// SPDX-License-Identifier: Apache-2.0
// compile_fail: the values of a head are passed where its keys belong.
// EXPECT: kla: this view has another axis than the argument it is passed as
// EXPECT: AxisMatches<kla::Key, kla::Value>
#include <kla/kla.h>

void Run(kla::KeyView<const float> q, kla::KeyView<const float> k, kla::ValueView<const float> v,
         kla::GateView<const float> g, kla::GateView<const float> eta, kla::ValueView<float> o) {
  using Head = kla::Shape<64, 64>;
#ifndef KLA_CORRECTED
  static_cast<void>(k);
  kla::ChunkForward<kla::Reference, Head>({.q = q, .k = v, .v = v, .g = g, .eta = eta, .o = o});
#else
  kla::ChunkForward<kla::Reference, Head>({.q = q, .k = k, .v = v, .g = g, .eta = eta, .o = o});
#endif
}
