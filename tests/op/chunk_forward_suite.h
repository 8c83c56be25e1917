// SPDX-License-Identifier: Apache-2.0
// ChunkForward on every backend, type and shape, against the recurrence in double.
#ifndef KLA_TESTS_OP_CHUNK_FORWARD_SUITE_H_
#define KLA_TESTS_OP_CHUNK_FORWARD_SUITE_H_

#include <cmath>

#include "gtest/gtest.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {

template <class C>
class ChunkForwardTest : public ::testing::Test {
 protected:
  template <class StepSize = Kla>
  static void ExpectMatchesOracle(const Case& c, std::uint64_t seed) {
    SCOPED_TRACE(c.name);
    const Given<C> given(c, seed);
    const OracleResult expected = RunOracle<StepSize>(c, given.tensors);
    const auto actual = RunForward<C, StepSize>(c, given.tensors);
    const double scale = c.scale.value_or(1.0 / std::sqrt(static_cast<double>(C::kKeyDim)));
    using T = typename C::T;
    const double errors = (kRoundoff<Accumulator<T>> * Growth(c.tokens, C::kKeyDim, C::kValueDim) +
                           kOperandRoundoff<typename C::Backend, T> * OperandGrowth(c.tokens)) *
                          expected.max_state_norm;
    ExpectClose("o", actual.o.Values(), expected.o.Values(),
                errors * scale * expected.max_query_norm / std::sqrt(double(C::kValueDim)),
                kRoundoff<typename C::T>);
    ExpectClose("final_state", actual.final_state.Values(), expected.final_state.Values(),
                errors / std::sqrt(double(C::kKeyDim * C::kValueDim)),
                kRoundoff<typename C::State>);
    EXPECT_TRUE(actual.o.PaddingIsIntact());
    EXPECT_TRUE(actual.final_state.PaddingIsIntact());
  }
};

TYPED_TEST_SUITE_P(ChunkForwardTest);

TYPED_TEST_P(ChunkForwardTest, MatchesOracle) {
  std::uint64_t seed = 100;
  for (const Case& c : ChunkCases(TypeParam::kChunkTokens)) this->ExpectMatchesOracle(c, ++seed);
}

TYPED_TEST_P(ChunkForwardTest, OtherStepSizes) {
  // Components small enough that |k|^2 eta < 2 for the step sizes that do not divide by |k|^2.
  const Case c{.name = "small_keys",
               .tokens = 100,
               .key_heads = 1,
               .value_heads = 2,
               .key_scale = 0.25 / std::sqrt(static_cast<double>(TypeParam::kKeyDim))};
  this->template ExpectMatchesOracle<Gdn>(c, 3);
  if constexpr (kRunsEveryStepSize<TypeParam>) {
    this->template ExpectMatchesOracle<RelaxedKaczmarz>(c, 1);
    this->template ExpectMatchesOracle<Kaczmarz>(c, 2);
    this->template ExpectMatchesOracle<Longhorn>(c, 4);
    this->template ExpectMatchesOracle<PlainDelta>(c, 5);
  }
}

#if defined(_OPENMP)
// Tasks are groups of heads or columns of V, depending on how many heads, threads and columns there
// are.
TYPED_TEST_P(ChunkForwardTest, SameBitsForEveryThreadCount) {
  using R = Accumulator<typename TypeParam::T>;
  const auto packed = [](Index heads) {
    return Case{.name = "threads",
                .tokens = 333,
                .key_heads = heads,
                .value_heads = heads,
                .cu_seqlens = {0, 300, 333}};
  };
  for (const Case& c :
       {packed(1), packed(5), Case{.name = "one", .tokens = 150, .transposed_state = true}}) {
    const Given<TypeParam> given(c, 7);
    const Index chunks = ChunkCount(c.offsets(), 1, c.tokens, TypeParam::kChunkTokens);
    for (const bool keep_states : {false, true}) {
      const auto run = [&](const auto& executor, auto& states) {
        return RunForward<TypeParam>(c, given.tensors, executor,
                                     keep_states ? states.view() : ChunkStateView<R>());
      };
      const typename ChunkStateView<R>::Sizes extents = {chunks, c.value_heads, TypeParam::kKeyDim,
                                                         TypeParam::kValueDim};
      Array<ChunkStateView<R>> serial_states(extents);
      const auto serial = run(Serial{}, serial_states);
      for (const int threads : {1, 2, 3, 7}) {
        Array<ChunkStateView<R>> states(extents);
        const auto parallel = run(OpenMp{threads}, states);
        EXPECT_TRUE(parallel.o.SameBits(serial.o)) << threads;
        EXPECT_TRUE(parallel.final_state.key_rows.SameBits(serial.final_state.key_rows)) << threads;
        EXPECT_TRUE(states.SameBits(serial_states)) << threads;
      }
    }
  }
}
#else
TYPED_TEST_P(ChunkForwardTest, SameBitsForEveryThreadCount) { GTEST_SKIP() << "no OpenMP"; }
#endif

TYPED_TEST_P(ChunkForwardTest, ChunkStatesAreThoseThatEnterEachChunk) {
  using R = Accumulator<typename TypeParam::T>;
  const Index chunk = TypeParam::kChunkTokens;
  const Case c{.name = "chunk_states",
               .tokens = 2 * chunk + 5,
               .key_heads = 1,
               .value_heads = 2,
               .cu_seqlens = {0, chunk + 1, chunk + 1, 2 * chunk + 5}};
  const Given<TypeParam> given(c, 8);
  const Index count = ChunkCount(c.offsets(), 1, c.tokens, chunk);
  ASSERT_EQ(count, 4);  // two of each sequence that is not empty
  Array<ChunkStateView<R>> states({count, 2, TypeParam::kKeyDim, TypeParam::kValueDim});
  RunForward<TypeParam>(c, given.tensors, Serial{}, states.view());
  // Chunk 1 begins after `chunk` tokens of sequence 0: the final state of a run of that length.
  Case prefix = c;
  prefix.cu_seqlens = {0, chunk, chunk, chunk};
  prefix.tokens = chunk;
  Given<TypeParam> shorter(prefix, 8);
  const auto copy = [&](auto& to, const auto& from) {
    const auto values = from.Values();
    std::size_t i = 0;
    to.Fill([&] { return values[i++]; });
  };
  copy(shorter.tensors.q, given.tensors.q);
  copy(shorter.tensors.k, given.tensors.k);
  copy(shorter.tensors.v, given.tensors.v);
  copy(shorter.tensors.g, given.tensors.g);
  copy(shorter.tensors.eta, given.tensors.eta);
  copy(shorter.tensors.initial_state, given.tensors.initial_state);
  const auto expected = RunOracle<Kla>(prefix, shorter.tensors).final_state;
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < TypeParam::kKeyDim; ++i) {
      for (Index j = 0; j < TypeParam::kValueDim; ++j) {
        const double bound =
            kRoundoff<R> * Growth(chunk, TypeParam::kKeyDim, TypeParam::kValueDim) +
            kOperandRoundoff<typename TypeParam::Backend, typename TypeParam::T> *
                OperandGrowth(chunk);
        EXPECT_NEAR(static_cast<double>(states.view()(1, h, i, j)), expected.view()(0, h, i, j),
                    10 * bound);
        EXPECT_EQ(static_cast<double>(states.view()(2, h, i, j)),
                  static_cast<double>(given.tensors.initial_state.view()(2, h, i, j)));
      }
    }
  }
}

TYPED_TEST_P(ChunkForwardTest, FinalStateMayBeInitialState) {
  const Case c{.name = "in_place", .tokens = 40};
  const Given<TypeParam> given(c, 9);
  const auto apart = RunForward<TypeParam>(c, given.tensors);
  using T = typename TypeParam::T;
  using State = typename TypeParam::State;
  StateArray<State> state(c, given.tensors.initial_state);
  Array<ValueView<T>> o(given.tensors.v.extents());
  ChunkForward<typename TypeParam::Backend, typename TypeParam::Shape>(
      ChunkForwardArgs<T, State>{.q = given.tensors.q.view(),
                                 .k = given.tensors.k.view(),
                                 .v = given.tensors.v.view(),
                                 .g = given.tensors.g.view(),
                                 .eta = given.tensors.eta.view(),
                                 .o = o.view(),
                                 .initial_state = state.ref(),
                                 .final_state = state.ref()});
  EXPECT_TRUE(o.SameBits(apart.o));
  EXPECT_TRUE(state.key_rows.SameBits(apart.final_state.key_rows));
}

REGISTER_TYPED_TEST_SUITE_P(ChunkForwardTest, MatchesOracle, OtherStepSizes,
                            SameBitsForEveryThreadCount, ChunkStatesAreThoseThatEnterEachChunk,
                            FinalStateMayBeInitialState);

}  // namespace kla::test

#endif  // KLA_TESTS_OP_CHUNK_FORWARD_SUITE_H_
