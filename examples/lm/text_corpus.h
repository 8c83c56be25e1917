// SPDX-License-Identifier: Apache-2.0
// Language-model example, data: a text file or a folder of them, split by file, read in windows.
#ifndef KLA_EXAMPLES_LM_TEXT_CORPUS_H_
#define KLA_EXAMPLES_LM_TEXT_CORPUS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "examples/lm/matrix.h"
#include "examples/lm/trainer.h"

namespace lm {

struct Document {
  std::string name;  // path below the corpus root, with '/'
  std::string bytes;
};

struct TextCorpus {
  std::vector<Document> train;
  std::vector<Document> validation;
};

// The byte that a document is preceded by. Text files do not contain it; files that do are taken
// for binary and left out.
inline constexpr char kDocumentStart = '\0';

inline std::int64_t CountBytes(const std::vector<Document>& documents) {
  std::int64_t count = 0;
  for (const Document& d : documents) count += static_cast<std::int64_t>(d.bytes.size());
  return count;
}

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path.string());
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) throw std::runtime_error("cannot read " + path.string());
  return bytes;
}

// Every non-empty regular text file below `root`, by name; symbolic links are not followed, so
// that no byte counts twice.
inline std::vector<Document> ReadDocuments(const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  std::vector<Document> documents;
  const auto add = [&](const fs::path& path, std::string name) {
    std::string bytes = ReadFile(path);
    if (bytes.empty() || bytes.find(kDocumentStart) != std::string::npos) return;
    documents.push_back({std::move(name), std::move(bytes)});
  };
  if (fs::is_directory(root)) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
      if (entry.is_symlink() || !entry.is_regular_file()) continue;
      add(entry.path(), entry.path().lexically_relative(root).generic_string());
    }
  } else if (fs::is_regular_file(root)) {
    add(root, root.filename().generic_string());
  } else {
    throw std::runtime_error("no such text file or folder: " + root.string());
  }
  std::sort(documents.begin(), documents.end(),
            [](const Document& a, const Document& b) { return a.name < b.name; });
  if (documents.empty()) throw std::runtime_error("no text found in " + root.string());
  return documents;
}

// Fisher and Yates; std::shuffle may differ between libraries.
template <class Element>
void Shuffle(std::vector<Element>& elements, std::mt19937_64& random) {
  for (std::size_t i = elements.size(); i > 1; --i) {
    std::swap(elements[i - 1], elements[static_cast<std::size_t>(random() % i)]);
  }
}

// Whole documents go to one side or the other: shuffled by a fixed seed, the first that add up to
// `validation_share` of the bytes are validation. A lone document is cut instead, its tail being
// the validation part.
inline TextCorpus LoadTextCorpus(const std::filesystem::path& root, double validation_share) {
  if (!(validation_share > 0.0 && validation_share < 1.0)) {
    throw std::invalid_argument("the validation share must lie between 0 and 1");
  }
  std::vector<Document> documents = ReadDocuments(root);
  const auto wanted =
      static_cast<std::int64_t>(validation_share * static_cast<double>(CountBytes(documents)));
  TextCorpus corpus;
  if (documents.size() == 1) {
    const std::string& bytes = documents[0].bytes;
    const std::size_t cut = bytes.size() - static_cast<std::size_t>(wanted);
    corpus.train.push_back({documents[0].name, bytes.substr(0, cut)});
    corpus.validation.push_back({documents[0].name + " (tail)", bytes.substr(cut)});
  } else {
    std::mt19937_64 random(20260508);
    Shuffle(documents, random);
    std::int64_t taken = 0;
    for (std::size_t i = 0; i < documents.size(); ++i) {
      const bool last_for_training = i + 1 == documents.size() && corpus.train.empty();
      const bool validates = taken < wanted && !last_for_training;
      if (validates) taken += static_cast<std::int64_t>(documents[i].bytes.size());
      (validates ? corpus.validation : corpus.train).push_back(std::move(documents[i]));
    }
  }
  if (CountBytes(corpus.train) == 0 || CountBytes(corpus.validation) == 0) {
    throw std::runtime_error("too little text in " + root.string() + " to train and validate on");
  }
  return corpus;
}

// Batches of windows of `time` bytes, each predicting the byte that follows. The training text is
// one stream, a start byte before each document; every epoch shifts the window grid and shuffles
// the windows anew. Batch `step` is a pure function of (text, seed, step): nothing has to be saved
// for a run to resume in the same order.
class WindowSampler {
 public:
  WindowSampler(const std::vector<Document>& documents, Window window, std::uint64_t seed)
      : window_(window), seed_(seed) {
    for (const Document& d : documents) {
      stream_ += kDocumentStart;
      stream_ += d.bytes;
    }
    // One byte more than the window for the last label, and up to a window lost to the shift.
    const auto size = static_cast<std::int64_t>(stream_.size());
    windows_per_epoch_ = (size - 1) / window.time - 1;
    if (windows_per_epoch_ < window.batch) {
      throw std::runtime_error("the training text has " + std::to_string(size) +
                               " bytes: too few for one batch of " + std::to_string(window.batch) +
                               " windows of " + std::to_string(window.time));
    }
  }

  std::int64_t steps_per_epoch() const { return windows_per_epoch_ / window_.batch; }

  Batch At(std::int64_t step) {
    SelectEpoch(step / steps_per_epoch());
    const std::int64_t first = step % steps_per_epoch() * window_.batch;
    Batch batch{.window = window_, .tokens = {}, .labels = {}};
    batch.tokens.reserve(static_cast<std::size_t>(window_.rows()));
    batch.labels.reserve(static_cast<std::size_t>(window_.rows()));
    for (std::int64_t b = 0; b < window_.batch; ++b) {
      const std::int64_t start =
          shift_ + order_[static_cast<std::size_t>(first + b)] * window_.time;
      for (std::int64_t t = 0; t < window_.time; ++t) {
        batch.tokens.push_back(ByteAt(start + t));
        batch.labels.push_back(ByteAt(start + t + 1));
      }
    }
    return batch;
  }

 private:
  std::int32_t ByteAt(std::int64_t i) const {
    return static_cast<unsigned char>(stream_[static_cast<std::size_t>(i)]);
  }

  void SelectEpoch(std::int64_t epoch) {
    if (epoch == epoch_) return;
    epoch_ = epoch;
    std::seed_seq seeds{seed_ & 0xffffffffu, seed_ >> 32, static_cast<std::uint64_t>(epoch)};
    std::mt19937_64 random(seeds);
    shift_ = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(window_.time));
    order_.resize(static_cast<std::size_t>(windows_per_epoch_));
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<std::int64_t>(i);
    Shuffle(order_, random);
  }

  std::string stream_;
  Window window_;
  std::uint64_t seed_;
  std::int64_t windows_per_epoch_ = 0;
  std::int64_t epoch_ = -1;
  std::int64_t shift_ = 0;
  std::vector<std::int64_t> order_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_TEXT_CORPUS_H_
