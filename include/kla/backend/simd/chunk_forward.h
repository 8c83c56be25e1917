// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward.
#ifndef KLA_BACKEND_SIMD_CHUNK_FORWARD_H_
#define KLA_BACKEND_SIMD_CHUNK_FORWARD_H_

#include "kla/backend/simd/chunk_walk.h"
#include "kla/backend/simd/chunk_workspace.h"
#include "kla/op/chunk_forward.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// One head after the other, in segments of kSegment blocks: pack the blocks of a segment (they stay
// in L2), then walk each panel of the state through them (it stays in L1), then write the outputs.
template <class StepSize, class T, class State, Index kChunk>
class ChunkForwardHeads {
 public:
  using R = Accumulator<T>;
  using Args = ChunkForwardArgs<T, State>;
  static constexpr Index kSegment = 8;

  explicit ChunkForwardHeads(const Args& args)
      : args_(args),
        problem_(MakeProblem(args)),
        layout_(problem_.key_dim, problem_.value_dim),
        block_size_(WholeLines<R>(layout_.BlockSize())) {}

  template <class Executor>
  void Run(const Executor& executor) const {
    const Index size =
        layout_.StateSize() + kSegment * block_size_ + 2 * kBlock * layout_.key_pitch;
    RunTasks<R>(executor, problem_.sequences * problem_.value_heads, size,
                [&](Index task, R* workspace) {
                  RunHead(task / problem_.value_heads, task % problem_.value_heads, workspace);
                });
  }

 private:
  void RunHead(Index n, Index head, R* workspace) const {
    const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
    R* state = workspace;
    R* blocks = state + layout_.StateSize();
    R* rows = blocks + kSegment * block_size_;
    LoadState(n, head, state);
    for (Index begin = 0; begin < span.length; begin += kSegment * kBlock) {
      const Index end = std::min(span.length, begin + kSegment * kBlock);
      for (Index t = begin; t < end; t += kBlock) {
        const BlockInput<T> input(args_, span.batch, span.begin + t, std::min(kBlock, end - t),
                                  problem_.KeyHeadOf(head), head);
        PackBlock<StepSize, T>(input, layout_, problem_, BlockAt(blocks, t - begin), rows,
                               static_cast<TokenScales<R>*>(nullptr));
      }
      for (Index panel = 0; panel < layout_.panels; ++panel) {
        WalkPanel(n, head, begin, end, panel, blocks, state + panel * PanelSize());
      }
      for (Index t = begin; t < end; ++t) {
        const Block<R> block = BlockAt(blocks, (t - begin) / kBlock * kBlock);
        StoreOutput(block, (t - begin) % kBlock, args_.o.Row(span.batch, span.begin + t, head));
      }
    }
    StoreState(state, n, head);
  }

  // Tokens [begin, end) of one panel; keeps the state that enters each chunk where asked to.
  void WalkPanel(Index n, Index head, Index begin, Index end, Index panel, R* blocks,
                 R* state) const {
    PanelScratch<R> scratch;
    for (Index t = begin; t < end; t += kBlock) {
      if (!args_.chunk_states.is_null() && t % kChunk == 0) {
        const Index chunk = ChunksBefore(args_.cu_seqlens, problem_.tokens, n, kChunk) + t / kChunk;
        StorePanel(state, layout_, panel, args_.chunk_states.Row(chunk, head, 0),
                   args_.chunk_states.template stride<Key>(), 1);
      }
      WalkBlock(layout_, BlockAt(blocks, t - begin), panel, state, scratch);
    }
  }

  void StoreOutput(const Block<R>& block, Index i, T* to) const {
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      const Index first = panel * kPanel<R>;
      ConvertRow(block.values + (panel * kBlock + i) * kPanel<R>,
                 std::min(kPanel<R>, layout_.value_dim - first), to + first);
    }
  }

  void LoadState(Index n, Index head, R* state) const {
    const auto& from = args_.initial_state;
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      LoadPanel(from.is_null() ? nullptr : from.Head(n, head), from.key_stride, from.value_stride,
                layout_, panel, state + panel * PanelSize());
    }
  }

  void StoreState(const R* state, Index n, Index head) const {
    const auto& to = args_.final_state;
    if (to.is_null()) return;
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      StorePanel(state + panel * PanelSize(), layout_, panel, to.Head(n, head), to.key_stride,
                 to.value_stride);
    }
  }

  Block<R> BlockAt(R* blocks, Index token) const {
    return Block<R>(layout_, blocks + token / kBlock * block_size_);
  }
  Index PanelSize() const { return layout_.key_rows * kPanel<R>; }

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
