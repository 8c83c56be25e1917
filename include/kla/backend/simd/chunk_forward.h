// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkForward.
#ifndef KLA_BACKEND_SIMD_CHUNK_FORWARD_H_
#define KLA_BACKEND_SIMD_CHUNK_FORWARD_H_

#include <vector>

#include "kla/backend/simd/chunk_walk.h"
#include "kla/backend/simd/chunk_workspace.h"
#include "kla/backend/simd/pair_amx.h"
#include "kla/backend/simd/pair_dot.h"
#include "kla/core/executor.h"
#include "kla/op/chunk_forward.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

#if KLA_SIMD_HAS_BF16_TILES
using PairKernel = TileKernel;
#elif KLA_SIMD_HAS_BF16_DOT
using PairKernel = DotKernel;
#endif

// A head is computed in segments of blocks: pack the blocks (they stay in L2), then walk each panel
// of the state through them (it stays in L1), then write the outputs.
// Many heads: a few neighbours are one task, which takes turns at them segment by segment, because
// their tokens share pages of memory. Few heads for the threads: a task is some columns of V of one
// head, whose keys it packs for itself: what one core packs reaches another slowly (one head, two
// threads, Intel server: 1.25 x with packed blocks shared, 1.7 x so). The same functions on the
// same numbers, so the same bits.
template <class StepSize, class T, class State, Index kChunk>
class ChunkForwardHeads {
 public:
  using R = Accumulator<T>;
  using Args = ChunkForwardArgs<T, State>;
  static constexpr Index kSegment = 4;  // blocks

  // bfloat16 inputs are multiplied as such where the processor can, except that states which are
  // kept for the gradients are those of float arithmetic: the same bits as ChunkBackward
  // recomputes. Processors that have tiles take twice as long for a dot as for the multiply-adds of
  // floats that it replaces: where the system refuses them tiles, they multiply floats.
#if KLA_SIMD_HAS_BF16_DOT
  static constexpr bool kBfloat16 = std::is_same_v<T, bfloat16>;
#endif

  explicit ChunkForwardHeads(const Args& args)
      : args_(args),
        problem_(MakeProblem(args)),
        layout_(problem_.key_dim, problem_.value_dim),
        chunk_starts_(args.chunk_states.is_null() ? IndexList() : args.cu_seqlens, problem_,
                      kChunk),
        block_size_(WholeLines<R>(layout_.BlockSize())),
        stream_(problem_.batch * problem_.tokens * problem_.value_heads * problem_.value_dim *
                    static_cast<Index>(sizeof(T)) >
                kCachedBytes),
        pairs_(args.chunk_states.is_null() && MayPair()) {}

  template <class Executor>
  void Run(const Executor& executor) const {
    const Index heads = problem_.value_heads, threads = executor.Concurrency();
    if (problem_.sequences * heads == 0) return;
    const Index parts = PartsOfHead(threads);
    const Index group = parts > 1 ? 1 : GroupOfHeads(problem_, layout_, threads);
    const Index groups = (heads + group - 1) / group;
    std::vector<ChunkForwardHeads> columns;
    for (Index part = 0; parts > 1 && part < parts; ++part) {
      columns.emplace_back(Columns(layout_.panels * part / parts * kPanel<R>,
                                   layout_.panels * (part + 1) / parts * kPanel<R>));
      columns.back().stream_ = stream_;  // as the whole output asks for
    }
    RunTasks<R>(executor, problem_.sequences * groups * parts, WorkspaceSize(group),
                [&](Index task, R* memory) {
                  const ChunkForwardHeads& part =
                      parts > 1 ? columns[static_cast<std::size_t>(task % parts)] : *this;
                  const Index first = task / parts % groups * group;
                  part.RunHeads(task / parts / groups, first, std::min(group, heads - first),
                                memory);
                });
  }

 private:
  // Into how many tasks, each some columns of V, a head is cut. Each packs the keys for itself,
  // which takes as long as so many columns (measured at K = V = 128).
  Index PartsOfHead(Index threads) const {
    const Index keys = pairs_ ? 55 : 25;
    return FastestParts(LongestSequences(problem_, args_.cu_seqlens) * problem_.value_heads,
                        threads, layout_.panels, [&](Index parts) {
                          const Index panels = (layout_.panels + parts - 1) / parts;
                          return static_cast<double>(keys + panels * kPanel<R>) /
                                 static_cast<double>(keys + layout_.panels * kPanel<R>);
                        });
  }

  static bool MayPair() {
#if KLA_SIMD_HAS_BF16_DOT
    return kBfloat16 && PairKernel::IsAllowed();
#else
    return false;
#endif
  }

  // The same problem for columns [first, last) of V alone, multiples of a panel.
  Args Columns(Index first, Index last) const {
    Args part = args_;
    last = std::min(last, problem_.value_dim);
    const auto cut = [&](auto& view) {
      if (view.is_null()) return;
      auto extents = view.extents();
      extents.back() = last - first;
      view = {view.data() + first, extents, view.strides()};
    };
    const auto cut_state = [&](auto& state) {
      if (state.is_null()) return;
      state.data += first * state.value_stride;
      state.value_dim = last - first;
    };
    cut(part.v), cut(part.o), cut(part.chunk_states);
    cut_state(part.initial_state), cut_state(part.final_state);
    return part;
  }

  Index WorkspaceSize(Index heads) const {
    return heads * layout_.StateSize() + kSegment * block_size_;
  }

  void RunHeads(Index n, Index first, Index heads, R* memory) const {
    const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
    R* blocks = memory + heads * layout_.StateSize();
    for (Index i = 0; i < heads; ++i) {
      LoadState(layout_, args_.initial_state, n, first + i, memory + i * layout_.StateSize());
    }
    for (Index begin = 0; begin < span.length; begin += kSegment * kBlock) {
      const Index end = std::min(span.length, begin + kSegment * kBlock);
      for (Index i = 0; i < heads; ++i) {
        const bool last = i + 1 == heads;
        const Tokens next{span, last ? first : first + i + 1, last ? end : begin,
                          std::min(span.length, (last ? end : begin) + kSegment * kBlock)};
        RunSegment(n, {span, first + i, begin, end}, next, memory + i * layout_.StateSize(),
                   blocks);
      }
    }
    for (Index i = 0; i < heads; ++i) {
      StoreState(layout_, memory + i * layout_.StateSize(), args_.final_state, n, first + i);
    }
  }

  // Tokens [begin, end) of one head of a sequence.
  struct Tokens {
    SequenceSpan span;
    Index head, begin, end;
  };

  void RunSegment(Index n, const Tokens& at, const Tokens& next, R* state, R* blocks) const {
    const SequenceSpan& span = at.span;
    for (Index t = at.begin, i = 0; t < at.end; t += kBlock, ++i) {
      const BlockInput<T> input(args_, span.batch, span.begin + t, std::min(kBlock, at.end - t),
                                problem_.KeyHeadOf(at.head), at.head);
      Pack(input, BlockAt(blocks, i));
    }
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      WalkPanel(n, at, next, panel, blocks, state + panel * layout_.PanelSize());
    }
    for (Index t = at.begin; t < at.end; ++t) {
      const Index i = (t - at.begin) / kBlock, j = (t - at.begin) % kBlock;
      StorePanelRow(layout_, BlockAt(blocks, i).values, j, stream_,
                    args_.o.Row(span.batch, span.begin + t, at.head));
    }
    if (stream_) hwy::FlushStream();
  }

  void Pack(const BlockInput<T>& input, const Block<R>& block) const {
#if KLA_SIMD_HAS_BF16_DOT
    if constexpr (kBfloat16) {
      if (pairs_) {
        const typename PairKernel::Block pairs(layout_, block);
        return PackPairBlock<StepSize>(input, layout_, problem_, pairs);
      }
    }
#endif
    PackBlock<StepSize, T>(input, layout_, problem_, block, static_cast<TokenScales<R>*>(nullptr));
  }

  // The blocks of one panel; keeps the state that enters each chunk where asked to.
  void WalkPanel(Index n, const Tokens& at, const Tokens& next, Index panel, R* blocks,
                 R* state) const {
#if KLA_SIMD_HAS_BF16_DOT
    if constexpr (kBfloat16) {
      if (pairs_) return WalkPairPanel(at, next, panel, blocks, state);
    }
#endif
    PanelScratch<R> scratch;
    for (Index i = 0; at.begin + i * kBlock < at.end; ++i) {
      const Index t = at.begin + i * kBlock;
      if (!args_.chunk_states.is_null() && t % kChunk == 0) {
        StorePanel(state, layout_, panel,
                   args_.chunk_states.Row(chunk_starts_[n] + t / kChunk, at.head, 0),
                   args_.chunk_states.template stride<Key>(), 1);
      }
      LineQueue lines;
      AddLines(next, i, panel, FetchShares(layout_, 2 * kBlock), lines);
      WalkBlock(layout_, BlockAt(blocks, i), panel, state, scratch, lines);
    }
  }

#if KLA_SIMD_HAS_BF16_DOT
  void WalkPairPanel(const Tokens& at, const Tokens& next, Index panel, R* blocks, R* state) const {
    const Index count = (at.end - at.begin + kBlock - 1) / kBlock;
    const auto block_at = [&](Index i) { return BlockAt(blocks, std::min(i, count - 1)); };
    typename PairKernel::Walk walk(layout_, {layout_, block_at(0)}, state);
    for (Index i = 0; i < count; ++i) {
      const Block<R> block = block_at(i), following = block_at(i + 1);
      const typename PairKernel::Block pairs(layout_, block), next_pairs(layout_, following);
      LineQueue lines;
      AddLines(next, i, panel, walk.FetchShares(), lines);
      walk.Step(pairs, i + 1 < count ? &next_pairs : nullptr, panel, lines);
    }
  }
#endif

  // What is packed next arrives while this segment computes: block i's share of `panel`, every
  // panels-th of its tokens.
  HWY_INLINE void AddLines(const Tokens& next, Index i, Index panel, Index shares,
                           LineQueue& lines) const {
    const Index begin = next.begin + i * kBlock + panel, panels = layout_.panels;
    const Index end = std::min(next.end, next.begin + (i + 1) * kBlock);
    const Index count = (end - begin + panels - 1) / panels;
    if (count > 0) {
      const BlockInput<T> rows(args_, next.span.batch, next.span.begin + begin, count,
                               problem_.KeyHeadOf(next.head), next.head);
      lines.Add(rows.k.data, layout_.key_dim, panels * rows.k.stride, count);
      lines.Add(rows.q.data, layout_.key_dim, panels * rows.q.stride, count);
      lines.Add(rows.v.data, layout_.value_dim, panels * rows.v.stride, count);
      lines.Add(rows.g.data, 1, panels * rows.g.stride, count);
      lines.Add(rows.eta.data, 1, panels * rows.eta.stride, count);
    }
    lines.SpreadOver(shares);
  }

  Block<R> BlockAt(R* blocks, Index i) const { return Block<R>(layout_, blocks + i * block_size_); }

  Args args_;
  Problem problem_;
  BlockLayout<R> layout_;
  ChunkStarts<ChunkForwardHeads> chunk_starts_;
  Index block_size_;
  bool stream_;  // outputs go past the caches
  bool pairs_;   // products of bfloat16 pairs
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
