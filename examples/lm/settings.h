// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: everything that decides the outcome of a run, and its JSON form.
#ifndef KLA_EXAMPLES_LM_SETTINGS_H_
#define KLA_EXAMPLES_LM_SETTINGS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "examples/lm/trainer.h"

namespace lm {

// Two runs with equal settings on the same text and build end in the same bits, on any number of
// threads. They travel inside every saved file.
struct Settings {
  // Model. Heads have the 48 key and 96 value dimensions that the layer's class fixes, so the width
  // decides their number: model_dim / 64.
  std::string mixer = "kla";
  std::int64_t vocabulary = 256;
  std::int64_t model_dim = 128;
  std::int64_t layers = 2;
  std::int64_t hidden_dim = 384;
  // Data.
  std::int64_t batch = 4;  // windows a step
  std::int64_t time = 256;
  double validation_share = 0.05;
  // Optimisation.
  std::int64_t steps = 0;  // 0: as many as fit in the wanted minutes, see train.h
  std::int64_t warmup = 200;
  std::int64_t shards = 4;
  double learning_rate = 4e-3;
  double final_rate = 0.05;  // of learning_rate, at the last step
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double clip_norm = 1.0;
  std::uint64_t seed = 1;

  std::int64_t heads() const { return model_dim / 64; }

  // No mixer has fewer parameters than softmax attention, 4 D² a layer.
  std::int64_t FewestParameters() const {
    return vocabulary * model_dim +
           layers * (4 * model_dim * model_dim + 3 * model_dim * hidden_dim);
  }

  TrainerConfig trainer() const {
    return {
        .shards = shards,
        .optimizer = {.beta1 = beta1,
                      .beta2 = beta2,
                      .weight_decay = weight_decay,
                      .clip_norm = clip_norm},
        .schedule = {.peak = learning_rate, .floor = final_rate, .warmup = warmup, .steps = steps}};
  }

  // What a damaged file may say must neither overflow nor exhaust the memory.
  void Check() const {
    const auto require = [](bool holds, const char* what) {
      if (!holds) throw std::invalid_argument(std::string("settings: ") + what);
    };
    require(vocabulary == 256, "vocabulary must be 256, the number of byte values");
    require(model_dim >= 64 && model_dim <= 4096 && model_dim % 64 == 0,
            "model_dim must be a multiple of 64, at most 4096");
    require(layers >= 1 && layers <= 64, "layers must lie between 1 and 64");
    require(hidden_dim >= 1 && hidden_dim <= 16384, "hidden_dim must lie between 1 and 16384");
    require(batch >= 1 && batch <= 65536, "batch must lie between 1 and 65536");
    require(time >= 1 && time <= 1048576, "time must lie between 1 and 1048576");
    require(validation_share > 0.0 && validation_share < 1.0,
            "validation_share must lie between 0 and 1");
    require(steps >= 0, "steps must not be negative");
    require(warmup >= 0, "warmup must not be negative");
    require(shards >= 1 && shards <= 1024, "shards must lie between 1 and 1024");
    require(learning_rate > 0.0 && final_rate >= 0.0 && weight_decay >= 0.0 && clip_norm >= 0.0,
            "rates, decay and clipping must not be negative");
    require(beta1 >= 0.0 && beta1 < 1.0 && beta2 >= 0.0 && beta2 < 1.0,
            "beta1 and beta2 must lie in [0, 1)");
  }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Settings, mixer, vocabulary, model_dim, layers, hidden_dim,
                                   batch, time, validation_share, steps, warmup, shards,
                                   learning_rate, final_rate, weight_decay, beta1, beta2, clip_norm,
                                   seed)

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_SETTINGS_H_
