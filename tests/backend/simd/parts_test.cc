// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kla/kla.h"

namespace kla::test {
namespace {

using HWY_NAMESPACE::FastestParts;
using HWY_NAMESPACE::LongestSequences;
using HWY_NAMESPACE::SequenceParts;

TEST(SequencePartsTest, PartsCoverTheSequenceAndTakeEqualTime) {
  constexpr Index kTokens = 1'000'000;
  for (const double before : {0.0, 0.3}) {
    for (const double behind : {0.0, 0.25, 0.35}) {
      double time_of_fewer = 1;
      for (Index count = 1; count <= SequenceParts::kMost; ++count) {
        const SequenceParts parts(count, before, behind);
        EXPECT_EQ(parts.Begin(0, kTokens), 0);
        EXPECT_EQ(parts.Begin(count, kTokens), kTokens);
        for (Index part = 0; part < count; ++part) {
          const double begin = static_cast<double>(parts.Begin(part, kTokens)) / kTokens;
          const double end = static_cast<double>(parts.Begin(part + 1, kTokens)) / kTokens;
          EXPECT_LT(begin, end);
          EXPECT_NEAR(before * begin + (end - begin) + behind * (1 - end), parts.time(), 1e-5);
        }
        if (count == 1) {
          EXPECT_DOUBLE_EQ(parts.time(), 1);
        } else {
          EXPECT_LT(parts.time(), time_of_fewer);
        }
        time_of_fewer = parts.time();
      }
    }
  }
}

TEST(SequencePartsTest, FewTokensLeavePartsEmptyButInOrder) {
  const SequenceParts parts(4, 0.3, 0.25);
  for (Index tokens = 0; tokens < 6; ++tokens) {
    for (Index part = 0; part < 4; ++part) {
      EXPECT_LE(parts.Begin(part, tokens), parts.Begin(part + 1, tokens));
    }
    EXPECT_EQ(parts.Begin(4, tokens), tokens);
  }
}

TEST(FastestPartsTest, CutsOnlyWhereRoundsBecomeShorter) {
  const auto fifth_twice = [](Index parts) { return 0.2 + 0.8 / static_cast<double>(parts); };
  EXPECT_EQ(FastestParts(1, 1, 4, fifth_twice), 1);
  EXPECT_EQ(FastestParts(1, 2, 4, fifth_twice), 2);
  EXPECT_EQ(FastestParts(1, 16, 4, fifth_twice), 4);
  EXPECT_EQ(FastestParts(1, 16, 1, fifth_twice), 1);
  EXPECT_EQ(FastestParts(2, 2, 4, fifth_twice), 1);
  EXPECT_EQ(FastestParts(3, 2, 4, fifth_twice), 2);   // 3 rounds of 0.6 for 2 of 1
  EXPECT_EQ(FastestParts(6, 16, 4, fifth_twice), 2);  // 1 round; 3 parts take 2
  EXPECT_EQ(FastestParts(100, 2, 4, fifth_twice), 1);
  EXPECT_EQ(FastestParts(5, 4, 4, [](Index) { return 1.0; }), 1);
}

TEST(LongestSequencesTest, CountsAllTokensInTheLongest) {
  const auto count = [](Index batch, Index tokens, const std::vector<std::int64_t>& cu_seqlens) {
    Problem problem{};
    problem.batch = batch;
    problem.tokens = tokens;
    problem.sequences = cu_seqlens.empty() ? batch : static_cast<Index>(cu_seqlens.size()) - 1;
    return LongestSequences(problem, cu_seqlens.empty() ? IndexList() : IndexList(cu_seqlens));
  };
  EXPECT_EQ(count(5, 77, {}), 5);
  EXPECT_EQ(count(5, 0, {}), 1);
  EXPECT_EQ(count(1, 1000, {0, 970, 1000}), 1);
  EXPECT_EQ(count(1, 1000, {0, 500, 500, 1000}), 2);
  EXPECT_EQ(count(1, 0, {0, 0}), 1);
}

}  // namespace
}  // namespace kla::test
