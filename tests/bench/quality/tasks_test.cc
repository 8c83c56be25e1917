// SPDX-License-Identifier: Apache-2.0
// tests: the synthetic tasks of the quality benchmark, against sequences made by hand and against
// a second reading of what they promise.
#include "bench/quality/tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

namespace quality {
namespace {

using Tokens = std::vector<Token>;

struct Written {
  explicit Written(std::size_t size) : tokens(size, 99), labels(size, kNoLabel) {}
  Sequence sequence() { return {tokens, labels}; }
  Tokens tokens, labels;
};

RunSettings Settings(const char* task, std::int64_t vocabulary, std::int64_t pairs) {
  RunSettings settings;
  settings.task = task;
  settings.vocabulary = vocabulary;
  settings.pairs = pairs;
  settings.seed = 3;
  return settings;
}

TEST(RecallTest, ByHand) {
  Written w(9);
  WriteRecall(Tokens{5, 2}, Tokens{13, 11}, std::vector<std::int64_t>{3, 0}, w.sequence());
  EXPECT_EQ(w.tokens, (Tokens{5, 13, 2, 11, 2, 99, 99, 5, 99}));
  EXPECT_EQ(w.labels, (Tokens{-1, -1, -1, -1, 11, -1, -1, 13, -1}));
}

TEST(RecallTest, EachKeyIsQueriedOnceAndLabelledWithItsValue) {
  const RunSettings settings = Settings("mqar", 64, 8);
  const lm::Batch batch = DrawBatch(settings, Stream::kTrain, 0, {.batch = 50, .time = 40});
  std::set<Token> noise;
  for (std::size_t b = 0; b < 50; ++b) {
    const Token* tokens = batch.tokens.data() + b * 40;
    const Token* labels = batch.labels.data() + b * 40;
    std::map<Token, Token> value_of;
    std::set<Token> values;
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_LT(tokens[2 * i], 32);
      EXPECT_GE(tokens[2 * i + 1], 32);
      value_of[tokens[2 * i]] = tokens[2 * i + 1];
      values.insert(tokens[2 * i + 1]);
    }
    EXPECT_EQ(value_of.size(), 8u);
    EXPECT_EQ(values.size(), 8u);
    for (std::size_t i = 0; i < 40; ++i) {
      ASSERT_GE(tokens[i], 0);
      ASSERT_LT(tokens[i], 64);
      if (labels[i] == kNoLabel) {
        if (i >= 16) noise.insert(tokens[i]);
        continue;
      }
      ASSERT_GE(i, 16u);
      ASSERT_TRUE(value_of.contains(tokens[i])) << "queried twice, or no key";
      EXPECT_EQ(labels[i], value_of[tokens[i]]);
      value_of.erase(tokens[i]);
    }
    EXPECT_TRUE(value_of.empty()) << "a key without a query";
  }
  EXPECT_EQ(noise.size(), 64u) << "noise comes from the whole vocabulary";
}

// One query on four places: the frequencies are p^-0.1 / sum, to four standard deviations.
TEST(RecallTest, QueriesAreDrawnWithTheirDensity) {
  std::mt19937_64 random(7);
  constexpr int kDraws = 200000;
  std::vector<double> count(4, 0.0);
  for (int i = 0; i < kDraws; ++i) {
    count[static_cast<std::size_t>(DrawQueryPlaces(4, 1, random)[0])] += 1.0;
  }
  double total = 0.0;
  for (int p = 1; p <= 4; ++p) total += std::pow(p, -0.1);
  for (int p = 1; p <= 4; ++p) {
    const double expected = std::pow(p, -0.1) / total;
    const double deviation = std::sqrt(expected * (1.0 - expected) / kDraws);
    EXPECT_NEAR(count[static_cast<std::size_t>(p - 1)] / kDraws, expected, 4.0 * deviation) << p;
  }
}

TEST(RecallTest, QueriesMayFillEveryPlace) {
  std::mt19937_64 random(7);
  std::vector<std::int64_t> places = DrawQueryPlaces(6, 6, random);
  std::sort(places.begin(), places.end());
  EXPECT_EQ(places, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST(RecallTest, RefusesWhatDoesNotFit) {
  EXPECT_THROW(DrawBatch(Settings("mqar", 64, 8), Stream::kTrain, 0, {.batch = 1, .time = 23}),
               std::invalid_argument);
  EXPECT_THROW(DrawBatch(Settings("mqar", 14, 8), Stream::kTrain, 0, {.batch = 1, .time = 40}),
               std::invalid_argument);
}

TEST(PalindromeTest, ByHand) {
  Written w(6);
  WritePalindrome(Tokens{5, 7, 9}, w.sequence());
  EXPECT_EQ(w.tokens, (Tokens{5, 7, 9, kSeparator, 9, 7}));
  EXPECT_EQ(w.labels, (Tokens{-1, -1, -1, 9, 7, 5}));
}

TEST(PalindromeTest, ReadsBackwards) {
  const lm::Batch batch =
      DrawBatch(Settings("palindrome", 128, 0), Stream::kTrain, 0, {.batch = 40, .time = 64});
  for (std::size_t b = 0; b < 40; ++b) {
    const auto first = static_cast<std::ptrdiff_t>(b * 64);
    const Tokens tokens(batch.tokens.begin() + first, batch.tokens.begin() + first + 64);
    Tokens labels(batch.labels.begin() + first + 32, batch.labels.begin() + first + 64);
    EXPECT_EQ(tokens[32], kSeparator);
    EXPECT_EQ(std::count(tokens.begin(), tokens.end(), kSeparator), 1);
    for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(batch.labels[b * 64 + i], kNoLabel);
    EXPECT_TRUE(std::equal(tokens.begin() + 33, tokens.end(), labels.begin()));
    std::reverse(labels.begin(), labels.end());
    EXPECT_TRUE(std::equal(labels.begin(), labels.end(), tokens.begin()));
  }
}

TEST(StackTest, ByHand) {
  Written w(16);
  WriteStack(
      std::vector<StackOperation>{
          {true, 1, 8}, {true, 0, 9}, {true, 1, 7}, {false, 1, 7}, {false, 1, 8}},
      w.sequence());
  EXPECT_EQ(w.tokens, (Tokens{kPush, 4, 8, kPush, 3, 9, kPush, 4, 7, kPop, 4, kQuery, kPop, 4,
                              kQuery, kPush}));
  EXPECT_EQ(w.labels, (Tokens{-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 7, -1, -1, 8, -1}));
}

// A second machine executes the tokens and must pop what the labels say.
TEST(StackTest, LabelsAreWhatTheStacksGiveBack) {
  const lm::Batch batch =
      DrawBatch(Settings("stack", 40, 5), Stream::kTrain, 0, {.batch = 40, .time = 100});
  std::int64_t pops = 0;
  for (std::size_t b = 0; b < 40; ++b) {
    std::map<Token, Tokens> stacks;
    for (std::size_t i = b * 100; i + 2 < b * 100 + 100; i += 3) {
      const Token operation = batch.tokens[i], stack = batch.tokens[i + 1];
      ASSERT_GE(stack, 3);
      ASSERT_LT(stack, 8);
      EXPECT_EQ(batch.labels[i], kNoLabel);
      EXPECT_EQ(batch.labels[i + 1], kNoLabel);
      if (operation == kPush) {
        ASSERT_GE(batch.tokens[i + 2], 8);
        ASSERT_LT(batch.tokens[i + 2], 40);
        EXPECT_EQ(batch.labels[i + 2], kNoLabel);
        stacks[stack].push_back(batch.tokens[i + 2]);
      } else {
        ASSERT_EQ(operation, kPop);
        ASSERT_EQ(batch.tokens[i + 2], kQuery);
        ASSERT_FALSE(stacks[stack].empty());
        EXPECT_EQ(batch.labels[i + 2], stacks[stack].back());
        stacks[stack].pop_back();
        ++pops;
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(pops) / (40 * 33), 0.45, 0.06);  // a half, less empty stacks
}

TEST(BatchTest, IsAFunctionOfSeedStreamAndIndex) {
  RunSettings settings = Settings("mqar", 64, 4);
  const lm::Window window{.batch = 2, .time = 32};
  const auto tokens = [&](Stream stream, std::int64_t index) {
    return DrawBatch(settings, stream, index, window).tokens;
  };
  const Tokens train = tokens(Stream::kTrain, 5), test = tokens(Stream::kTest, 5);
  EXPECT_EQ(tokens(Stream::kTrain, 5), train);
  EXPECT_NE(tokens(Stream::kTrain, 6), train);
  EXPECT_NE(test, train);
  settings.seed = 4;
  EXPECT_NE(tokens(Stream::kTrain, 5), train);
  EXPECT_EQ(tokens(Stream::kTest, 5), test) << "every seed is tested on the same sequences";
}

}  // namespace
}  // namespace quality
