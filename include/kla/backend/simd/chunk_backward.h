// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkBackward.
#ifndef KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_
#define KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_

#include "kla/backend/simd/head_gradient.h"
#include "kla/core/executor.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// One value head after the other. The states that enter its chunks are taken from chunk_states or
// walked once more (4KV flops per token) into memory. Then chunks in reverse, each in the three
// phases of chunk_gradient.h; its states stay in L2. Tasks are groups of key heads or,
// where those are few for the threads, parts of their sequences: such a task walks the states up to
// its tokens and dS back to them by itself, because what one core packs reaches another slowly (one
// head, two threads, Intel server: 1.25 x with blocks and panels as tasks, 1.6 x so). The value
// heads that share a key head are one task: dq and dk are their sums, taken in the order of the
// heads.
template <class StepSize, class T, class State, Index kChunk>
class ChunkBackwardHeads {
 public:
  using R = Accumulator<T>;
  using Args = ChunkBackwardArgs<T, State>;

  ChunkBackwardHeads(const Args& args, Index threads)
      : args_(args),
        problem_(MakeProblem(args)),
        walks_(args, problem_),
        threads_(threads),
        parts_(Parts(
            FastestParts(LongestSequences(problem_, args.cu_seqlens) * problem_.key_heads, threads,
                         std::min(SequenceParts::kMost, (problem_.tokens + kChunk - 1) / kChunk),
                         [&](Index count) { return Parts(count).time(); }))),
        head_size_((1 + ChunkStateCount()) * walks_.state_size()) {}

  template <class Executor>
  void Run(const Executor& executor) const {
    // Key heads whose states are recomputed go one by one, in the same memory: to map new pages
    // costs more than shared ones save (16 MB for each of two threads: a twelfth of their time).
    const Index keys = problem_.key_heads, parts = parts_.count();
    const Index fitting = GroupOfHeads(problem_, walks_.layout(), threads_);
    const Index group = HasStates() && parts == 1
                            ? std::clamp<Index>(fitting / (2 * problem_.GroupSize()), 1, keys)
                            : 1;
    const Index groups = (keys + group - 1) / group;
    // What one part of a sequence writes the others may still have to read.
    const bool in_place = parts > 1 && !args_.d_final_state.is_null() &&
                          args_.d_initial_state.data == args_.d_final_state.data;
    const AlignedArray<R> copies(
        in_place ? problem_.sequences * problem_.value_heads * walks_.state_size() : 0);
    if (in_place) LoadFinalGradients(copies.data());
    const R* const d_final = in_place ? copies.data() : nullptr;
    RunTasks<R>(executor, problem_.sequences * groups * parts,
                group * problem_.GroupSize() * head_size_ + walks_.MemorySize(),
                [&](Index task, R* memory) {
                  const Index part = task % parts, first = task / parts % groups * group;
                  RunHeads(task / parts / groups, part, first, std::min(group, keys - first),
                           d_final, memory);
                });
  }

 private:
  using Walks = HeadGradients<StepSize, T, State, kChunk>;
  using Head = typename Walks::Head;
  using Next = typename Walks::Next;

  bool HasStates() const { return !args_.chunk_states.is_null(); }

  // Tokens before a part take the time of walking the states, where they are not given, those
  // behind it that of walking dS, of the time for their gradients. Measured at K = V = 128 in
  // float.
  SequenceParts Parts(Index count) const {
    return {count, HasStates() ? 0.0 : 0.3, HasStates() ? 0.35 : 0.25};
  }
  Index BeginOf(const SequenceSpan& span, Index part) const {
    const Index chunks = (span.length + kChunk - 1) / kChunk;
    return std::min(parts_.Begin(part, chunks) * kChunk, span.length);
  }

  // The most chunks of a part, where the states that enter them are kept.
  Index ChunkStateCount() const {
    Index longest = 0;
    if (HasStates()) return longest;
    for (Index n = 0; n < problem_.sequences; ++n) {
      const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
      for (Index part = 0; part < parts_.count(); ++part) {
        longest = std::max(longest, BeginOf(span, part + 1) - BeginOf(span, part));
      }
    }
    return (longest + kChunk - 1) / kChunk;
  }

  // Of every sequence and value head.
  void LoadFinalGradients(R* to) const {
    for (Index n = 0; n < problem_.sequences; ++n) {
      for (Index head = 0; head < problem_.value_heads; ++head, to += walks_.state_size()) {
        LoadState(walks_.layout(), args_.d_final_state, n, head, to);
      }
    }
  }

  // One part of sequence n, key heads [first, first + keys), which take turns chunk by chunk.
  // `d_final` holds what LoadFinalGradients has loaded, or is null.
  void RunHeads(Index n, Index part, Index first, Index keys, const R* d_final, R* memory) const {
    const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
    const Index begin = BeginOf(span, part), end = BeginOf(span, part + 1);
    if (begin == end && part > 0) return;
    const Index heads = keys * problem_.GroupSize();
    const auto m = walks_.MemoryAt(memory + heads * head_size_);
    const auto head_at = [&](Index i) {
      const Index key_head = first + i / problem_.GroupSize(), position = i % problem_.GroupSize();
      R* own = memory + i * head_size_;
      return Head{n,
                  problem_.ValueHeadOf(key_head, position),
                  key_head,
                  position,
                  span,
                  begin,
                  end,
                  own,
                  own + walks_.state_size()};
    };
    // walk(head, what is packed next) for the heads in turn, `step` from one chunk to the next.
    const auto take_turns = [&](Index t, Index step, const auto& walk) {
      for (Index i = 0; i < heads; ++i) {
        const bool last = i + 1 == heads;
        walk(head_at(i), Next{head_at(last ? 0 : i + 1), last ? t + step : t});
      }
    };
    if (!HasStates()) {
      for (Index i = 0; i < heads; ++i) {  // d_state holds the state on its walk
        LoadState(walks_.layout(), args_.initial_state, n, head_at(i).head, head_at(i).d_state);
      }
      for (Index t = 0; t < end; t += kChunk) {
        take_turns(t, kChunk,
                   [&](const Head& at, const Next& next) { walks_.WalkStates(at, t, next, m); });
      }
    }
    for (Index i = 0; i < heads; ++i) {
      const Head at = head_at(i);
      if (d_final != nullptr) {
        std::copy_n(d_final + (n * problem_.value_heads + at.head) * walks_.state_size(),
                    walks_.layout().StateSize(), at.d_state);
      } else {
        LoadState(walks_.layout(), args_.d_final_state, n, at.head, at.d_state);
      }
    }
    for (Index t = RoundUp(span.length, kChunk); t > begin;) {
      t -= kChunk;
      take_turns(t, -kChunk, [&](const Head& at, const Next& next) {
        return t < end ? walks_.ChunkGradients(at, t, next, m)
                       : walks_.WalkStateGradients(at, t, next, m);
      });
    }
    if (part > 0) return;
    for (Index i = 0; i < heads; ++i) {
      StoreState(walks_.layout(), head_at(i).d_state, args_.d_initial_state, n, head_at(i).head);
    }
  }

  const Args& args_;
  Problem problem_;
  Walks walks_;
  Index threads_;
  SequenceParts parts_;  // of every sequence
  Index head_size_;      // memory of one head: dS and the states that enter chunks
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, HWY_NAMESPACE::Simd, Shape> {
  template <class Executor>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Executor& executor) {
    HWY_NAMESPACE::ChunkBackwardHeads<StepSize, T, State, kChunkLength<Simd, Shape, T>>(
        args, executor.Concurrency())
        .Run(executor);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_
