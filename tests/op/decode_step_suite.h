// SPDX-License-Identifier: Apache-2.0
// DecodeStep on every backend, type and shape, against the recurrence in double.
#ifndef KLA_TESTS_OP_DECODE_STEP_SUITE_H_
#define KLA_TESTS_OP_DECODE_STEP_SUITE_H_

#include <algorithm>
#include <array>
#include <cmath>

#include "gtest/gtest.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

namespace kla::test {

template <class C>
class DecodeStepTest : public ::testing::Test {
 protected:
  using Element = typename C::T;
  using Stored = typename C::State;
  using Pool = DecodeState<typename C::Backend, typename C::Shape, Stored>;

  static Pool MakePool(Index slots, Index heads) {
    return Pool(slots, heads, C::kKeyDim, C::kValueDim);
  }

  // Tokens [begin, begin + count) of every batch row.
  template <class V>
  static V Tokens(const V& view, Index begin, Index count) {
    auto extents = view.extents();
    extents[1] = count;
    return V(view.data() + begin * view.strides()[1], extents, view.strides());
  }

  static DecodeStepArgs<Element> Arguments(const Case& c, const Tensors<Element, Stored>& given,
                                           ValueView<Element> o) {
    return {.q = given.q.view(),
            .k = given.k.view(),
            .v = given.v.view(),
            .g = given.g.view(),
            .eta = given.eta.view(),
            .o = o,
            .cu_seqlens = c.offsets(),
            .scale = c.scale,
            .grouping = c.grouping};
  }

  template <class StepSize = Kla, class Exec = Serial>
  static void Step(const DecodeStepArgs<Element>& args, Pool& pool, const Exec& executor = {}) {
    DecodeStep<typename C::Backend, typename C::Shape, StepSize>(args, pool, executor);
  }

  // Runs all tokens in calls of `tokens_per_call` and compares with the oracle.
  template <class StepSize = Kla>
  static void ExpectMatchesOracle(const Case& c, Index tokens_per_call, std::uint64_t seed) {
    SCOPED_TRACE(c.name + ", tokens per call " + std::to_string(tokens_per_call));
    const Given<C> given(c, seed);
    const OracleResult expected = RunOracle<StepSize>(c, given.tensors);
    ForwardOutputs<C> actual(c);
    StateArray<Stored> initial(c, given.tensors.initial_state);
    Pool pool = MakePool(c.sequences(), c.value_heads);
    if (c.initial_state) pool.Load(initial.ref());
    const DecodeStepArgs<Element> all = Arguments(c, given.tensors, actual.o.view());
    if (!c.cu_seqlens.empty()) {
      Step<StepSize>(all, pool);
    } else {
      for (Index t = 0; t < c.tokens; t += tokens_per_call) {
        const Index count = std::min(tokens_per_call, c.tokens - t);
        DecodeStepArgs<Element> args = all;
        args.q = Tokens(all.q, t, count);
        args.k = Tokens(all.k, t, count);
        args.v = Tokens(all.v, t, count);
        args.g = Tokens(all.g, t, count);
        args.eta = Tokens(all.eta, t, count);
        args.o = Tokens(all.o, t, count);
        Step<StepSize>(args, pool);
      }
    }
    pool.Store(actual.final_state.ref());
    const double scale = c.scale.value_or(1.0 / std::sqrt(static_cast<double>(C::kKeyDim)));
    // A narrower storage type is rounded to once per call.
    const double stored =
        kRoundoff<Stored> > kRoundoff<Accumulator<Element>>
            ? kRoundoff<Stored> *
                  std::sqrt(static_cast<double>(std::max<Index>(1, c.tokens / tokens_per_call)))
            : 0.0;
    const double errors =
        (kRoundoff<Accumulator<Element>> * Growth(c.tokens, C::kKeyDim, C::kValueDim) +
         2 * stored) *
        expected.max_state_norm;
    ExpectClose("o", actual.o.Values(), expected.o.Values(),
                errors * scale * expected.max_query_norm / std::sqrt(double(C::kValueDim)),
                kRoundoff<Element>);
    ExpectClose("final_state", actual.final_state.Values(), expected.final_state.Values(),
                errors / std::sqrt(double(C::kKeyDim * C::kValueDim)), kRoundoff<Stored>);
    EXPECT_TRUE(actual.o.PaddingIsIntact());
    EXPECT_TRUE(actual.final_state.PaddingIsIntact());
  }
};

TYPED_TEST_SUITE_P(DecodeStepTest);

TYPED_TEST_P(DecodeStepTest, MatchesOracle) {
  std::uint64_t seed = 300;
  for (const Case& c : ChunkCases(16)) {
    for (const Index tokens_per_call : {1, 3, 16}) {
      this->ExpectMatchesOracle(c, tokens_per_call, ++seed);
    }
  }
}

TYPED_TEST_P(DecodeStepTest, OtherStepSizes) {
  const Case c{.name = "small_keys",
               .tokens = 20,
               .key_heads = 1,
               .value_heads = 2,
               .key_scale = 0.25 / std::sqrt(static_cast<double>(TypeParam::kKeyDim))};
  this->template ExpectMatchesOracle<Gdn>(c, 2, 3);
  if constexpr (kRunsEveryStepSize<TypeParam>) {
    this->template ExpectMatchesOracle<RelaxedKaczmarz>(c, 2, 1);
    this->template ExpectMatchesOracle<Kaczmarz>(c, 2, 2);
    this->template ExpectMatchesOracle<Longhorn>(c, 2, 4);
    this->template ExpectMatchesOracle<PlainDelta>(c, 2, 5);
  }
}

// Sequence 0 in slot 4, sequence 1 skipped, sequence 2 in slot 1; slots 0, 2 and 3 belong to
// others.
TYPED_TEST_P(DecodeStepTest, SlotsAreHonoured) {
  using T = typename TypeParam::T;
  using State = typename TypeParam::State;
  const Case c{.name = "slots", .batch = 3, .tokens = 2, .key_heads = 2, .value_heads = 2};
  const Given<TypeParam> given(c, 17);
  const Case of_pool{.name = "pool", .batch = 5, .tokens = 0, .key_heads = 2, .value_heads = 2};
  const Given<TypeParam> pool_given(of_pool, 18);
  auto pool = this->MakePool(5, 2);
  pool.Load(pool_given.tensors.initial_state.view());
  Array<StateView<State>> before(pool_given.tensors.initial_state.extents()), after = before;
  pool.Store(before.view());
  const std::array<std::int32_t, 3> slots = {4, -1, 1};
  Array<ValueView<T>> o(given.tensors.v.extents());
  const Array<ValueView<T>> untouched = o;
  auto args = this->Arguments(c, given.tensors, o.view());
  args.slots = slots;
  this->Step(args, pool);
  pool.Store(after.view());

  // The same three sequences in a pool of their own.
  auto own = this->MakePool(3, 2);
  const std::array<std::int64_t, 5> own_slots = {-1, 2, -1, -1, 0};  // of the pool's five states
  own.Load(pool_given.tensors.initial_state.view(), own_slots);
  Array<ValueView<T>> expected_o(given.tensors.v.extents());
  this->Step(this->Arguments(c, given.tensors, expected_o.view()), own);
  Array<StateView<State>> expected({3, 2, TypeParam::kKeyDim, TypeParam::kValueDim});
  own.Store(expected.view());

  for (Index n = 0; n < 3; ++n) {
    const Index slot = slots[static_cast<std::size_t>(n)];
    for (Index t = 0; t < 2; ++t) {
      for (Index h = 0; h < 2; ++h) {
        const auto& want = slot == -1 ? untouched : expected_o;
        EXPECT_EQ(std::memcmp(o.view().Row(n, t, h), want.view().Row(n, t, h),
                              sizeof(T) * TypeParam::kValueDim),
                  0);
      }
    }
  }
  for (Index slot = 0; slot < 5; ++slot) {
    const auto& want = slot == 4 || slot == 1 ? expected : before;
    const Index n = slot == 4 ? 0 : slot == 1 ? 2 : slot;
    for (Index h = 0; h < 2; ++h) {
      EXPECT_EQ(std::memcmp(after.view().Row(slot, h, 0), want.view().Row(n, h, 0),
                            sizeof(State) * TypeParam::kKeyDim * TypeParam::kValueDim),
                0)
          << "slot " << slot;
    }
  }
}

TYPED_TEST_P(DecodeStepTest, AgreesWithChunkForward) {
  const Case c{.name = "law", .batch = 2, .tokens = 77, .key_heads = 1, .value_heads = 2};
  using State = typename TypeParam::State;
  const Given<TypeParam> given(c, 19);
  const auto chunked = RunForward<TypeParam>(c, given.tensors);
  auto pool = this->MakePool(2, 2);
  pool.Load(given.tensors.initial_state.view());
  ForwardOutputs<TypeParam> stepped(c);
  this->Step(this->Arguments(c, given.tensors, stepped.o.view()), pool);
  pool.Store(stepped.final_state.ref());
  // Chunked, a backend may round its operands to T; decoding never does.
  const double bound = 4 * kRoundoff<Accumulator<typename TypeParam::T>> *
                           Growth(c.tokens, TypeParam::kKeyDim, TypeParam::kValueDim) +
                       kOperandRoundoff<typename TypeParam::Backend, typename TypeParam::T> *
                           OperandGrowth(c.tokens);
  const auto o = chunked.o.Values(), s = chunked.final_state.Values();
  // Storage narrower than the arithmetic is rounded to every 16 tokens when decoding.
  const double stored =
      kRoundoff<State> > kRoundoff<Accumulator<typename TypeParam::T>> ? 4 * kRoundoff<State> : 0.0;
  ExpectClose("o", stepped.o.Values(), o, (bound + stored) * Rms(o),
              2 * kRoundoff<typename TypeParam::T>);
  ExpectClose("state", stepped.final_state.Values(), s, (bound + stored) * Rms(s),
              2 * kRoundoff<State>);
}

#if defined(_OPENMP)
TYPED_TEST_P(DecodeStepTest, SameBitsForEveryThreadCount) {
  using T = typename TypeParam::T;
  const Case c{.name = "threads", .batch = 3, .tokens = 4, .key_heads = 1, .value_heads = 5};
  const Given<TypeParam> given(c, 20);
  Array<ValueView<T>> serial(given.tensors.v.extents());
  auto serial_pool = this->MakePool(3, 5);
  serial_pool.Load(given.tensors.initial_state.view());
  this->Step(this->Arguments(c, given.tensors, serial.view()), serial_pool);
  for (const int threads : {1, 2, 7}) {
    Array<ValueView<T>> parallel(given.tensors.v.extents());
    auto pool = this->MakePool(3, 5);
    pool.Load(given.tensors.initial_state.view());
    this->template Step<Kla>(this->Arguments(c, given.tensors, parallel.view()), pool,
                             OpenMp{threads});
    EXPECT_TRUE(parallel.SameBits(serial)) << threads;
  }
}
#else
TYPED_TEST_P(DecodeStepTest, SameBitsForEveryThreadCount) { GTEST_SKIP() << "no OpenMP"; }
#endif

REGISTER_TYPED_TEST_SUITE_P(DecodeStepTest, MatchesOracle, OtherStepSizes, SlotsAreHonoured,
                            AgreesWithChunkForward, SameBitsForEveryThreadCount);

}  // namespace kla::test

#endif  // KLA_TESTS_OP_DECODE_STEP_SUITE_H_
