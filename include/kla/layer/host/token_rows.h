// SPDX-License-Identifier: Apache-2.0
// layer/host: tokens as rows of a matrix, and the blocks of rows that are the layer's unit of work.
#ifndef KLA_LAYER_HOST_TOKEN_ROWS_H_
#define KLA_LAYER_HOST_TOKEN_ROWS_H_

#include <algorithm>
#include <vector>

#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/view.h"
#include "kla/layer/host/buffer.h"

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

// The rows of x [N, T, D] of the sequences whose slot is not -1, and their slots: x itself if these
// are all, else copied together.
template <class T>
ModelView<const T> GatherActive(const ModelView<const T>& x, const IndexList& slots,
                                Buffer<T>& gathered, std::vector<Index>& active_slots) {
  const auto [count, tokens, width] = x.extents();
  active_slots.clear();
  for (Index n = 0; n < count; ++n) {
    const Index slot = slots.is_null() ? n : slots[n];
    if (slot != -1) active_slots.push_back(slot);
  }
  const auto active = static_cast<Index>(active_slots.size());
  if (active == count) return x;
  T* to = gathered.Resize(active * tokens * width);
  for (Index n = 0; n < count; ++n) {
    if (slots[n] == -1) continue;
    for (Index t = 0; t < tokens; ++t) to = std::copy_n(x.Row(n, t), width, to);
  }
  return ModelView<const T>(gathered.data(), {active, tokens, width});
}

// The reverse, into y [N, T, D], of which the rows of skipped sequences stay as they are.
template <class T>
void ScatterActive(const ModelView<T>& rows, const IndexList& slots, const ModelView<T>& y) {
  Index from = 0;
  for (Index n = 0; n < slots.size(); ++n) {
    if (slots[n] == -1) continue;
    for (Index t = 0; t < rows.template extent<Time>(); ++t) {
      std::copy_n(rows.Row(from, t), rows.template extent<Model>(), y.Row(n, t));
    }
    ++from;
  }
}

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_TOKEN_ROWS_H_
