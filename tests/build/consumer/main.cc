// SPDX-License-Identifier: Apache-2.0
// build: a user's program. One token, so that the answer is known without a library:
//   S = eta / (|k|^2 + eps) k v^T,   o = scale S^T q / sqrt(|q|^2 + eps)
#include <kla/kla.h>

#include <cmath>
#include <cstdio>
#include <vector>

float SecondFile();
bool LayerAgrees();

int main() {
  using Head = kla::Shape<16, 32>;
  std::vector<float> q(16), k(16), v(32), o(32, -1.0f);
  q[3] = 5.0f;
  k[3] = 2.0f;
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i) - 8.0f;
  const float g = -0.25f, eta = 0.75f;

  kla::ChunkForward<kla::Simd, Head>({.q = {q.data(), {1, 1, 1, 16}},
                                      .k = {k.data(), {1, 1, 1, 16}},
                                      .v = {v.data(), {1, 1, 1, 32}},
                                      .g = {&g, {1, 1, 1}},
                                      .eta = {&eta, {1, 1, 1}},
                                      .o = {o.data(), {1, 1, 1, 32}}});

  const double factor = 0.25 * (0.75 / (4 + 1e-6)) * 2 * (5 / std::sqrt(25 + 1e-6));
  for (std::size_t i = 0; i < v.size(); ++i) {
    // Values of size 24 at most, a handful of roundings: 1e-5 is 2 to 3 digits above them.
    if (!(std::abs(o[i] - factor * v[i]) <= 1e-5)) {
      std::printf("o[%zu] = %g, expected %g\n", i, static_cast<double>(o[i]), factor * v[i]);
      return 1;
    }
  }
  if (SecondFile() != o[0]) {
    std::printf("the second source file computes something else\n");
    return 1;
  }
  if (!LayerAgrees()) {
    std::printf("the layer computes something else token by token\n");
    return 1;
  }
  std::printf("as expected\n");
  return 0;
}
