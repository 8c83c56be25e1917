// SPDX-License-Identifier: Apache-2.0
// tests/core: views with named axes.
#include "kla/core/view.h"

#include <cstdint>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

std::vector<float> Counting(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

std::string MessageOf(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no exception";
}

TEST(ViewTest, ContiguousStridesAreRowMajor) {
  std::vector<float> data = Counting(2 * 3 * 4 * 5);
  const KeyView<float> k(data.data(), {2, 3, 4, 5});
  EXPECT_EQ(k.strides(), (KeyView<float>::Sizes{60, 20, 5, 1}));
  float expected = 0;
  for (Index b = 0; b < 2; ++b) {
    for (Index t = 0; t < 3; ++t) {
      for (Index h = 0; h < 4; ++h) {
        EXPECT_EQ(k.Row(b, t, h), data.data() + static_cast<Index>(expected));
        for (Index i = 0; i < 5; ++i) EXPECT_EQ(k(b, t, h, i), expected++);
      }
    }
  }
}

TEST(ViewTest, ExtentsAndStridesAreAskedForByAxis) {
  std::vector<float> data = Counting(100);
  const GateView<float> g(data.data(), {2, 3, 4}, {50, 10, 1});
  EXPECT_EQ(g.extent<Batch>(), 2);
  EXPECT_EQ(g.extent<Time>(), 3);
  EXPECT_EQ(g.extent<ValueHead>(), 4);
  EXPECT_EQ(g.stride<Batch>(), 50);
  EXPECT_EQ(g.stride<Time>(), 10);
  EXPECT_EQ(g.stride<ValueHead>(), 1);
  EXPECT_EQ(g.ShapeText(), "[2, 3, 4]");
}

TEST(ViewTest, StridesMayPermuteBroadcastAndRunBackwards) {
  std::vector<float> data = Counting(24);
  // [T=3, H=4, K=2] in memory as [H, T, K].
  const View<float, Extent<Time>, Extent<KeyHead>, Extent<Key>> permuted(data.data(), {3, 4, 2},
                                                                         {2, 6, 1});
  EXPECT_EQ(permuted(2, 1, 1), 2 * 2 + 6 + 1);
  const View<float, Extent<Time>, Extent<Key>> broadcast(data.data() + 7, {5, 2}, {0, 1});
  EXPECT_EQ(broadcast(4, 1), 8);
  const View<float, Extent<Time>, Extent<Key>> backwards(data.data() + 22, {12, 2}, {-2, 1});
  EXPECT_EQ(backwards(11, 0), 0);
  EXPECT_EQ(backwards.Row(3), data.data() + 16);
}

TEST(ViewTest, OffsetsAre64Bit) {
  // Nothing is read: only addresses far apart are computed. 3e9 floats between batch rows.
  std::vector<float> data(1);
  const GateView<float> g(data.data(), {2, 1, 1}, {3'000'000'000, 1, 1});
  const auto distance =
      reinterpret_cast<std::uintptr_t>(g.Row(1, 0)) - reinterpret_cast<std::uintptr_t>(g.Row(0, 0));
  EXPECT_EQ(distance, std::uintptr_t{12'000'000'000});
}

TEST(ViewTest, ADefaultViewIsNull) {
  const KeyView<float> left_out;
  EXPECT_TRUE(left_out.is_null());
  EXPECT_EQ(left_out.extent<Time>(), 0);
  const KeyView<const float> still_null = left_out;
  EXPECT_TRUE(still_null.is_null());
  const View<float, Extent<Time>, Extent<Key, 96>> fixed;
  const View<const float, Extent<Time>, Extent<Key>> from_fixed = fixed;
  EXPECT_TRUE(from_fixed.is_null());
}

TEST(ViewTest, BecomesConstAndTakesAStaticLength) {
  std::vector<float> data = Counting(12);
  const View<float, Extent<Time>, Extent<Key>> dynamic(data.data(), {2, 4}, {6, 1});
  const View<const float, Extent<Time>, Extent<Key, 4>> fixed = dynamic;
  EXPECT_EQ(fixed.data(), data.data());
  EXPECT_EQ(fixed(1, 3), 9);
  const View<const float, Extent<Time>, Extent<Key>> back = fixed;
  EXPECT_EQ(back.strides(), dynamic.strides());
}

TEST(ViewTest, ConstnessIsNeverDropped) {
  static_assert(std::is_convertible_v<KeyView<float>, KeyView<const float>>);
  static_assert(!std::is_convertible_v<KeyView<const float>, KeyView<float>>);
  static_assert(!std::is_convertible_v<KeyView<float>, KeyView<const double>>);
  static_assert(!std::is_convertible_v<KeyView<float>, GateView<float>>);  // another rank
  SUCCEED();
}

TEST(ViewTest, BadSizesThrowAndSayWhich) {
  std::vector<float> data(64);
  using Rows = View<float, Extent<Time>, Extent<Key, 4>>;
  EXPECT_EQ(MessageOf([&] {
              Rows(data.data(), {2, 5});
            }),
            "kla::View: argument 'extents[1]': expected 4, given 5");
  EXPECT_EQ(MessageOf([&] {
              Rows(data.data(), {-1, 4});
            }),
            "kla::View: argument 'extents[0]': expected a length >= 0, given -1");
  EXPECT_EQ(MessageOf([&] {
              Rows(data.data(), {2, 4}, {8, 2});
            }),
            "kla::View: argument 'strides': expected innermost stride 1, given 2");
  const View<float, Extent<Time>, Extent<Key>> five(data.data(), {2, 5});
  EXPECT_EQ(MessageOf([&] { static_cast<void>(Rows(five)); }),
            "kla::View: argument 'extents[1]': expected 4, given 5");
}

TEST(ViewTest, EmptyAxesAreFine) {
  const KeyView<float> no_tokens(nullptr, {2, 0, 3, 4});
  EXPECT_TRUE(no_tokens.is_null());
  EXPECT_EQ(no_tokens.ShapeText(), "[2, 0, 3, 4]");
  // The data() of an empty vector is null: its shape is kept all the same.
  const KeyView<const float> constant = no_tokens;
  EXPECT_EQ(constant.ShapeText(), "[2, 0, 3, 4]");
  const View<float, Extent<Time>, Extent<Key, 96>> fixed(nullptr, {0, 96});
  const View<const float, Extent<Time>, Extent<Key>> from_fixed = fixed;
  EXPECT_EQ(from_fixed.ShapeText(), "[0, 96]");
}

}  // namespace
}  // namespace kla::test
