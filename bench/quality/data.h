// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: batches to train on and held-out sequences to test on, for every task.
#ifndef KLA_BENCH_QUALITY_DATA_H_
#define KLA_BENCH_QUALITY_DATA_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bench/quality/settings.h"
#include "bench/quality/tasks.h"
#include "examples/lm/checkpoint.h"
#include "examples/lm/evaluate.h"
#include "examples/lm/text_corpus.h"

namespace quality {

// The held-out text as one stream, a start byte between files, cut into pieces of `size` bytes.
inline std::vector<lm::Document> CutPieces(const std::vector<lm::Document>& documents,
                                           std::int64_t size, std::int64_t count) {
  std::string stream;
  for (const lm::Document& document : documents) {
    if (!stream.empty()) stream += lm::kDocumentStart;
    stream += document.bytes;
  }
  if (std::ssize(stream) < size * count) {
    throw std::runtime_error("the held-out text has " + std::to_string(stream.size()) +
                             " bytes; the test asks for " + std::to_string(size * count));
  }
  std::vector<lm::Document> pieces;
  for (std::int64_t i = 0; i < count; ++i) {
    pieces.push_back(
        {"piece " + std::to_string(i),
         stream.substr(static_cast<std::size_t>(i * size), static_cast<std::size_t>(size))});
  }
  return pieces;
}

class Data {
 public:
  // `text` is a file or a folder, for the task of that name.
  Data(const RunSettings& settings, const std::string& text) : settings_(settings) {
    if (settings.task != "text") return;
    const lm::TextCorpus corpus = lm::LoadTextCorpus(text, /*validation_share=*/0.05);
    sampler_.emplace(corpus.train, TrainWindow(), settings.seed);
    pieces_ = CutPieces(corpus.validation, settings.test_lengths.back(), settings.test_sequences);
    fingerprint_ = lm::Fingerprint(corpus.train);
  }

  // Tells one training text from another; "none" where the data is made from the seed.
  const std::string& fingerprint() const { return fingerprint_; }

  lm::Batch Train(std::int64_t step) {
    return sampler_ ? sampler_->At(step)
                    : DrawBatch(settings_, Stream::kTrain, step, TrainWindow());
  }

  // Synthetic tasks: test_sequences sequences of `length`. Text: the same held-out bytes whatever
  // the length, the model starting afresh each `length` bytes.
  template <class Trainer, class Model, class Executor>
  lm::LossSum Test(std::int64_t length, Trainer& trainer, const Model& model,
                   const Executor& executor) const {
    if (settings_.task == "text") {
      return lm::EvaluateDocuments(model, pieces_, std::min(length, kWindow), length, executor);
    }
    lm::LossSum total;
    for (std::int64_t first = 0; first < settings_.test_sequences; first += settings_.batch) {
      const std::int64_t count = std::min(settings_.batch, settings_.test_sequences - first);
      total += trainer.Evaluate(
          DrawBatch(settings_, Stream::kTest, first, {.batch = count, .time = length}));
    }
    return total;
  }

 private:
  static constexpr std::int64_t kWindow = 1024;  // tokens that a stream is read at a time

  lm::Window TrainWindow() const { return {.batch = settings_.batch, .time = settings_.time}; }

  RunSettings settings_;
  std::optional<lm::WindowSampler> sampler_;
  std::vector<lm::Document> pieces_;
  std::string fingerprint_ = "none";
};

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_DATA_H_
