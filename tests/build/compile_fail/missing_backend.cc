// SPDX-License-Identifier: Apache-2.0
// compile_fail: a backend for which nobody has written a kernel.
// EXPECT: kla: no kernel for this (Op, Backend, Shape); include kla/backend/<name>/
// EXPECT: or specialise kla::Kernel (core/kernel.h)
// EXPECT: Abacus
#include <kla/kla.h>

struct Abacus {};
#ifndef KLA_CORRECTED
using Backend = Abacus;
#else
using Backend = kla::Reference;
#endif

void Run(kla::KeyView<const float> q, kla::KeyView<const float> k, kla::ValueView<const float> v,
         kla::GateView<const float> g, kla::GateView<const float> eta, kla::ValueView<float> o) {
  kla::ChunkForward<Backend, kla::Shape<64, 64>>(
      {.q = q, .k = k, .v = v, .g = g, .eta = eta, .o = o});
}
