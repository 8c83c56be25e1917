// SPDX-License-Identifier: Apache-2.0
// compile_fail: a chunk length that no matrix tile divides.
// EXPECT: kla: kChunk must be a multiple of 16 (matrix tile); use 16, 32 or 64
#include <kla/kla.h>

#ifndef KLA_CORRECTED
using Head = kla::Shape</*key*/ 96, /*value*/ 192, /*chunk*/ 24>;
#else
using Head = kla::Shape</*key*/ 96, /*value*/ 192, /*chunk*/ 32>;
#endif
constexpr auto kChunk = Head::kChunk;
static_assert(kChunk >= 0);
