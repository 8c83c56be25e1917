// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: the numbers of the three presets.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/quality/settings.h"

namespace quality {
namespace {

std::vector<std::int64_t> Doubled(std::int64_t first, int count) {
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(first << i);
  return lengths;
}

// The published sizes. For text they are those of the 0.4B model and its billion tokens, here
// bytes, with twice as many heads of half the size.
RunSettings Paper(const std::string& task) {
  RunSettings s;
  s.preset = "paper", s.task = task, s.test_sequences = 1024, s.shards = 8;
  s.model_dim = 256, s.hidden_dim = 1024, s.steps = 10000, s.warmup = 500;
  if (task == "mqar") s.vocabulary = 8192, s.pairs = 32, s.time = 256;
  if (task == "sniah") s.vocabulary = 8192, s.pairs = 1, s.time = 1024;
  if (task == "palindrome") s.vocabulary = 128, s.time = 256, s.steps = 20000;
  if (task == "stack") s.vocabulary = 256, s.pairs = 64, s.time = 256, s.steps = 20000;
  s.test_lengths = Doubled(s.time, 4);
  if (task == "text") {
    s.vocabulary = 256, s.time = 2048, s.test_lengths = Doubled(1024, 7), s.test_sequences = 16;
    s.model_dim = 1536, s.layers = 11, s.hidden_dim = 6144, s.steps = 15259;
  }
  return s;
}

// About a minute a run on one core, text two: a narrower model, shorter sequences, a smaller
// vocabulary. mqar keeps the 32 pairs of the paper, for which one head of 48 keys is as small as it
// can be: what is left of them at 8 and 16 times the length is what the comparison is about. The
// learning rate is the published one: with 4e-3 neither KLA nor GDN learns mqar, with 2e-3 one seed
// of each ended lower at 8 times the length, by no more than seeds differ (tried.csv). On text 4e-3
// is better than 2e-3 with both.
RunSettings Small(const std::string& task) {
  RunSettings s;
  s.preset = "small", s.task = task, s.test_sequences = 256;
  s.model_dim = 64, s.hidden_dim = 128, s.time = 128, s.batch = 16, s.steps = 3000, s.warmup = 150;
  if (task == "mqar") s.vocabulary = 256, s.pairs = 32;
  if (task == "sniah") s.vocabulary = 128, s.pairs = 1, s.test_sequences = 512;
  if (task == "palindrome") s.vocabulary = 128, s.time = 64, s.batch = 32;
  if (task == "stack") s.vocabulary = 128, s.pairs = 16;
  s.test_lengths = Doubled(s.time, 5);
  if (task == "text") {
    s.vocabulary = 256, s.time = 1024, s.test_lengths = Doubled(1024, 7), s.test_sequences = 2;
    s.model_dim = 128, s.hidden_dim = 384, s.batch = 2, s.steps = 1500;
    s.learning_rate = 4e-3;
  }
  return s;
}

// Seconds: what the tests run.
RunSettings Smoke(const std::string& task) {
  RunSettings s = Small(task);
  s.preset = "smoke", s.hidden_dim = 64, s.steps = 1200, s.warmup = 50, s.learning_rate = 3e-3;
  if (task != "text") s.time = 32, s.batch = 16, s.test_sequences = 64;
  if (task == "mqar") s.vocabulary = 64, s.pairs = 8;
  if (task == "sniah") s.vocabulary = 32;
  if (task == "palindrome") s.time = 16;
  if (task == "text") s.model_dim = 64, s.steps = 20, s.time = 128, s.test_sequences = 1;
  s.test_lengths = Doubled(s.time, 2);
  return s;
}

}  // namespace

RunSettings Preset(const std::string& preset, const std::string& task) {
  if (preset == "paper") return Paper(task);
  if (preset == "small") return Small(task);
  if (preset == "smoke") return Smoke(task);
  throw std::invalid_argument("no preset is called '" + preset + "'");
}

}  // namespace quality
