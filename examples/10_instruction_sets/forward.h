// SPDX-License-Identifier: Apache-2.0
// One sequence with one head through ChunkForward, compiled for one instruction set each. Nothing
// but C types crosses this line: the tag kla::Simd is another type in either object.
#ifndef KLA_EXAMPLES_10_INSTRUCTION_SETS_FORWARD_H_
#define KLA_EXAMPLES_10_INSTRUCTION_SETS_FORWARD_H_

constexpr int kTokens = 200, kDim = 64;

struct Sequence {
  const float *q, *k, *v, *g, *eta;  // [T, 64], [T, 64], [T, 64], [T], [T]
};

// Write o [T, 64] and return the name of the instruction set.
const char* ForwardForAvx2(const Sequence& in, float* o);
const char* ForwardForAvx512(const Sequence& in, float* o);

#endif  // KLA_EXAMPLES_10_INSTRUCTION_SETS_FORWARD_H_
