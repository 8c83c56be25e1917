// SPDX-License-Identifier: Apache-2.0
// compile_fail: the extents of a view without its batch axis.
// EXPECT: kla: a view takes one extent (and one stride) for each of its axes
// EXPECT: RankMatches<4, 3>
// EXPECT: for one sequence write B = 1 first: {1, T, H, 64}
#include <kla/core/view.h>

kla::KeyView<float> Queries(float* data, kla::Index tokens, kla::Index heads) {
#ifndef KLA_CORRECTED
  return {data, {tokens, heads, 64}};
#else
  return {data, {1, tokens, heads, 64}};
#endif
}
