// SPDX-License-Identifier: Apache-2.0
// Where Linux refuses tile registers to a process, as it does once a signal stack too small for
// their contents is installed, ChunkForward of bfloat16 computes with floats, and BackendName()
// says so.
#include <gtest/gtest.h>
#include <signal.h>

#include <string>
#include <vector>

#include "kla/kla.h"

namespace kla::test {
namespace {

#if KLA_SIMD_HAS_BF16_TILES

TEST(SimdTilesRefusedTest, FloatsAreMultipliedInstead) {
  static std::vector<char> small(8192);
  stack_t stack{};
  stack.ss_sp = small.data();
  stack.ss_size = small.size();
  if (sigaltstack(&stack, nullptr) != 0) GTEST_SKIP() << "no signal stack of 8 KB here";
  if (HWY_NAMESPACE::TilesAreAllowed()) GTEST_SKIP() << "this system grants tiles all the same";
  EXPECT_NE(BackendName<Simd>().find("(AMX refused)"), std::string::npos);

  constexpr Index kTokens = 40, kKey = 16, kValue = 32;
  std::vector<bfloat16> q(kTokens * kKey), k(q.size()), v(kTokens * kValue), o(v.size());
  std::vector<bfloat16> expected(v.size());
  std::vector<float> g(kTokens, -0.1f), eta(kTokens, 0.7f);
  for (std::size_t i = 0; i < q.size(); ++i) {
    q[i] = bfloat16(0.01f * static_cast<float>(i * 37 % 101) - 0.5f);
    k[i] = bfloat16(0.01f * static_cast<float>(i * 53 % 103) - 0.5f);
  }
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] = bfloat16(0.01f * static_cast<float>(i * 29 % 97) - 0.5f);
  }
  const auto run = [&](auto backend, std::vector<bfloat16>& out) {
    ChunkForward<decltype(backend), Shape<kKey, kValue>>(
        ChunkForwardArgs<bfloat16>{.q = {q.data(), {1, kTokens, 1, kKey}},
                                   .k = {k.data(), {1, kTokens, 1, kKey}},
                                   .v = {v.data(), {1, kTokens, 1, kValue}},
                                   .g = {g.data(), {1, kTokens, 1}},
                                   .eta = {eta.data(), {1, kTokens, 1}},
                                   .o = {out.data(), {1, kTokens, 1, kValue}}});
  };
  run(Simd{}, o);
  run(Reference{}, expected);
  for (std::size_t i = 0; i < o.size(); ++i) {
    // Both round the same float arithmetic to bfloat16: two roundoffs of the largest output.
    ASSERT_NEAR(static_cast<float>(o[i]), static_cast<float>(expected[i]), 2.0f / 256) << i;
  }
}

#else

TEST(SimdTilesRefusedTest, FloatsAreMultipliedInstead) {
  GTEST_SKIP() << "not compiled for tile registers";
}

#endif

}  // namespace
}  // namespace kla::test
