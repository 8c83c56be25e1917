// SPDX-License-Identifier: Apache-2.0
// tests/core: index lists, packed sequences, states in both layouts, grouping of heads.
#include "kla/core/layout.h"

#include <array>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kla/op/problem.h"

namespace kla::test {
namespace {

TEST(IndexListTest, TakesBothWidthsAndAnyContiguousRange) {
  const std::vector<std::int32_t> narrow = {0, 7, -1};
  const std::array<std::int64_t, 2> wide = {5, std::int64_t{1} << 40};
  const IndexList a = narrow, b = wide, c(narrow.data() + 1, 2),
                  d = std::span<const std::int64_t>(wide);
  EXPECT_EQ(a.size(), 3);
  EXPECT_EQ(a[1], 7);
  EXPECT_EQ(a[2], -1);
  EXPECT_EQ(b[1], std::int64_t{1} << 40);
  EXPECT_EQ(c[0], 7);
  EXPECT_EQ(d[0], 5);
  EXPECT_TRUE(IndexList().is_null());
  EXPECT_FALSE(a.is_null());
}

template <class T>
void ExpectListOf() {
  const std::vector<T> values = {0, 7, static_cast<T>(-1)};
  const IndexList list = values;
  ASSERT_EQ(list.size(), 3);
  EXPECT_EQ(list[0], 0);
  EXPECT_EQ(list[1], 7);
  EXPECT_EQ(list[2], -1);  // of an unsigned type, the greatest value
}

TEST(IndexListTest, TakesEveryIntegerTypeOf32And64Bits) {
  ExpectListOf<int>();
  ExpectListOf<unsigned>();
  ExpectListOf<long>();
  ExpectListOf<unsigned long>();
  ExpectListOf<long long>();
  ExpectListOf<unsigned long long>();
  ExpectListOf<std::size_t>();
}

TEST(IndexListTest, ValuesInBracesAreKeptAndCopied) {
  IndexList copy;
  {
    const IndexList list = {0, std::int64_t{1} << 40, -1};
    copy = list;
  }
  ASSERT_EQ(copy.size(), 3);
  EXPECT_FALSE(copy.is_null());
  EXPECT_EQ(copy[0], 0);
  EXPECT_EQ(copy[1], std::int64_t{1} << 40);
  EXPECT_EQ(copy[2], -1);
  const IndexList two = {0, 1}, none = {};
  EXPECT_EQ(two.size(), 2);
  EXPECT_EQ(two[1], 1);
  EXPECT_TRUE(none.is_null());
  try {
    static_cast<void>(IndexList{0, 1, 2, 3, 4, 5, 6, 7, 8});
    FAIL() << "nine values in braces";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "kla::IndexList: argument 'values': expected at most 8 in braces; a std::vector "
                 "takes more, given 9");
  }
}

TEST(IndexListTest, AnEmptyRangeIsGivenAndNotLeftOut) {
  const std::vector<std::int32_t> none;
  std::vector<std::int64_t> reserved;
  reserved.reserve(4);
  for (const IndexList& list : {IndexList(none), IndexList(reserved)}) {
    EXPECT_FALSE(list.is_null());
    EXPECT_EQ(list.size(), 0);
  }
  EXPECT_TRUE(IndexList(static_cast<const std::int32_t*>(nullptr), 0).is_null());
}

TEST(IndexListTest, ACountWithoutDataOrBelowZeroThrows) {
  const std::int64_t data[] = {0};
  const auto message = [](const auto* pointer, Index size) -> std::string {
    try {
      static_cast<void>(IndexList(pointer, size));
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "no exception";
  };
  EXPECT_EQ(message(static_cast<const std::int32_t*>(nullptr), 2),
            "kla::IndexList: argument 'data': expected 2 indices, given a null pointer");
  EXPECT_EQ(message(data, -1), "kla::IndexList: argument 'size': expected a count >= 0, given -1");
  EXPECT_EQ(message(data, 1), "no exception");
}

TEST(SequenceTest, EqualLengthsAreBatchRows) {
  EXPECT_EQ(SequenceCount({}, 3), 3);
  const SequenceSpan span = SequenceAt({}, 10, 2);
  EXPECT_EQ(span.batch, 2);
  EXPECT_EQ(span.begin, 0);
  EXPECT_EQ(span.length, 10);
}

TEST(SequenceTest, PackedSequencesLieEndToEnd) {
  const std::vector<std::int64_t> offsets = {0, 4, 4, 10};
  EXPECT_EQ(SequenceCount(offsets, 1), 3);
  const Index begin[] = {0, 4, 4}, length[] = {4, 0, 6};
  for (Index n = 0; n < 3; ++n) {
    const SequenceSpan span = SequenceAt(offsets, 10, n);
    EXPECT_EQ(span.batch, 0);
    EXPECT_EQ(span.begin, begin[n]);
    EXPECT_EQ(span.length, length[n]);
  }
}

TEST(SequenceTest, ChunksAreCountedSequenceBySequence) {
  const std::vector<std::int32_t> offsets = {0, 16, 16, 33, 34};
  EXPECT_EQ(ChunksBefore(offsets, 34, 0, 16), 0);
  EXPECT_EQ(ChunksBefore(offsets, 34, 1, 16), 1);
  EXPECT_EQ(ChunksBefore(offsets, 34, 2, 16), 1);
  EXPECT_EQ(ChunksBefore(offsets, 34, 3, 16), 3);
  EXPECT_EQ(ChunkCount(offsets, 1, 34, 16), 4);
  EXPECT_EQ(ChunkCount({}, 3, 17, 16), 6);
  EXPECT_EQ(ChunkCount({}, 3, 16, 16), 3);
  EXPECT_EQ(ChunkCount({}, 3, 0, 16), 0);
}

struct AnyBackend {};

TEST(SequenceTest, ChunkStartsAreChunksBeforeOfEverySequence) {
  const std::vector<std::int64_t> packed = {0, 16, 16, 33, 34};
  for (const IndexList& offsets : {IndexList(packed), IndexList()}) {
    Problem problem = {};
    problem.tokens = 34;
    problem.sequences = 4;
    const ChunkStarts<AnyBackend> starts(offsets, problem, 16);
    for (Index n = 0; n < 4; ++n) EXPECT_EQ(starts[n], ChunksBefore(offsets, 34, n, 16));
  }
}

Problem HeadsOnly(Index key_heads, Index value_heads, HeadGrouping grouping) {
  return {.batch = 1,
          .tokens = 1,
          .key_heads = key_heads,
          .value_heads = value_heads,
          .key_dim = 1,
          .value_dim = 1,
          .sequences = 1,
          .scale = 1,
          .epsilon = 0,
          .grouping = grouping};
}

TEST(GroupingTest, InterleavedAndTiledReadTheKeyHeadThatTheyNameAndNoOther) {
  const Problem interleaved = HeadsOnly(2, 6, HeadGrouping::kInterleaved);
  const Problem tiled = HeadsOnly(2, 6, HeadGrouping::kTiled);
  const Index by_quotient[] = {0, 0, 0, 1, 1, 1}, by_remainder[] = {0, 1, 0, 1, 0, 1};
  for (Index hv = 0; hv < 6; ++hv) {
    EXPECT_EQ(interleaved.KeyHeadOf(hv), by_quotient[hv]);
    EXPECT_EQ(tiled.KeyHeadOf(hv), by_remainder[hv]);
  }
}

TEST(GroupingTest, ValueHeadOfInvertsKeyHeadOf) {
  for (const HeadGrouping grouping : {HeadGrouping::kInterleaved, HeadGrouping::kTiled}) {
    for (const Index key_heads : {1, 2, 3, 5}) {
      for (const Index group : {1, 2, 4}) {
        const Problem p = HeadsOnly(key_heads, key_heads * group, grouping);
        ASSERT_EQ(p.GroupSize(), group);
        std::set<Index> seen;
        for (Index h = 0; h < key_heads; ++h) {
          for (Index i = 0; i < group; ++i) {
            EXPECT_EQ(p.KeyHeadOf(p.ValueHeadOf(h, i)), h);
            seen.insert(p.ValueHeadOf(h, i));
          }
        }
        EXPECT_EQ(static_cast<Index>(seen.size()), key_heads * group);
        EXPECT_EQ(*seen.begin(), 0);
        EXPECT_EQ(*seen.rbegin(), key_heads * group - 1);
      }
    }
  }
}

TEST(StateRefTest, BothLayoutsNameTheSameElements) {
  constexpr Index kN = 2, kHeads = 3, kK = 4, kV = 5;
  std::vector<float> rows(kN * kHeads * kK * kV), columns(rows.size());
  const StateView<float> key_rows(rows.data(), {kN, kHeads, kK, kV});
  const TransposedStateView<float> value_rows(columns.data(), {kN, kHeads, kV, kK});
  const StateRef<float> a = key_rows, b = value_rows;
  EXPECT_EQ(a.ShapeText(), "[N, HV, K, V] = [2, 3, 4, 5]");
  EXPECT_EQ(b.ShapeText(), "[N, HV, V, K] = [2, 3, 5, 4]");
  for (const StateRef<float>& ref : {a, b}) {
    EXPECT_EQ(ref.sequences, kN);
    EXPECT_EQ(ref.heads, kHeads);
    EXPECT_EQ(ref.key_dim, kK);
    EXPECT_EQ(ref.value_dim, kV);
    EXPECT_FALSE(ref.is_null());
  }
  for (Index n = 0; n < kN; ++n) {
    for (Index h = 0; h < kHeads; ++h) {
      for (Index i = 0; i < kK; ++i) {
        for (Index j = 0; j < kV; ++j) {
          EXPECT_EQ(a.Head(n, h) + i * a.key_stride + j * a.value_stride, &key_rows(n, h, i, j));
          EXPECT_EQ(b.Head(n, h) + i * b.key_stride + j * b.value_stride, &value_rows(n, h, j, i));
        }
      }
    }
  }
}

TEST(StateRefTest, BracesMeanKeysBeforeValues) {
  std::vector<float> data(200);
  const StateRef<const float> dense = {data.data(), {1, 2, 3, 4}};
  const StateRef<float> padded = {data.data(), {1, 2, 3, 4}, {100, 50, 7, 1}};
  EXPECT_EQ(dense.ShapeText(), "[N, HV, K, V] = [1, 2, 3, 4]");
  EXPECT_EQ(dense.Head(0, 1), data.data() + 12);
  EXPECT_EQ(dense.key_stride, 4);
  EXPECT_EQ(padded.Head(0, 1), data.data() + 50);
  EXPECT_EQ(padded.key_stride, 7);
}

TEST(StateRefTest, BecomesConstAndKeepsItsStrides) {
  std::vector<float> data(200);
  const StateRef<float> padded = StateView<float>(data.data(), {1, 2, 3, 4}, {100, 50, 7, 1});
  const StateRef<const float> constant = padded;
  EXPECT_EQ(constant.data, data.data());
  EXPECT_EQ(constant.head_stride, 50);
  EXPECT_EQ(constant.key_stride, 7);
  EXPECT_EQ(constant.value_stride, 1);
  EXPECT_TRUE(StateRef<const float>().is_null());
  EXPECT_TRUE(StateRef<const float>(StateView<float>()).is_null());
}

}  // namespace
}  // namespace kla::test
