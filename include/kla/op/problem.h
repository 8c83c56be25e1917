// SPDX-License-Identifier: Apache-2.0
// op: the sizes and scalars that every operation shares, read off its arguments.
#ifndef KLA_OP_PROBLEM_H_
#define KLA_OP_PROBLEM_H_

#include <cmath>
#include <vector>

#include "kla/core/aligned_allocator.h"
#include "kla/core/heads.h"
#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"

namespace kla {

// Read off the arguments of an operation, which have been checked.
struct Problem {
  Index batch;        // B
  Index tokens;       // T, of each batch row
  Index key_heads;    // H
  Index value_heads;  // HV
  Index key_dim;      // K
  Index value_dim;    // V
  Index sequences;    // N
  double scale;       // of the output
  double epsilon;
  HeadGrouping grouping;

  Index KeyHeadOf(Index value_head) const { return Groups().KeyHeadOf(value_head); }
  Index ValueHeadOf(Index key_head, Index i) const { return Groups().ValueHeadOf(key_head, i); }
  Index GroupSize() const { return Groups().group_size; }

 private:
  internal::HeadGroups<Index> Groups() const {
    return internal::HeadGroups<Index>::Of(key_heads, value_heads, grouping);
  }
};

// Args has q, v, cu_seqlens, scale, epsilon and grouping, checked.
template <class Args>
KLA_ALWAYS_INLINE Problem MakeProblem(const Args& args) {
  const Index key_dim = args.q.template extent<Key>();
  return {.batch = args.q.template extent<Batch>(),
          .tokens = args.q.template extent<Time>(),
          .key_heads = args.q.template extent<KeyHead>(),
          .value_heads = args.v.template extent<ValueHead>(),
          .key_dim = key_dim,
          .value_dim = args.v.template extent<Value>(),
          .sequences = SequenceCount(args.cu_seqlens, args.q.template extent<Batch>()),
          .scale = args.scale ? *args.scale : 1.0 / std::sqrt(static_cast<double>(key_dim)),
          .epsilon = args.epsilon,
          .grouping = args.grouping};
}

// Chunks of length `chunk` in the sequences before sequence n: where its chunk_states begin.
inline Index ChunksBefore(const IndexList& cu_seqlens, Index tokens, Index n, Index chunk) {
  if (cu_seqlens.is_null()) return n * ((tokens + chunk - 1) / chunk);
  Index count = 0;
  for (Index i = 0; i < n; ++i) {
    count += (SequenceAt(cu_seqlens, tokens, i).length + chunk - 1) / chunk;
  }
  return count;
}

// Chunks in all sequences together: the extent NT of chunk_states.
inline Index ChunkCount(const IndexList& cu_seqlens, Index batch, Index tokens, Index chunk) {
  return ChunksBefore(cu_seqlens, tokens, SequenceCount(cu_seqlens, batch), chunk);
}

// ChunksBefore of every sequence, counted once: kernels ask for it head by head, and with thousands
// of packed sequences the sums would take longer than the work.
// Owner keeps the code of two backends' containers apart, as KLA_ALWAYS_INLINE explains.
template <class Owner>
class ChunkStarts {
 public:
  ChunkStarts(const IndexList& cu_seqlens, const Problem& problem, Index chunk)
      : each_((problem.tokens + chunk - 1) / chunk) {
    if (cu_seqlens.is_null()) return;
    starts_.reserve(static_cast<std::size_t>(problem.sequences));
    Index count = 0;
    for (Index n = 0; n < problem.sequences; ++n) {
      starts_.push_back(count);
      count += (SequenceAt(cu_seqlens, problem.tokens, n).length + chunk - 1) / chunk;
    }
  }
  Index operator[](Index n) const {
    return starts_.empty() ? n * each_ : starts_[static_cast<std::size_t>(n)];
  }

 private:
  Index each_;
  std::vector<Index, internal::CacheAlignedAllocator<Index, Owner>> starts_;
};

}  // namespace kla

#endif  // KLA_OP_PROBLEM_H_
