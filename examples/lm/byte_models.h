// SPDX-License-Identifier: Apache-2.0
// Language-model example, yardsticks: byte-count models of order 0 to 2.
#ifndef KLA_EXAMPLES_LM_BYTE_MODELS_H_
#define KLA_EXAMPLES_LM_BYTE_MODELS_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "examples/lm/text_corpus.h"

namespace lm {

// Predicts a byte from the kOrder bytes before it, by counts, each order falling back on the next
// lower one with Witten and Bell's weight; below order 0 all bytes are equally likely:
//   p_n(c | h) = (count(h, c) + distinct(h) · p_{n−1}(c | h')) / (count(h) + distinct(h))
// Counts go on growing while it predicts, as in a compressor: that is the strongest form of the
// model, and still no byte is counted before it has been predicted.
// Witten and Bell, The zero-frequency problem, 1991.
template <int kOrder>
class ByteCountModel {
  static_assert(kOrder >= 0 && kOrder <= 2, "a table of 256^(order + 1) counts must fit in memory");

 public:
  ByteCountModel() {
    for (int order = 0; order <= kOrder; ++order) {
      counts_.emplace_back(std::size_t{1} << (8 * (order + 1)), 0u);
      totals_.emplace_back(std::size_t{1} << (8 * order), 0u);
      distinct_.emplace_back(std::size_t{1} << (8 * order), 0u);
    }
  }

  void Train(const std::vector<Document>& documents) {
    for (const Document& document : documents) {
      std::size_t history = 0;
      for (const char c : document.bytes) {
        Count(history, c);
        history = Shift(history, c);
      }
    }
  }

  // Mean of −log₂ p over every byte of the documents, learning from each after it is predicted.
  double BitsPerByte(const std::vector<Document>& documents) {
    double bits = 0.0;
    std::int64_t count = 0;
    for (const Document& document : documents) {
      std::size_t history = 0;
      for (const char c : document.bytes) {
        bits -= std::log2(Probability(history, c));
        Count(history, c);
        history = Shift(history, c);
        ++count;
      }
    }
    return bits / static_cast<double>(count);
  }

  // `history` holds the last kOrder bytes, the latest lowest; before a document they are zero.
  double Probability(std::size_t history, char c) const {
    double p = 1.0 / 256.0;
    for (std::size_t order = 0; order <= kOrder; ++order) {
      const std::size_t context = Context(history, order);
      const double distinct = distinct_[order][context];
      const double total = totals_[order][context];
      if (total == 0.0) break;  // a longer context has not been seen either
      p = (counts_[order][context << 8 | Byte(c)] + distinct * p) / (total + distinct);
    }
    return p;
  }

 private:
  static std::size_t Byte(char c) { return static_cast<unsigned char>(c); }
  static std::size_t Context(std::size_t history, std::size_t order) {
    return history & ((std::size_t{1} << (8 * order)) - 1);
  }
  static std::size_t Shift(std::size_t history, char c) {
    return Context(history << 8 | Byte(c), kOrder);
  }

  void Count(std::size_t history, char c) {
    for (std::size_t order = 0; order <= kOrder; ++order) {
      const std::size_t context = Context(history, order);
      std::uint32_t& count = counts_[order][context << 8 | Byte(c)];
      distinct_[order][context] += count == 0 ? 1u : 0u;
      ++count;
      ++totals_[order][context];
    }
  }

  // By order, then by context (and next byte).
  std::vector<std::vector<std::uint32_t>> counts_, totals_, distinct_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_BYTE_MODELS_H_
