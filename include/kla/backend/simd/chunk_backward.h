// SPDX-License-Identifier: Apache-2.0
// backend/simd: ChunkBackward.
#ifndef KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_
#define KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_

#include "kla/backend/simd/chunk_gradient.h"
#include "kla/backend/simd/chunk_workspace.h"
#include "kla/core/executor.h"
#include "kla/op/chunk_backward.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// One value head after the other. The states that enter its chunks are taken from chunk_states or
// walked once more (4KV flops per token) into T / kChunk states of memory. Then segments of one
// chunk in reverse, each in the three phases of chunk_gradient.h; a segment's states stay in L2.
// Tasks are groups of key heads, or blocks and panels where there are few. The value heads that
// share a key head are one task: dq and dk are their sums, taken in the order of the heads.
template <class StepSize, class T, class State, Index kChunk>
class ChunkBackwardHeads {
 public:
  using R = Accumulator<T>;
  using W = Wide<R>;
  using Args = ChunkBackwardArgs<T, State>;
  static constexpr Index kChunkBlocks = kChunk / kBlock;

  explicit ChunkBackwardHeads(const Args& args)
      : args_(args),
        problem_(MakeProblem(args)),
        layout_(problem_.key_dim, problem_.value_dim),
        chunk_starts_(args.chunk_states.is_null() ? IndexList() : args.cu_seqlens, problem_,
                      kChunk),
        block_size_(WholeLines<R>(GradientBlock<R>::Size(layout_))),
        state_size_(WholeLines<R>(layout_.StateSize())),
        stream_(problem_.batch * problem_.tokens * problem_.value_heads * problem_.value_dim *
                    static_cast<Index>(sizeof(T)) >
                kCachedBytes) {
    for (Index n = 0; n < problem_.sequences; ++n) {
      longest_ = std::max(longest_, SequenceAt(args.cu_seqlens, problem_.tokens, n).length);
    }
  }

  template <class Executor>
  void Run(const Executor& executor) const {
    const Index keys = problem_.key_heads, threads = executor.Concurrency();
    if (threads > 1 && problem_.sequences * keys < 2 * threads) {
      const Index segment = std::clamp<Index>(RoundUp(longest_, kChunk) / kBlock, 1,
                                              std::min(kWindow * threads, kMaxWindow));
      const AlignedArray<R> memory(WorkspaceSize(1, segment));
      for (Index n = 0; n < problem_.sequences; ++n) {
        for (Index key = 0; key < keys; ++key) {
          RunHeads(executor, n, key, 1, segment, memory.data());
        }
      }
    } else {
      // Key heads whose states are recomputed go one by one, in the same memory: to map new pages
      // costs more than shared ones save (16 MB for each of two threads: a twelfth of their time).
      const Index group =
          args_.chunk_states.is_null()
              ? 1
              : std::clamp<Index>(
                    GroupOfHeads(problem_, layout_, threads) / (2 * problem_.GroupSize()), 1, keys);
      const Index groups = (keys + group - 1) / group;
      RunTasks<R>(executor, problem_.sequences * groups, WorkspaceSize(group, kChunkBlocks),
                  [&](Index task, R* memory) {
                    const Index first = task % groups * group;
                    RunHeads(Serial{}, task / groups, first, std::min(group, keys - first),
                             kChunkBlocks, memory);
                  });
    }
  }

 private:
  // Blocks of a segment where they and panels are tasks: so many a thread, no more than this in
  // all.
  static constexpr Index kWindow = 8, kMaxWindow = 64;
  static_assert(kWindow % kChunkBlocks == 0 && kMaxWindow % kChunkBlocks == 0);

  // One value head of a task: where its results go and what it keeps between segments.
  struct Head {
    Index n, head, key_head, group_position;
    SequenceSpan span;
    R* d_state;       // dS+ of the block that is next in reverse
    R* chunk_states;  // those that enter the chunks, where they are not given
  };
  // What is packed next, from token `begin` on.
  struct Next {
    Head at;
    Index begin;
  };
  // Of one segment: the states that enter its blocks, the blocks, and dq and dk summed over a group
  // of heads.
  struct Memory {
    R *states, *blocks, *dq, *dk;
  };

  Index ChunkStateCount() const {
    return args_.chunk_states.is_null() ? (longest_ + kChunk - 1) / kChunk : 0;
  }
  Index SumSize(Index segment) const {
    return problem_.GroupSize() > 1 ? segment * kBlock * layout_.key_pitch : 0;
  }
  Index HeadSize() const { return (1 + ChunkStateCount()) * state_size_; }
  Index WorkspaceSize(Index keys, Index segment) const {
    return keys * problem_.GroupSize() * HeadSize() + segment * (state_size_ + block_size_) +
           2 * SumSize(segment);
  }
  GradientBlock<R> BlockAt(const Memory& m, Index i) const {
    return GradientBlock<R>(layout_, m.blocks + i * block_size_);
  }

  // Key heads [first, first + keys) of sequence n, which take turns segment by segment.
  template <class Executor>
  void RunHeads(const Executor& executor, Index n, Index first, Index keys, Index segment,
                R* memory) const {
    const SequenceSpan span = SequenceAt(args_.cu_seqlens, problem_.tokens, n);
    const Index heads = keys * problem_.GroupSize(), length = segment * kBlock;
    Memory m;
    m.states = memory + heads * HeadSize();
    m.blocks = m.states + segment * state_size_;
    m.dq = m.blocks + segment * block_size_;
    m.dk = m.dq + SumSize(segment);
    const auto head_at = [&](Index i) {
      const Index key_head = first + i / problem_.GroupSize(), position = i % problem_.GroupSize();
      R* own = memory + i * HeadSize();
      return Head{n,
                  problem_.ValueHeadOf(key_head, position),
                  key_head,
                  position,
                  span,
                  own,
                  own + state_size_};
    };
    if (args_.chunk_states.is_null()) {
      for (Index i = 0; i < heads; ++i) {  // d_state holds the state on its walk
        LoadState(layout_, args_.initial_state, n, head_at(i).head, head_at(i).d_state);
      }
      for (Index begin = 0; begin < span.length; begin += length) {
        for (Index i = 0; i < heads; ++i) {
          const bool last = i + 1 == heads;
          WalkStates(executor, head_at(i), begin, std::min(begin + length, span.length),
                     {head_at(last ? 0 : i + 1), last ? begin + length : begin}, m);
        }
      }
    }
    for (Index i = 0; i < heads; ++i) {
      LoadState(layout_, args_.d_final_state, n, head_at(i).head, head_at(i).d_state);
    }
    for (Index begin = RoundUp(span.length, length); begin > 0;) {
      begin -= length;
      for (Index i = 0; i < heads; ++i) {
        const bool last = i + 1 == heads;
        Segment(executor, head_at(i), begin, std::min(begin + length, span.length),
                {head_at(last ? 0 : i + 1), last ? begin - length : begin}, m);
      }
    }
    for (Index i = 0; i < heads; ++i) {
      StoreState(layout_, head_at(i).d_state, args_.d_initial_state, n, head_at(i).head);
    }
  }

  BlockInput<T> InputAt(const Head& at, Index t, Index count) const {
    return BlockInput<T>(args_, at.span.batch, at.span.begin + t, count, at.key_head, at.head);
  }
  BlockInput<T> Input(const Head& at, Index t, Index end) const {
    return InputAt(at, t, std::min(kBlock, end - t));
  }

  // ChunkForward without outputs: the states that enter the chunks of tokens [begin, end).
  template <class Executor>
  void WalkStates(const Executor& executor, const Head& at, Index begin, Index end,
                  const Next& next, const Memory& m) const {
    const Index count = (end - begin + kBlock - 1) / kBlock;
    executor.ParallelFor(count, [&](Index i) {
      PackBlock<StepSize, T>(Input(at, begin + i * kBlock, end), layout_, problem_,
                             Block<R>(layout_, m.blocks + i * block_size_),
                             static_cast<TokenScales<R>*>(nullptr));
    });
    executor.ParallelFor(layout_.panels, [&](Index panel) {
      PanelScratch<R> scratch;
      const Index offset = panel * layout_.PanelSize();
      for (Index i = 0; i < count; ++i) {
        const Index t = begin + i * kBlock;
        if (t % kChunk == 0) {
          std::copy_n(at.d_state + offset, layout_.PanelSize(),
                      at.chunk_states + t / kChunk * state_size_ + offset);
        }
        LineQueue lines;
        AddKeyLines(next, i, panel, lines);
        AddValueLines(next, i, panel, lines);
        lines.SpreadOver(FetchShares(layout_, kBlock));
        AdvanceBlock(layout_, Block<R>(layout_, m.blocks + i * block_size_), panel,
                     at.d_state + offset, scratch, lines);
      }
    });
  }

  // Tokens [begin, end), begin a multiple of kChunk: all gradients, and at.d_state from dS+ of the
  // last block to dS of the first.
  template <class Executor>
  void Segment(const Executor& executor, const Head& at, Index begin, Index end, const Next& next,
               const Memory& m) const {
    const Index count = (end - begin + kBlock - 1) / kBlock;
    executor.ParallelFor(count, [&](Index i) {
      const BlockInput<T> input = Input(at, begin + i * kBlock, end);
      PackBlock<StepSize, T>(input, layout_, problem_, BlockAt(m, i).block, BlockAt(m, i).scales);
      PackOutputGradients(at, begin + i * kBlock, input.count, BlockAt(m, i));
    });
    executor.ParallelFor(layout_.panels, [&](Index panel) {
      Recall(at, begin, count, next, panel, m);
      Back(at, count, next, panel, m);
    });
    executor.ParallelFor(count, [&](Index i) {
      Gradients(at, begin, i, std::min(kBlock, end - begin - i * kBlock), m);
      if (stream_) hwy::FlushStream();
    });
  }

  // What is packed next arrives while this segment computes: block i's share of `panel`, every
  // panels-th of its tokens.
  HWY_INLINE void AddKeyLines(const Next& next, Index i, Index panel, LineQueue& lines) const {
    const Share share = ShareOf(next, i, panel);
    if (share.count <= 0) return;
    const BlockInput<T> rows = InputAt(next.at, share.first, share.count);
    lines.Add(rows.k.data, layout_.key_dim, layout_.panels * rows.k.stride, share.count);
    lines.Add(rows.q.data, layout_.key_dim, layout_.panels * rows.q.stride, share.count);
    lines.Add(rows.g.data, 1, layout_.panels * rows.g.stride, share.count);
    lines.Add(rows.eta.data, 1, layout_.panels * rows.eta.stride, share.count);
  }
  HWY_INLINE void AddValueLines(const Next& next, Index i, Index panel, LineQueue& lines) const {
    const Share share = ShareOf(next, i, panel);
    if (share.count <= 0) return;
    const auto add = [&](const auto& values) {
      lines.Add(values.Row(next.at.span.batch, next.at.span.begin + share.first, next.at.head),
                layout_.value_dim, layout_.panels * values.template stride<Time>(), share.count);
    };
    add(args_.v);
    add(args_.d_o);
  }
  // Tokens first, first + panels, ... of a sequence.
  struct Share {
    Index first, count;
  };
  Share ShareOf(const Next& next, Index i, Index panel) const {
    const Index begin = next.begin + i * kBlock, first = begin + panel;
    const Index end = std::min(begin + kBlock, next.at.span.length);
    return {first, begin < 0 ? 0 : (end - first + layout_.panels - 1) / layout_.panels};
  }
  // Block i's part of the state that enters its chunk.
  HWY_INLINE void AddStateLines(const Next& next, Index i, Index panel, LineQueue& lines) const {
    const Index begin = next.begin + i * kBlock, chunk = begin / kChunk;
    if (begin < 0 || begin >= next.at.span.length) return;
    const Index rows = (layout_.key_dim + kChunkBlocks - 1) / kChunkBlocks;
    const Index first = i % kChunkBlocks * rows, last = std::min(first + rows, layout_.key_dim);
    if (args_.chunk_states.is_null()) {
      lines.Add(next.at.chunk_states + chunk * state_size_ + panel * layout_.PanelSize() +
                    first * kPanel<R>,
                (last - first) * kPanel<R>);
      return;
    }
    const Index column = panel * kPanel<R>, stride = args_.chunk_states.template stride<Key>();
    lines.Add(
        args_.chunk_states.Row(chunk_starts_[next.at.n] + chunk, next.at.head, first) + column,
        std::min(kPanel<R>, layout_.value_dim - column), stride, last - first);
  }

  // dO of a block, by panels, where the second phase leaves dO^T and Z^T.
  void PackOutputGradients(const Head& at, Index t, Index count, const GradientBlock<R>& g) const {
    for (Index j = 0; j < kBlock; ++j) {
      const T* row =
          j < count ? args_.d_o.Row(at.span.batch, at.span.begin + t + j, at.head) : nullptr;
      for (Index panel = 0; panel < layout_.panels; ++panel) {
        LoadPanelRow(row, panel, layout_, R(1), g.d_outputs + (2 * panel * kBlock + j) * kPanel<R>);
      }
    }
  }

  void Recall(const Head& at, Index begin, Index count, const Next& next, Index panel,
              const Memory& m) const {
    PanelScratch<R> scratch;
    const Index offset = panel * layout_.PanelSize();
    for (Index i = 0; i < count; ++i) {
      const Index t = begin + i * kBlock;
      R* state = m.states + i * state_size_ + offset;
      if (t % kChunk == 0) LoadChunkState(at, t / kChunk, panel, state);
      const bool more = i + 1 < count && (t + kBlock) % kChunk != 0;
      LineQueue lines;
      AddKeyLines(next, i, panel, lines);
      lines.SpreadOver(FetchShares(layout_, kBlock, more));
      RecallPanel(layout_, BlockAt(m, i), panel, state, more ? state + state_size_ : nullptr,
                  scratch, lines);
    }
  }

  void LoadChunkState(const Head& at, Index chunk, Index panel, R* state) const {
    const auto& given = args_.chunk_states;
    if (given.is_null()) {
      std::copy_n(at.chunk_states + chunk * state_size_ + panel * layout_.PanelSize(),
                  layout_.PanelSize(), state);
    } else {
      LoadPanel(given.Row(chunk_starts_[at.n] + chunk, at.head, 0), given.template stride<Key>(), 1,
                layout_, panel, state);
    }
  }

  void Back(const Head& at, Index count, const Next& next, Index panel, const Memory& m) const {
    BackScratch<R> scratch;
    const Index offset = panel * layout_.PanelSize();
    for (Index i = count; i-- > 0;) {
      LineQueue lines;
      AddValueLines(next, i, panel, lines);
      AddStateLines(next, i, panel, lines);
      lines.SpreadOver(BackFetchShares(layout_));
      BackPanel(layout_, BlockAt(m, i), panel, m.states + i * state_size_ + offset,
                at.d_state + offset, scratch, lines);
    }
  }

  // Block i of the segment that begins at `begin`, `count` tokens.
  void Gradients(const Head& at, Index begin, Index i, Index count, const Memory& m) const {
    const GradientBlock<R> g = BlockAt(m, i);
    const Index t = begin + i * kBlock;
    const BlockInput<T> input = Input(at, t, t + count);
    BlockProducts<R> products;
    KeySums<R> sums;
    W d_gates[kBlock], d_etas[kBlock];
    MultiplyOutputs(layout_, g, products);
    KeyGradients(layout_, g, m.states + i * state_size_, products, sums);
    TokenGradients<StepSize>(layout_, problem_, g, input, products, sums, d_gates, d_etas);
    for (Index j = 0; j < count; ++j) {
      const Index token = at.span.begin + t + j;
      args_.dg(at.span.batch, token, at.head) = static_cast<R>(d_gates[j]);
      args_.deta(at.span.batch, token, at.head) = static_cast<R>(d_etas[j]);
      StorePanelRow(layout_, g.errors, j, stream_, args_.dv.Row(at.span.batch, token, at.head));
    }
    BlockRows<R> rows;
    const Index pitch = layout_.key_pitch;
    for (const bool is_key : {true, false}) {
      Transpose(g.d_keys_queries + (is_key ? 0 : kBlock), 2 * kBlock, layout_.key_rows, kBlock,
                rows.data, pitch);
      for (Index j = 0; j < count; ++j) {
        StoreSum(
            at, rows.data + j * pitch, (is_key ? m.dk : m.dq) + (i * kBlock + j) * pitch,
            (is_key ? args_.dk : args_.dq).Row(at.span.batch, at.span.begin + t + j, at.key_head));
      }
    }
  }

  // dk or dq of a token: written, or added up over the value heads of the group.
  void StoreSum(const Head& at, const R* row, R* sum, T* to) const {
    if (problem_.GroupSize() > 1) {
      for (Index c = 0; c < layout_.key_dim; ++c) {
        sum[c] = at.group_position == 0 ? row[c] : sum[c] + row[c];
      }
      if (at.group_position + 1 < problem_.GroupSize()) return;
      row = sum;
    }
    StoreRow(row, layout_.key_dim, stream_, to);
  }

  const Args& args_;
  Problem problem_;
  BlockLayout<R> layout_;
  ChunkStarts<ChunkBackwardHeads> chunk_starts_;
  Index block_size_, state_size_, longest_ = 0;
  bool stream_;  // outputs go past the caches
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE

template <class StepSize, class T, class State, class Shape>
struct Kernel<ChunkBackwardOp<StepSize, T, State>, HWY_NAMESPACE::Simd, Shape> {
  template <class Executor>
  static void Run(const ChunkBackwardArgs<T, State>& args, const Executor& executor) {
    HWY_NAMESPACE::ChunkBackwardHeads<StepSize, T, State, kChunkLength<Simd, Shape, T>>(args).Run(
        executor);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_SIMD_CHUNK_BACKWARD_H_
