// SPDX-License-Identifier: Apache-2.0
// build: what main.cc and the two instruction sets exchange. No kla header, so nothing to share.
#ifndef KLA_TESTS_BUILD_TWO_ISA_ODR_TWO_ISA_H_
#define KLA_TESTS_BUILD_TWO_ISA_ODR_TWO_ISA_H_

inline constexpr int kTokens = 70, kHeads = 2, kKey = 32, kValue = 48;

struct TwoIsaCase {
  const float *q, *k, *v, *g, *eta, *d_o;  // [1, T, H, K], values [1, T, H, V], gates [1, T, H]
  float *o, *dq, *dk, *dv, *dg, *deta;     // as the inputs
  float* o_decode;                         // [1, T, H, V], token by token
};

// Runs ChunkForward, ChunkBackward and DecodeStep; returns the name of the instruction set.
extern "C" const char* Run_avx2(const TwoIsaCase&);
extern "C" const char* Run_avx512(const TwoIsaCase&);

#endif  // KLA_TESTS_BUILD_TWO_ISA_ODR_TWO_ISA_H_
