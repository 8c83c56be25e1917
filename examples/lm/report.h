// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: what a trained model is measured against, as tables and JSON.
#ifndef KLA_EXAMPLES_LM_REPORT_H_
#define KLA_EXAMPLES_LM_REPORT_H_

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "examples/lm/attention_mixer.h"
#include "examples/lm/byte_models.h"
#include "examples/lm/compressor.h"
#include "examples/lm/cross_entropy.h"
#include "examples/lm/decode_speed.h"
#include "examples/lm/language_model.h"
#include "examples/lm/settings.h"
#include "examples/lm/text_corpus.h"
#include "examples/lm/train.h"

namespace lm {

// Bits per byte over the same validation bytes.
struct BitsTable {
  double model = 0.0;
  double order0 = 0.0;
  double order2 = 0.0;
  std::optional<double> xz_alone;           // of the validation bytes by themselves
  std::optional<double> xz_after_training;  // what they add to the training bytes
};

inline BitsTable CompareBits(const TextCorpus& corpus, const LossSum& model_loss) {
  BitsTable table;
  table.model = model_loss.bits_per_row();
  ByteCountModel<0> order0;
  order0.Train(corpus.train);
  table.order0 = order0.BitsPerByte(corpus.validation);
  ByteCountModel<2> order2;
  order2.Train(corpus.train);
  table.order2 = order2.BitsPerByte(corpus.validation);
  const auto bits = [&](std::int64_t bytes) {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(CountBytes(corpus.validation));
  };
  if (const auto alone = CompressedBytes({&corpus.validation})) {
    table.xz_alone = bits(*alone);
    const auto train = CompressedBytes({&corpus.train});
    const auto both = CompressedBytes({&corpus.train, &corpus.validation});
    if (train && both) table.xz_after_training = bits(*both - *train);
  }
  return table;
}

inline void Print(const BitsTable& table, const std::string& model_name) {
  const auto row = [](const std::string& name, std::optional<double> bits) {
    fmt::print("  {:<44} {}\n", name, bits ? fmt::format("{:.3f}", *bits) : "xz is not installed");
  };
  fmt::print("bits per byte on the validation files\n");
  row(model_name + ", this run", table.model);
  row("order-2 byte model (adaptive, Witten-Bell)", table.order2);
  row("order-0 byte model (adaptive)", table.order0);
  row("xz -9, validation files alone", table.xz_alone);
  row("xz -9, after the training files", table.xz_after_training);
}

// What the table means, in sentences; `training` says how long the network was trained.
inline std::string Verdict(const BitsTable& table, const std::string& training) {
  const auto than = [&](double bits) { return table.model < bits ? "better" : "not better"; };
  std::string text = fmt::format(
      "verdict    {:.3f} bits per byte, the order-2 byte model {:.3f}: the network is {}\n{}",
      table.model, table.order2, than(table.order2), training);
  const std::optional<double> xz = table.xz_after_training;
  if (!xz) return text + "           xz is not installed, so there is no comparison with it\n";
  text += fmt::format("           xz -9, after the training files, {:.3f}: the network is {}", *xz,
                      than(*xz));
  if (table.model < *xz) return text + "\n";
  return text +
         "; xz copies long passages\n"
         "           that stand in the training files word for word (licences, declarations),\n"
         "           which a network of this size cannot hold\n";
}

// Why these were the steps: as many as the time allows, but no fewer than the schedule takes.
inline std::string TrainingSentence(const TrainOutcome& outcome, double minutes) {
  if (!outcome.steps_fit_minutes) return "";
  if (outcome.steps_are_fewest) {
    return fmt::format(
        "           {} steps are the fewest that its schedule takes; {:g} minutes would have been\n"
        "           enough for less on this machine: more steps, fewer bits, with --minutes\n",
        outcome.steps, minutes);
  }
  return fmt::format(
      "           {} steps are what {:g} minutes allow at the {:.0f} tokens/s of this machine; a\n"
      "           slower one trains fewer and ends with more bits: give it more with --minutes\n",
      outcome.steps, minutes, outcome.tokens_per_second);
}

struct DecodeRow {
  std::int64_t context = 0;
  double model = 0.0;      // tokens per second
  double attention = 0.0;  // the same
};

// The trained model beside one of the same width, depth and feed-forward network whose mixers are
// softmax attention with a key-value cache; untrained, since only its speed is wanted. Both decode
// one sequence on one thread, in turn.
template <class Model>
std::vector<DecodeRow> CompareDecoding(const Model& model, const Settings& settings,
                                       const std::string& text, double seconds) {
  using Attention = LanguageModel<AttentionMixer<typename Model::Scalar>>;
  Attention attention({.vocabulary = settings.vocabulary,
                       .model_dim = settings.model_dim,
                       .layers = settings.layers,
                       .hidden_dim = settings.hidden_dim,
                       .mixer = {.num_heads = settings.heads()}});
  std::mt19937_64 random(settings.seed);
  attention.Initialize(random);
  std::vector<DecodeRow> rows;
  for (const std::int64_t context : {1024, 8192, 32768, 65536}) {
    rows.push_back({.context = context,
                    .model = DecodeTokensPerSecond(model, text, context, seconds),
                    .attention = DecodeTokensPerSecond(attention, text, context, seconds)});
  }
  return rows;
}

inline void Print(const std::vector<DecodeRow>& rows, const std::string& model_name) {
  fmt::print("decoded tokens/s, one sequence, one thread\n");
  fmt::print("  {:>8} {:>14} {:>24} {:>8}\n", "context", model_name, "attention + KV cache",
             "ratio");
  for (const DecodeRow& row : rows) {
    fmt::print("  {:>7}K {:>14.0f} {:>24.0f} {:>7.1f}x\n", row.context / 1024, row.model,
               row.attention, row.model / row.attention);
  }
}

// Text as it is, but control and foreign bytes spelled out, so that a sample cannot disturb a
// terminal.
inline std::string Printable(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    const bool plain = (c >= ' ' && c <= '~') || c == '\n' || c == '\t';
    text += plain ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return text;
}

inline nlohmann::ordered_json ToJson(const BitsTable& bits, const std::vector<DecodeRow>& decode) {
  const auto optional = [](std::optional<double> value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json;
  json["validation_bits_per_byte"] = {{"model", bits.model},
                                      {"order0", bits.order0},
                                      {"order2", bits.order2},
                                      {"xz", optional(bits.xz_alone)},
                                      {"xz_after_training", optional(bits.xz_after_training)}};
  json["decode_tokens_per_second"] = nlohmann::ordered_json::array();
  for (const DecodeRow& row : decode) {
    json["decode_tokens_per_second"].push_back(
        {{"context", row.context}, {"model", row.model}, {"attention", row.attention}});
  }
  return json;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_REPORT_H_
