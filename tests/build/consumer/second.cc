// SPDX-License-Identifier: Apache-2.0
// build: a second source file with the same header and the same kernel, linked into one program.
#include <kla/kla.h>

#include <vector>

float SecondFile() {
  std::vector<float> q(16), k(16), v(32), o(32);
  q[3] = 5.0f;
  k[3] = 2.0f;
  v[0] = -8.0f;
  const float g = 0.0f, eta = 0.75f;
  kla::ChunkForward<kla::Simd, kla::Shape<16, 32>>({.q = {q.data(), {1, 1, 1, 16}},
                                                    .k = {k.data(), {1, 1, 1, 16}},
                                                    .v = {v.data(), {1, 1, 1, 32}},
                                                    .g = {&g, {1, 1, 1}},
                                                    .eta = {&eta, {1, 1, 1}},
                                                    .o = {o.data(), {1, 1, 1, 32}}});
  return o[0];
}
