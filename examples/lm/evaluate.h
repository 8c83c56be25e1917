// SPDX-License-Identifier: Apache-2.0
// Language-model example, evaluation: bits per byte of whole documents, each read as one stream.
#ifndef KLA_EXAMPLES_LM_EVALUATE_H_
#define KLA_EXAMPLES_LM_EVALUATE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "examples/lm/cross_entropy.h"
#include "examples/lm/text_corpus.h"

namespace lm {

// Every byte of every document is predicted once, from the bytes of its document before it: the
// state is carried from one window of `time` bytes to the next. With context > 0 it starts afresh
// once so many bytes have been read. Documents are independent, so they run in parallel, and their
// sums are added in order.
template <class Model, class Executor>
LossSum EvaluateDocuments(const Model& model, const std::vector<Document>& documents,
                          std::int64_t time, std::int64_t context, Executor&& executor) {
  std::vector<LossSum> sums(documents.size());
  executor.ParallelFor(static_cast<std::int64_t>(documents.size()), [&](std::int64_t index) {
    const std::string& bytes = documents[static_cast<std::size_t>(index)].bytes;
    const auto size = static_cast<std::int64_t>(bytes.size());
    typename Model::Workspace workspace;
    typename Model::State state = model.MakeState(1);
    std::vector<std::int32_t> tokens, labels;
    char previous = kDocumentStart;
    std::int64_t read = 0;  // bytes in the state
    for (std::int64_t begin = 0; begin < size; begin += time) {
      if (context > 0 && read >= context) {
        state = model.MakeState(1);
        read = 0;
      }
      tokens.clear();
      labels.clear();
      for (std::int64_t i = begin; i < std::min(size, begin + time); ++i) {
        const char next = bytes[static_cast<std::size_t>(i)];
        tokens.push_back(static_cast<unsigned char>(previous));
        labels.push_back(static_cast<unsigned char>(next));
        previous = next;
      }
      read += static_cast<std::int64_t>(tokens.size());
      const Window window{.batch = 1, .time = static_cast<std::int64_t>(tokens.size())};
      sums[static_cast<std::size_t>(index)] +=
          model.Forward(tokens, labels, window, workspace, &state);
    }
  });
  LossSum total;
  for (const LossSum& sum : sums) total += sum;
  return total;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_EVALUATE_H_
