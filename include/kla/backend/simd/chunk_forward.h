// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward.
#ifndef KLA_BACKEND_SIMD_CHUNK_FORWARD_H_
#define KLA_BACKEND_SIMD_CHUNK_FORWARD_H_

#include "kla/backend/simd/chunk_walk.h"
#include "kla/backend/simd/chunk_workspace.h"
#include "kla/core/executor.h"
#include "kla/op/chunk_forward.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// A head is computed in segments of blocks: pack the blocks (they stay in L2), then walk each panel
// of the state through them (it stays in L1), then write the outputs.
// Many heads: each is one task. Few heads: the blocks of a segment are packed, and the panels of
// the state are walked, as tasks; the same functions on the same numbers, so the same bits.
template <class StepSize, class T, class State, Index kChunk>
class ChunkForwardHeads {
 public:
  using R = Accumulator<T>;
  using Args = ChunkForwardArgs<T, State>;
  static constexpr Index kSegment = 8;   // blocks, where a head is one task
  static constexpr Index kWindow = 128;  // blocks, where they are tasks

  explicit ChunkForwardHeads(const Args& args)
      : args_(args),
        problem_(MakeProblem(args)),
        layout_(problem_.key_dim, problem_.value_dim),
        block_size_(WholeLines<R>(layout_.BlockSize())) {}

  template <class Executor>
  void Run(const Executor& executor) const {
    const Index heads = problem_.sequences * problem_.value_heads;
    if (heads < 2 * executor.Concurrency() && executor.Concurrency() > 1) {
      const AlignedArray<R> memory(WorkspaceSize(WindowBlocks()));
      for (Index head = 0; head < heads; ++head) {
        RunHead(executor, head, WindowBlocks(), memory.data());
      }
    } else {
      RunTasks<R>(executor, heads, WorkspaceSize(kSegment),
                  [&](Index head, R* memory) { RunHead(Serial{}, head, kSegment, memory); });
    }
  }

 private:
  Index WorkspaceSize(Index blocks) const { return layout_.StateSize() + blocks * block_size_; }
  Index WindowBlocks() const {
    return std::clamp<Index>((problem_.tokens + kBlock - 1) / kBlock, 1, kWindow);
  }

  template <class Executor>
  void RunHead(const Executor& executor, Index task, Index segment, R* memory) const {
    const Index n = task / problem_.value_heads, head = task % problem_.value_heads;
    const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
    R* state = memory;
    R* blocks = memory + layout_.StateSize();
    LoadState(layout_, args_.initial_state, n, head, state);
    for (Index begin = 0; begin < span.length; begin += segment * kBlock) {
      const Index end = std::min(span.length, begin + segment * kBlock);
      const Index count = (end - begin + kBlock - 1) / kBlock;
      executor.ParallelFor(count, [&](Index i) {
        const Index t = begin + i * kBlock;
        const BlockInput<T> input(args_, span.batch, span.begin + t, std::min(kBlock, end - t),
                                  problem_.KeyHeadOf(head), head);
        PackBlock<StepSize, T>(input, layout_, problem_, BlockAt(blocks, i),
                               static_cast<TokenScales<R>*>(nullptr));
      });
      executor.ParallelFor(layout_.panels, [&](Index panel) {
        WalkPanel(n, head, begin, count, panel, blocks, state + panel * layout_.PanelSize());
      });
      executor.ParallelFor(count, [&](Index i) {
        const Index t = begin + i * kBlock;
        for (Index j = 0; j < std::min(kBlock, end - t); ++j) {
          StoreOutput(BlockAt(blocks, i), j, args_.o.Row(span.batch, span.begin + t + j, head));
        }
      });
    }
    StoreState(layout_, state, args_.final_state, n, head);
  }

  // `count` blocks of one panel; keeps the state that enters each chunk where asked to.
  void WalkPanel(Index n, Index head, Index begin, Index count, Index panel, R* blocks,
                 R* state) const {
    PanelScratch<R> scratch;
    for (Index i = 0; i < count; ++i) {
      const Index t = begin + i * kBlock;
      if (!args_.chunk_states.is_null() && t % kChunk == 0) {
        const Index chunk = ChunksBefore(args_.cu_seqlens, problem_.tokens, n, kChunk) + t / kChunk;
        StorePanel(state, layout_, panel, args_.chunk_states.Row(chunk, head, 0),
                   args_.chunk_states.template stride<Key>(), 1);
      }
      WalkBlock(layout_, BlockAt(blocks, i), panel, state, scratch);
    }
  }

  void StoreOutput(const Block<R>& block, Index i, T* to) const {
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      const Index first = panel * kPanel<R>;
      ConvertRow(block.values + (panel * kBlock + i) * kPanel<R>,
                 std::min(kPanel<R>, layout_.value_dim - first), to + first);
    }
  }

  Block<R> BlockAt(R* blocks, Index i) const { return Block<R>(layout_, blocks + i * block_size_); }

  const Args& args_;
  Problem problem_;
  BlockLayout<R> layout_;
  Index block_size_;
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkForwardOp<StepSize, T, State>, HWY_NAMESPACE::Simd, Shape> {
  template <class Executor>
  static void Run(const ChunkForwardArgs<T, State>& args, const Executor& executor) {
    HWY_NAMESPACE::ChunkForwardHeads<StepSize, T, State, kChunkLength<Simd, Shape, T>>(args).Run(
        executor);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_FORWARD_H_
