// SPDX-License-Identifier: Apache-2.0
// tests: the progress line where the output is not a terminal.
#include "examples/lm/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

namespace lm::testing {
namespace {

std::string Written(std::FILE* file) {
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

TEST(ProgressTest, AFileGetsWholeLinesWithoutControlCharacters) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(0, 100, 2048, file, /*quiet_interval=*/0.0);
  progress.Update(1, 2.0 * std::log(2.0));
  progress.Update(100, 2.0 * std::log(2.0));
  progress.Close();
  const std::string text = Written(file);
  std::fclose(file);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.rfind("[........................] 1/100  loss 1.3863  2.000 bits/byte", 0), 0u)
      << text;
  EXPECT_NE(text.find("[########################] 100/100"), std::string::npos);
  EXPECT_NE(text.find("0:00 left"), std::string::npos);
}

TEST(ProgressTest, IsQuietBetweenIntervals) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(0, 100, 2048, file, /*quiet_interval=*/3600.0);
  for (int step = 1; step <= 100; ++step) progress.Update(step, 1.0);
  const std::string text = Written(file);
  std::fclose(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(ProgressTest, Durations) {
  EXPECT_EQ(FormatDuration(0.2), "0:00");
  EXPECT_EQ(FormatDuration(61.0), "1:01");
  EXPECT_EQ(FormatDuration(3600.0 * 30 + 62), "30:01:02");
  EXPECT_EQ(FormatDuration(-3.0), "0:00");
}

}  // namespace
}  // namespace lm::testing
