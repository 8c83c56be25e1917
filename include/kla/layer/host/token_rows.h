// SPDX-License-Identifier: Apache-2.0
// layer/host: tokens as rows of a matrix, and the blocks of rows that are the layer's unit of work.
#ifndef KLA_LAYER_HOST_TOKEN_ROWS_H_
#define KLA_LAYER_HOST_TOKEN_ROWS_H_

#include <algorithm>
#include <vector>

#include "kla/core/concepts.h"
#include "kla/core/layout.h"

namespace kla::internal {

// Row b * T + t is token t of batch row b. Sequences, packed or not, are runs of rows.
struct TokenRows {
  struct Run {
    Index first, length;
  };
  // Rows of one task. Fixed, so that sums over rows are cut alike for every executor.
  static constexpr Index kBlock = 64;

  void Set(const IndexList& cu_seqlens, Index batch, Index tokens) {
    rows = batch * tokens;
    sequences.resize(static_cast<std::size_t>(SequenceCount(cu_seqlens, batch)));
    sequence_of.resize(static_cast<std::size_t>(rows));
    for (std::size_t n = 0; n < sequences.size(); ++n) {
      const auto span = SequenceAt(cu_seqlens, tokens, static_cast<Index>(n));
      sequences[n] = {span.batch * tokens + span.begin, span.length};
      std::fill_n(sequence_of.begin() + sequences[n].first, span.length, static_cast<Index>(n));
    }
  }

  Index BlockCount() const { return (rows + kBlock - 1) / kBlock; }

  // The row after the last one of the sequence that `row` belongs to.
  Index EndOf(Index row) const {
    const Index n = sequence_of[static_cast<std::size_t>(row)];
    const Run& run = sequences[static_cast<std::size_t>(n)];
    return run.first + run.length;
  }

  // Calls f(block, begin, end) for every block of rows.
  template <Executor Exec, class F>
  void ForEachBlock(const Exec& executor, const F& f) const {
    executor.ParallelFor(BlockCount(), [&](Index block) {
      f(block, block * kBlock, std::min(rows, (block + 1) * kBlock));
    });
  }

  Index rows = 0;
  std::vector<Run> sequences;
  std::vector<Index> sequence_of;  // [rows]
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_TOKEN_ROWS_H_
