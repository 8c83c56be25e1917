// SPDX-License-Identifier: Apache-2.0
// compile_fail: a state in braces without its sequence axis.
// EXPECT: kla: a view takes one extent (and one stride) for each of its axes
// EXPECT: RankMatches<4, 3>
#include <kla/core/layout.h>

kla::StateRef<float> State(float* data, kla::Index heads) {
#ifndef KLA_CORRECTED
  return {data, {heads, 64, 64}};
#else
  return {data, {1, heads, 64, 64}};
#endif
}
