// SPDX-License-Identifier: Apache-2.0
// tests/op: whether two strided arrays share memory, against counting their bytes.
#include "kla/op/memory_region.h"

#include <cstddef>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

using internal::MayOverlap;
using internal::MemoryRegion;
using internal::RegionOf;

using Array3 = View<float, Extent<Batch>, Extent<Time>, Extent<Key>>;

// The element offsets of an array, by enumeration; how often the most frequent one occurs.
struct Elements {
  std::multiset<Index> at;
  bool Shares(const Elements& other) const {
    for (const Index i : at) {
      if (other.at.count(i) > 0) return true;
    }
    return false;
  }
  bool AreDistinct() const {
    for (const Index i : at) {
      if (at.count(i) > 1) return false;
    }
    return true;
  }
};

Elements Enumerate(const Array3& view, const float* origin) {
  Elements elements;
  for (Index b = 0; b < view.extents()[0]; ++b) {
    for (Index t = 0; t < view.extents()[1]; ++t) {
      for (Index i = 0; i < view.extents()[2]; ++i) {
        elements.at.insert(&view(b, t, i) - origin);
      }
    }
  }
  return elements;
}

TEST(MemoryRegionTest, NeverMissesAnOverlapOfRandomArrays) {
  std::mt19937_64 random(1);
  const auto pick = [&](Index low, Index high) {
    return std::uniform_int_distribution<Index>(low, high)(random);
  };
  std::vector<float> memory(400);
  float* const origin = memory.data();
  int shared = 0, told_apart = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto make = [&] {
      const Array3::Sizes extents = {pick(0, 3), pick(1, 4), pick(1, 4)};
      const Array3::Sizes strides = {pick(-24, 24), pick(-8, 12), 1};
      return Array3(origin + 120 + pick(0, 60), extents, strides);
    };
    const Array3 a = make(), b = make();
    const Elements in_a = Enumerate(a, origin), in_b = Enumerate(b, origin);
    if (in_a.Shares(in_b)) {
      ++shared;
      ASSERT_TRUE(MayOverlap(RegionOf(a), RegionOf(b))) << "trial " << trial;
      ASSERT_TRUE(MayOverlap(RegionOf(b), RegionOf(a))) << "trial " << trial;
    } else if (!MayOverlap(RegionOf(a), RegionOf(b))) {
      ++told_apart;
    }
    if (!in_a.at.empty() && RegionOf(a).ElementsAreDistinct()) {
      ASSERT_TRUE(in_a.AreDistinct()) << "trial " << trial;
    }
  }
  EXPECT_GT(shared, 1000);
  EXPECT_GT(told_apart, 1000);
}

// q | k | v | g side by side in each row of one buffer, as one fused projection writes them.
TEST(MemoryRegionTest, TellsTheColumnsOfAFusedBufferApart) {
  constexpr Index kB = 2, kT = 5, kH = 2, kK = 8, kV = 16;
  constexpr Index kWidth = kH * kK * 2 + kH * kV + kH;
  std::vector<float> fused(kB * kT * kWidth);
  float* column = fused.data();
  const KeyView<float> q(column, {kB, kT, kH, kK}, {kT * kWidth, kWidth, kK, 1});
  const KeyView<float> k(column += kH * kK, {kB, kT, kH, kK}, {kT * kWidth, kWidth, kK, 1});
  const ValueView<float> v(column += kH * kK, {kB, kT, kH, kV}, {kT * kWidth, kWidth, kV, 1});
  const GateView<float> g(column += kH * kV, {kB, kT, kH}, {kT * kWidth, kWidth, 1});
  const MemoryRegion regions[] = {RegionOf(q), RegionOf(k), RegionOf(v), RegionOf(g)};
  for (const MemoryRegion& a : regions) {
    for (const MemoryRegion& b : regions) EXPECT_EQ(MayOverlap(a, b), &a == &b);
    EXPECT_TRUE(a.ElementsAreDistinct());
  }
  // One column too far to the left: shares a column with its neighbour.
  const GateView<float> shifted(column - 1, {kB, kT, kH}, {kT * kWidth, kWidth, 1});
  EXPECT_TRUE(MayOverlap(RegionOf(shifted), RegionOf(v)));
}

// A single head or token drops an axis, the last row ends the buffer: nothing may go wrong there.
TEST(MemoryRegionTest, NeighboursThatTouchDoNotOverlap) {
  std::vector<float> memory(24);
  const Array3 first(memory.data(), {1, 3, 4}), second(memory.data() + 12, {1, 3, 4});
  EXPECT_FALSE(MayOverlap(RegionOf(first), RegionOf(second)));
  const Array3 across(memory.data() + 11, {1, 1, 2});
  EXPECT_TRUE(MayOverlap(RegionOf(first), RegionOf(across)));
  EXPECT_TRUE(MayOverlap(RegionOf(across), RegionOf(second)));
}

TEST(MemoryRegionTest, EmptyAndNullArraysOverlapNothing) {
  std::vector<float> memory(12);
  const Array3 all(memory.data(), {1, 3, 4}), none(memory.data(), {1, 0, 4});
  EXPECT_FALSE(MayOverlap(RegionOf(all), RegionOf(none)));
  EXPECT_FALSE(MayOverlap(RegionOf(none), RegionOf(none)));
  EXPECT_FALSE(MayOverlap(RegionOf(all), RegionOf(Array3())));
}

TEST(MemoryRegionTest, AnAxisThatIsBroadcastIsNotDistinct) {
  std::vector<float> memory(12);
  EXPECT_FALSE(RegionOf(Array3(memory.data(), {1, 3, 4}, {0, 0, 1})).ElementsAreDistinct());
  EXPECT_FALSE(RegionOf(Array3(memory.data(), {1, 3, 4}, {12, 3, 1})).ElementsAreDistinct());
  EXPECT_TRUE(RegionOf(Array3(memory.data(), {1, 3, 4}, {0, 4, 1})).ElementsAreDistinct());
}

TEST(MemoryRegionTest, StatesOfBothLayoutsAndOtherTypesAreComparedInBytes) {
  std::vector<double> memory(64);
  const StateRef<double> state = TransposedStateView<double>(memory.data(), {1, 2, 4, 8});
  auto* bytes = reinterpret_cast<float*>(memory.data());
  const Array3 last(bytes + 127, {1, 1, 1}), beyond(bytes + 128, {1, 1, 1});
  EXPECT_TRUE(MayOverlap(RegionOf(state), RegionOf(last)));
  EXPECT_FALSE(MayOverlap(RegionOf(state), RegionOf(beyond)));
}

}  // namespace
}  // namespace kla::test
