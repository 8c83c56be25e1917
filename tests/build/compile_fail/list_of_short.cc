// SPDX-License-Identifier: Apache-2.0
// compile_fail: slots of 16 bits.
// EXPECT: kla: a list of indices (slots, cu_seqlens) holds integers of 32 or 64 bits
#include <kla/core/layout.h>

#include <vector>

#ifndef KLA_CORRECTED
using Integer = short;
#else
using Integer = unsigned;
#endif
kla::IndexList List(const std::vector<Integer>& slots) { return slots; }
