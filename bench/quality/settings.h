// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: everything that decides the outcome of one run, and the three presets.
#ifndef KLA_BENCH_QUALITY_SETTINGS_H_
#define KLA_BENCH_QUALITY_SETTINGS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/lm/trainer.h"

namespace quality {

inline const std::vector<std::string> kTasks = {"mqar", "sniah", "palindrome", "stack", "text"};
inline const std::vector<std::string> kMixers = {
    "kla", "gdn", "relaxed-kaczmarz", "kaczmarz", "longhorn", "plain-delta", "attention"};
inline const std::vector<std::string> kPresets = {"paper", "small", "smoke"};

// One mixer, one task, one seed. Nothing here but `mixer` differs between the mixers of a table:
// equal data in equal order, equal initialisation, schedule and number of steps.
struct RunSettings {
  std::string preset = "small";
  std::string task = "mqar";
  std::string mixer = "kla";
  std::uint64_t seed = 1;
  // Task.
  std::int64_t vocabulary = 0;
  std::int64_t pairs = 0;  // mqar, sniah: key-value pairs; stack: number of stacks
  std::int64_t time = 0;   // tokens of a training sequence
  std::vector<std::int64_t> test_lengths;
  std::int64_t test_sequences = 0;  // text: pieces of the longest test length
  // Model. Heads have 48 key and 96 value dimensions, as in the paper's small models, and there is
  // one for each 64 of model_dim, so that q and k have 0.75 D columns and v has 1.5 D.
  std::int64_t model_dim = 0;
  std::int64_t layers = 2;
  std::int64_t hidden_dim = 0;
  // Training.
  std::int64_t batch = 32;
  std::int64_t steps = 0;
  std::int64_t warmup = 0;
  std::int64_t shards = 2;
  double learning_rate = 1e-3;
  double final_rate = 0.1;  // of learning_rate, at the last step

  std::int64_t heads() const { return model_dim / 64; }

  lm::TrainerConfig trainer() const {
    return {
        .shards = shards,
        .optimizer = {.beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1, .clip_norm = 1.0},
        .schedule = {.peak = learning_rate, .floor = final_rate, .warmup = warmup, .steps = steps}};
  }

  void Check() const {
    const auto require = [](bool holds, const char* what) {
      if (!holds) throw std::invalid_argument(std::string("quality: ") + what);
    };
    require(model_dim >= 64 && model_dim % 64 == 0, "the width must be a multiple of 64");
    require(layers >= 1 && hidden_dim >= 1, "a model needs layers and a feed-forward width");
    require(batch >= 1 && steps >= 1 && shards >= 1, "batch, steps and shards must be positive");
    require(learning_rate > 0.0, "the learning rate must be positive");
    require(time >= 8 && !test_lengths.empty() && test_sequences >= 1, "nothing to train or test");
  }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunSettings, preset, task, mixer, seed, vocabulary, pairs, time,
                                   test_lengths, test_sequences, model_dim, layers, hidden_dim,
                                   batch, steps, warmup, shards, learning_rate, final_rate)

// The sizes of a task, with mixer "kla" and seed 1; presets.cc has the numbers.
RunSettings Preset(const std::string& preset, const std::string& task);

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_SETTINGS_H_
