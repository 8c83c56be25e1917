// SPDX-License-Identifier: Apache-2.0
// ChunkBackward on every backend, type and shape, against the Reference backend in double, which is
// itself tested against finite differences here and against automatic differentiation in
// tests/backend/reference/autodiff_test.cc.
#ifndef KLA_TESTS_OP_CHUNK_BACKWARD_SUITE_H_
#define KLA_TESTS_OP_CHUNK_BACKWARD_SUITE_H_

#include <cmath>

#include "gtest/gtest.h"
#include "support/exact.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {

template <class C>
class ChunkBackwardTest : public ::testing::Test {
 protected:
  template <class StepSize = Kla>
  static void ExpectMatchesReference(const Case& c, std::uint64_t seed) {
    SCOPED_TRACE(c.name);
    const Given<C> given(c, seed);
    const auto expected = ExactGradients<StepSize>(given.exact_case, given.exact);
    const auto actual = RunBackward<C, StepSize>(c, given.tensors);
    // A gradient sums products of two accumulations, the states and their gradients: twice the
    // growth of the forward pass, relative to the norm of the largest rows (4 times the RMS).
    const double relative =
        8 * kRoundoff<Accumulator<typename C::T>> * Growth(c.tokens, C::kKeyDim, C::kValueDim) +
        2 * kOperandRoundoff<typename C::Backend, typename C::T> * OperandGrowth(c.tokens);
    const auto compare = [&](const char* what, const auto& got, const auto& want, double storage) {
      ExpectClose(what, got.Values(), want.Values(),
                  relative * Rms(want.Values()) + kUnderflow<typename C::T>, storage);
      EXPECT_TRUE(got.PaddingIsIntact()) << what;
    };
    compare("dq", actual.dq, expected.dq, kRoundoff<typename C::T>);
    // dk of a zero key is of the order of 1 / epsilon = 1e6, which float16 cannot hold.
    if (!std::is_same_v<typename C::T, float16> || c.inputs != Inputs::kZeroKeys) {
      compare("dk", actual.dk, expected.dk, kRoundoff<typename C::T>);
    }
    compare("dv", actual.dv, expected.dv, kRoundoff<typename C::T>);
    // dg sums products as large as <S, dS>, which may cancel; their factors are rounded.
    const double terms = Rms(given.exact.initial_state.Values()) *
                         Rms(given.exact.d_final_state.Values()) *
                         std::sqrt(double(C::kKeyDim * C::kValueDim));
    ExpectClose("dg", actual.dg.Values(), expected.dg.Values(),
                relative * Rms(expected.dg.Values()) +
                    kOperandRoundoff<typename C::Backend, typename C::T> * terms,
                0);
    EXPECT_TRUE(actual.dg.PaddingIsIntact()) << "dg";
    compare("deta", actual.deta, expected.deta, 0);
    if (c.initial_state) {
      compare("d_initial_state", actual.d_initial_state, expected.d_initial_state,
              kRoundoff<typename C::State>);
    }
  }
};

TYPED_TEST_SUITE_P(ChunkBackwardTest);

TYPED_TEST_P(ChunkBackwardTest, MatchesReference) {
  std::uint64_t seed = 200;
  for (const Case& c : ChunkCases(TypeParam::kChunkTokens)) this->ExpectMatchesReference(c, ++seed);
}

TYPED_TEST_P(ChunkBackwardTest, OtherStepSizes) {
  const Case c{.name = "small_keys",
               .tokens = 100,
               .key_heads = 1,
               .value_heads = 2,
               .key_scale = 0.25 / std::sqrt(static_cast<double>(TypeParam::kKeyDim))};
  this->template ExpectMatchesReference<Gdn>(c, 3);
  if constexpr (kRunsEveryStepSize<TypeParam>) {
    this->template ExpectMatchesReference<RelaxedKaczmarz>(c, 1);
    this->template ExpectMatchesReference<Kaczmarz>(c, 2);
    this->template ExpectMatchesReference<Longhorn>(c, 4);
    this->template ExpectMatchesReference<PlainDelta>(c, 5);
  }
}

TYPED_TEST_P(ChunkBackwardTest, ChunkStatesSaveRecomputation) {
  using R = Accumulator<typename TypeParam::T>;
  const Case c{.name = "chunk_states",
               .tokens = 150,
               .key_heads = 1,
               .value_heads = 2,
               .cu_seqlens = {0, 70, 150}};
  const Given<TypeParam> given(c, 11);
  Array<ChunkStateView<R>> states({ChunkCount(c.offsets(), 1, c.tokens, TypeParam::kChunkTokens), 2,
                                   TypeParam::kKeyDim, TypeParam::kValueDim});
  RunForward<TypeParam>(c, given.tensors, Serial{}, states.view());
  const auto recomputed = RunBackward<TypeParam>(c, given.tensors);
  const auto kept = RunBackward<TypeParam>(c, given.tensors, Serial{}, states.view());
  EXPECT_TRUE(kept.dq.SameBits(recomputed.dq));
  EXPECT_TRUE(kept.dk.SameBits(recomputed.dk));
  EXPECT_TRUE(kept.dv.SameBits(recomputed.dv));
  EXPECT_TRUE(kept.dg.SameBits(recomputed.dg));
  EXPECT_TRUE(kept.deta.SameBits(recomputed.deta));
}

#if defined(_OPENMP)
// So many threads, and yet one task after the other: what a busy pool may do.
struct OneAfterTheOther : Serial {
  Index threads;
  Index Concurrency() const { return threads; }
};

// Tasks are groups of heads or parts of their sequences, which walk states and dS for themselves.
TYPED_TEST_P(ChunkBackwardTest, SameBitsForEveryThreadCount) {
  using R = Accumulator<typename TypeParam::T>;
  for (const Index heads : {1, 3}) {
    Case c{.name = "threads",
           .tokens = 233,
           .key_heads = heads,
           .value_heads = 2 * heads,
           .cu_seqlens = {0, 200, 233}};
    const Given<TypeParam> given(c, 12);
    Array<ChunkStateView<R>> kept({ChunkCount(c.offsets(), 1, c.tokens, TypeParam::kChunkTokens),
                                   c.value_heads, TypeParam::kKeyDim, TypeParam::kValueDim});
    RunForward<TypeParam>(c, given.tensors, Serial{}, kept.view());
    const auto serial = RunBackward<TypeParam>(c, given.tensors);
    const auto expect_same = [&](const auto& parallel) {
      EXPECT_TRUE(parallel.dq.SameBits(serial.dq));
      EXPECT_TRUE(parallel.dk.SameBits(serial.dk));
      EXPECT_TRUE(parallel.dv.SameBits(serial.dv));
      EXPECT_TRUE(parallel.dg.SameBits(serial.dg));
      EXPECT_TRUE(parallel.deta.SameBits(serial.deta));
      EXPECT_TRUE(parallel.d_initial_state.key_rows.SameBits(serial.d_initial_state.key_rows));
    };
    for (const int threads : {1, 2, 7}) {
      SCOPED_TRACE(threads);
      expect_same(RunBackward<TypeParam>(c, given.tensors, OpenMp{threads}));
      const OneAfterTheOther in_order{{}, threads};
      c.state_in_place = true;
      expect_same(RunBackward<TypeParam>(c, given.tensors, in_order, kept.view()));
      c.state_in_place = false;
    }
    expect_same(RunBackward<TypeParam>(c, given.tensors, OpenMp{3}, kept.view()));
  }
}
#else
TYPED_TEST_P(ChunkBackwardTest, SameBitsForEveryThreadCount) { GTEST_SKIP() << "no OpenMP"; }
#endif

REGISTER_TYPED_TEST_SUITE_P(ChunkBackwardTest, MatchesReference, OtherStepSizes,
                            ChunkStatesSaveRecomputation, SameBitsForEveryThreadCount);

}  // namespace kla::test

#endif  // KLA_TESTS_OP_CHUNK_BACKWARD_SUITE_H_
