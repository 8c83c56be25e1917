// SPDX-License-Identifier: Apache-2.0
// tests/core: run-time sizes to shapes.
#include "kla/core/dispatch.h"

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

using Shapes = ShapeList<Shape<16, 16>, Shape<16, 32>, Shape<96, 192, 32>, Shape<16, 32, 16>>;

TEST(DispatchTest, CallsOnceWithTheFirstShapeOfTheseSizes) {
  const auto chosen = [](Index key_dim, Index value_dim) {
    std::vector<Index> seen;
    Dispatch(Shapes{}, key_dim, value_dim, [&](auto shape) {
      using S = decltype(shape);
      seen.insert(seen.end(), {S::kKeyDim, S::kValueDim, S::kChunk});
    });
    return seen;
  };
  EXPECT_EQ(chosen(16, 16), (std::vector<Index>{16, 16, kAutoChunk}));
  EXPECT_EQ(chosen(16, 32), (std::vector<Index>{16, 32, kAutoChunk}));
  EXPECT_EQ(chosen(96, 192), (std::vector<Index>{96, 192, 32}));
}

TEST(DispatchTest, AnUnsupportedSizeThrowsAndListsTheSupportedOnes) {
  bool called = false;
  try {
    Dispatch(Shapes{}, 32, 16, [&](auto) { called = true; });
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_EQ(std::string(error.what()),
              "kla::Dispatch: argument 'key_dim/value_dim': expected one of 16/16 16/32 96/192 "
              "16/32, given 32/16");
  }
  EXPECT_FALSE(called);
}

TEST(DispatchTest, CommonShapesHoldThePapersModels) {
  for (const auto& [key_dim, value_dim] :
       {std::pair<Index, Index>{64, 64}, {96, 192}, {128, 128}, {256, 256}}) {
    Index found = 0;
    Dispatch(CommonShapes{}, key_dim, value_dim, [&](auto shape) {
      found = decltype(shape)::kKeyDim * 1000 + decltype(shape)::kValueDim;
    });
    EXPECT_EQ(found, key_dim * 1000 + value_dim);
  }
}

TEST(DispatchTest, TheExceptionOfTheCalledFunctionPasses) {
  EXPECT_THROW(Dispatch(Shapes{}, 16, 16, [](auto) { throw std::runtime_error("inside"); }),
               std::runtime_error);
}

TEST(ShapeTest, TheChunkIsTheUsersOrElseTheBackends) {
  struct Backend {};
  static_assert(kChunkLength<Backend, Shape<8, 8, 16>, float> == 16);
  static_assert(kChunkLength<Backend, Shape<8, 8>, float> ==
                kDefaultChunk<Backend, Shape<8, 8>, float>);
  static_assert(DynamicShape::kKeyDim == kDynamic && DynamicShape::kValueDim == kDynamic);
  SUCCEED();
}

}  // namespace
}  // namespace kla::test
