// SPDX-License-Identifier: Apache-2.0
// The pool of states on every backend and storage type: what goes in comes out, and nothing else
// changes. How a state lies inside is the backend's affair and not looked at.
#ifndef KLA_TESTS_OP_DECODE_STATE_SUITE_H_
#define KLA_TESTS_OP_DECODE_STATE_SUITE_H_

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "support/array.h"
#include "support/configs.h"
#include "support/run.h"

namespace kla::test {

// Pools and states of a Config.
template <class C>
struct Pools {
  using State = typename C::State;
  using Pool = DecodeState<typename C::Backend, typename C::Shape, State>;
  static constexpr Index kK = C::kKeyDim, kV = C::kValueDim, kHeads = 3, kSlots = 4;

  static Pool MakePool() { return Pool(kSlots, kHeads, kK, kV); }

  static Case Sequences(Index count, bool transposed, Placement placement) {
    return {.name = "states",
            .batch = count,
            .tokens = 0,
            .value_heads = kHeads,
            .transposed_state = transposed,
            .placement = placement};
  }

  // Random numbers in [N, HV, K, V] or [N, HV, V, K].
  template <class U = State>
  static StateArray<U> MakeStates(Index count, std::uint64_t seed, bool transposed = false,
                                  Placement placement = Placement::kStrided) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    Array<StateView<U>> source({count, kHeads, kK, kV});
    source.Fill([&] { return normal(random); });
    return StateArray<U>(Sequences(count, transposed, placement), source);
  }
  template <class U = State>
  static StateArray<U> MakeEmpty(Index count, bool transposed = false) {
    return StateArray<U>(Sequences(count, transposed, Placement::kStrided), kK, kV);
  }

  // All slots, [slots, HV, K, V].
  static std::vector<double> Contents(const Pool& pool) {
    Array<StateView<State>> all({kSlots, kHeads, kK, kV});
    pool.Store(all.view());
    return all.Values();
  }
  static std::vector<double> Slot(const std::vector<double>& contents, Index slot) {
    const auto size = static_cast<std::ptrdiff_t>(kHeads * kK * kV);
    return {contents.begin() + slot * size, contents.begin() + (slot + 1) * size};
  }

  // A pool whose slots all hold something.
  static Pool MakeFullPool(std::uint64_t seed) {
    Pool pool = MakePool();
    pool.Load(MakeStates(kSlots, seed).ref());
    return pool;
  }

  static std::string MessageOf(const std::function<void()>& f) {
    try {
      f();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "no exception";
  }
};

template <class C>
class DecodeStateTest : public ::testing::Test {};
TYPED_TEST_SUITE_P(DecodeStateTest);

TYPED_TEST_P(DecodeStateTest, BeginsWithZeroStates) {
  using P = Pools<TypeParam>;
  const auto pool = P::MakePool();
  EXPECT_EQ(pool.slots(), 4);
  EXPECT_EQ(pool.value_heads(), 3);
  EXPECT_EQ(pool.key_dim(), TypeParam::kKeyDim);
  EXPECT_EQ(pool.value_dim(), TypeParam::kValueDim);
  for (const double element : P::Contents(pool)) ASSERT_EQ(element, 0.0);
}

TYPED_TEST_P(DecodeStateTest, LoadThenStoreReturnsTheSameInBothLayouts) {
  using P = Pools<TypeParam>;
  for (const bool loaded_transposed : {false, true}) {
    for (const bool stored_transposed : {false, true}) {
      auto given = P::MakeStates(4, 31, loaded_transposed);
      const auto expected = given.Values();
      auto pool = P::MakePool();
      pool.Load(given.ref());
      auto stored = P::MakeEmpty(4, stored_transposed);
      pool.Store(stored.ref());
      EXPECT_EQ(stored.Values(), expected);
      EXPECT_EQ(given.Values(), expected);
      EXPECT_TRUE(stored.PaddingIsIntact());
    }
  }
}

// Into the pool and out of it in every other type, each way rounded to nearest.
template <class C, class U>
void ExpectConverts() {
  using State = typename C::State;
  auto given = Pools<C>::template MakeStates<U>(4, 32);
  auto pool = Pools<C>::MakePool();
  pool.Load(given.ref());
  auto stored = Pools<C>::template MakeEmpty<U>(4, true);
  pool.Store(stored.ref());
  std::vector<double> expected;
  for (const double x : given.Values()) {
    const auto held = static_cast<State>(static_cast<Accumulator<State>>(x));
    expected.push_back(static_cast<double>(
        static_cast<U>(static_cast<Accumulator<U>>(static_cast<Accumulator<State>>(held)))));
  }
  EXPECT_EQ(stored.Values(), expected);
}

TYPED_TEST_P(DecodeStateTest, ConvertsFromAndToEveryType) {
  ExpectConverts<TypeParam, float>();
  ExpectConverts<TypeParam, double>();
  ExpectConverts<TypeParam, bfloat16>();
  ExpectConverts<TypeParam, float16>();
}

TYPED_TEST_P(DecodeStateTest, SlotsAreHonouredAndOthersKeepTheirBits) {
  using P = Pools<TypeParam>;
  auto pool = P::MakeFullPool(33);
  const auto before = P::Contents(pool);
  auto given = P::MakeStates(3, 34);
  const auto values = given.Values();
  pool.Load(given.ref(), {2, -1, 0});
  const auto after = P::Contents(pool);
  EXPECT_EQ(P::Slot(after, 2), P::Slot(values, 0));
  EXPECT_EQ(P::Slot(after, 0), P::Slot(values, 2));
  EXPECT_EQ(P::Slot(after, 1), P::Slot(before, 1));
  EXPECT_EQ(P::Slot(after, 3), P::Slot(before, 3));

  auto stored = P::MakeStates(3, 35);
  const auto untouched = stored.Values();
  pool.Store(stored.ref(), {3, -1, 2});
  EXPECT_EQ(P::Slot(stored.Values(), 0), P::Slot(after, 3));
  EXPECT_EQ(P::Slot(stored.Values(), 1), P::Slot(untouched, 1));
  EXPECT_EQ(P::Slot(stored.Values(), 2), P::Slot(after, 2));
  EXPECT_TRUE(stored.PaddingIsIntact());
  EXPECT_EQ(P::Contents(pool), after);
}

TYPED_TEST_P(DecodeStateTest, FewerSequencesThanSlotsFillTheFirstOnes) {
  using P = Pools<TypeParam>;
  auto pool = P::MakeFullPool(36);
  const auto before = P::Contents(pool);
  auto given = P::MakeStates(2, 37);
  pool.Load(given.ref());
  const auto after = P::Contents(pool);
  for (const Index slot : {0, 1}) {
    EXPECT_EQ(P::Slot(after, slot), P::Slot(given.Values(), slot));
  }
  for (const Index slot : {2, 3}) EXPECT_EQ(P::Slot(after, slot), P::Slot(before, slot));
}

TYPED_TEST_P(DecodeStateTest, ResetZeroesOneSlotOrAll) {
  using P = Pools<TypeParam>;
  auto pool = P::MakeFullPool(38);
  const auto before = P::Contents(pool);
  pool.Reset(2);
  const auto after = P::Contents(pool);
  for (const double element : P::Slot(after, 2)) ASSERT_EQ(element, 0.0);
  for (const Index slot : {0, 1, 3}) EXPECT_EQ(P::Slot(after, slot), P::Slot(before, slot));
  pool.Reset();
  for (const double element : P::Contents(pool)) ASSERT_EQ(element, 0.0);
}

TYPED_TEST_P(DecodeStateTest, CopyForksASlot) {
  using P = Pools<TypeParam>;
  auto pool = P::MakeFullPool(39);
  const auto before = P::Contents(pool);
  pool.Copy(3, 1);
  pool.Copy(2, 2);
  const auto after = P::Contents(pool);
  EXPECT_EQ(P::Slot(after, 1), P::Slot(before, 3));
  for (const Index slot : {0, 2, 3}) EXPECT_EQ(P::Slot(after, slot), P::Slot(before, slot));
}

// A fork taken in the middle of a run continues exactly as the original does, and a checkpoint of
// the whole pool is unaffected by what follows.
TYPED_TEST_P(DecodeStateTest, ForksAndCheckpointsContinueWithTheSameBits) {
  using P = Pools<TypeParam>;
  using T = typename TypeParam::T;
  const Case c{.name = "fork", .tokens = 3, .value_heads = P::kHeads};
  const Given<TypeParam> given(c, 40);
  auto pool = P::MakeFullPool(41);
  const auto step = [&](auto& of, Index slot) {
    Array<ValueView<T>> o({1, 3, P::kHeads, TypeParam::kValueDim});
    DecodeStep<typename TypeParam::Backend, typename TypeParam::Shape>(
        DecodeStepArgs<T>{.q = given.tensors.q.view(),
                          .k = given.tensors.k.view(),
                          .v = given.tensors.v.view(),
                          .g = given.tensors.g.view(),
                          .eta = given.tensors.eta.view(),
                          .o = o.view(),
                          .slots = {slot}},
        of);
    return o.Values();
  };
  step(pool, 0);  // whatever the backend keeps between calls is kept in the copies as well
  pool.Copy(0, 3);
  auto checkpoint = pool;
  const auto first = step(pool, 0);
  EXPECT_EQ(step(pool, 3), first);
  EXPECT_EQ(step(checkpoint, 0), first);
  EXPECT_EQ(P::Contents(checkpoint)[0], P::Contents(pool)[0]);
}

TYPED_TEST_P(DecodeStateTest, BadArgumentsThrowAndChangeNothing) {
  using P = Pools<TypeParam>;
  constexpr Index kK = TypeParam::kKeyDim, kV = TypeParam::kValueDim;
  using State = typename TypeParam::State;
  using Pool = typename P::Pool;
  auto pool = P::MakeFullPool(42);
  const auto before = P::Contents(pool);
  auto two = P::MakeStates(2, 43);
  auto five = P::MakeStates(5, 44);
  const auto untouched = two.Values();
  Array<StateView<State>> narrow({2, P::kHeads, kK, kV + 1}), headless({2, 2, kK, kV});
  const std::string sizes =
      "HV = 3, K = " + std::to_string(kK) + ", V = " + std::to_string(kV) + ", given [N, HV, K, V]";
  const auto shape = [](Index n, Index h, Index k, Index v) {
    const Index extents[] = {n, h, k, v};
    return " = " + internal::ShapeString(extents, 4);
  };
  const Index device_list[] = {0, 1};
  const struct {
    std::function<void()> call;
    std::string message;
  } rows[] = {
      {[&] { pool.Load(narrow.view()); },
       "kla::DecodeState::Load: argument 'states': expected " + sizes + shape(2, 3, kK, kV + 1)},
      {[&] { pool.Store(headless.view()); },
       "kla::DecodeState::Store: argument 'states': expected " + sizes + shape(2, 2, kK, kV)},
      {[&] {
         pool.Load(StateView<State>(nullptr, {2, 3, kK, kV}));
       },
       "kla::DecodeState::Load: argument 'states': expected data, given a null pointer"},
      {[&] { pool.Load(five.ref()); },
       "kla::DecodeState::Load: argument 'slots': expected at most 4 sequences, given 5"},
      {[&] { pool.Store(five.ref()); },
       "kla::DecodeState::Store: argument 'slots': expected at most 4 sequences, given 5"},
      {[&] { pool.Load(two.ref(), {0}); },
       "kla::DecodeState::Load: argument 'slots': expected one slot for each of N = 2 sequences, "
       "given 1"},
      {[&] {
         pool.Load(two.ref(), {0, 4});
       },
       "kla::DecodeState::Load: argument 'slots': expected -1 or a slot below 4, given 4"},
      {[&] {
         pool.Load(two.ref(), {3, 3});
       },
       "kla::DecodeState::Load: argument 'slots': expected every slot at most once, given slot 3 "
       "again at position 1"},
      {[&] {
         pool.Store(two.ref(), {0, -2});
       },
       "kla::DecodeState::Store: argument 'slots': expected -1 or a slot below 4, given -2"},
      {[&] { pool.Store(two.ref(), IndexList::OnDevice(device_list, 2)); },
       "kla::DecodeState::Store: argument 'slots': expected a list in host memory, given a list in "
       "device "
       "memory"},
      {[&] { pool.Reset(-1); },
       "kla::DecodeState::Reset: argument 'slot': expected a slot below 4, given -1"},
      {[&] { pool.Reset(4); },
       "kla::DecodeState::Reset: argument 'slot': expected a slot below 4, given 4"},
      {[&] { pool.Copy(4, 0); },
       "kla::DecodeState::Copy: argument 'from': expected a slot below 4, given 4"},
      {[&] { pool.Copy(0, -1); },
       "kla::DecodeState::Copy: argument 'to': expected a slot below 4, given -1"},
      {[&] { Pool(-1, 3, kK, kV); },
       "kla::DecodeState: argument 'slots': expected a count >= 0, given -1"},
      {[&] { Pool(1, 0, kK, kV); },
       "kla::DecodeState: argument 'value_heads': expected at least one head, given 0"},
      {[&] { Pool(1, 1, 0, kV); },
       "kla::DecodeState: argument 'key_dim': expected " +
           (TypeParam::kDynamicShape ? "between 1 and 1024" : std::to_string(kK)) + ", given 0"},
      {[&] { Pool(1, 1, kK, 1025); },
       "kla::DecodeState: argument 'value_dim': expected " +
           (TypeParam::kDynamicShape ? "between 1 and 1024" : std::to_string(kV)) + ", given 1025"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(P::MessageOf(row.call), row.message);
    EXPECT_EQ(P::Contents(pool), before);
    EXPECT_EQ(two.Values(), untouched);
  }
  if constexpr (!kTakesDeviceLists<typename TypeParam::Backend>) {
    EXPECT_EQ(
        P::MessageOf([&] { pool.CheckSlots("Step", IndexList::OnDevice(device_list, 2), 2); }),
        "kla::Step: argument 'slots': expected a list in host memory, given a list in device "
        "memory");
  }
}

REGISTER_TYPED_TEST_SUITE_P(DecodeStateTest, BeginsWithZeroStates,
                            LoadThenStoreReturnsTheSameInBothLayouts, ConvertsFromAndToEveryType,
                            SlotsAreHonouredAndOthersKeepTheirBits,
                            FewerSequencesThanSlotsFillTheFirstOnes, ResetZeroesOneSlotOrAll,
                            CopyForksASlot, ForksAndCheckpointsContinueWithTheSameBits,
                            BadArgumentsThrowAndChangeNothing);

// One shape of whole vectors and odd ones, every storage type.
template <class B>
using DecodeStateConfigs = ::testing::Types<
    Config<B, float, 16, 32>, Config<B, float, 7, 37, kAutoChunk, ShapeKnown::kDynamic>,
    Config<B, double, 5, 9>, Config<B, float, 13, 33, kAutoChunk, ShapeKnown::kStatic, bfloat16>,
    Config<B, float, 13, 33, kAutoChunk, ShapeKnown::kStatic, float16>>;

}  // namespace kla::test

#endif  // KLA_TESTS_OP_DECODE_STATE_SUITE_H_
