// SPDX-License-Identifier: Apache-2.0
// backend/simd: what ChunkBackward does with one chunk of one value head.
#ifndef KLA_BACKEND_SIMD_HEAD_GRADIENT_H_
#define KLA_BACKEND_SIMD_HEAD_GRADIENT_H_

#include "kla/backend/simd/chunk_workspace.h"
#include "kla/backend/simd/token_gradient.h"
#include "kla/op/chunk_backward.h"

namespace kla {
namespace HWY_NAMESPACE {
inline namespace KLA_SIMD_VARIANT {

// Three walks over a chunk. Each packs its blocks, which stay in L2 with the states that enter
// them, takes panels and blocks through functions of chunk_walk.h or
// chunk_gradient.h, and meanwhile fetches what the next walk packs.
template <class StepSize, class T, class State, Index kChunk>
class HeadGradients {
 public:
  using R = Accumulator<T>;
  using Args = ChunkBackwardArgs<T, State>;

  // One value head of a task: where its results go and what it keeps between chunks.
  struct Head {
    Index n, head, key_head, group_position;
    SequenceSpan span;
    Index begin, end;  // the part of the sequence whose gradients are wanted
    R* d_state;        // dS+ of the block that is next in reverse; S while states are walked
    R* chunk_states;   // those that enter the part's chunks, where they are not given
  };
  // What is packed next, from token `begin` on.
  struct Next {
    Head at;
    Index begin;
  };
  // Of one chunk: the states that enter its blocks, the blocks, and dq and dk summed over a group
  // of heads.
  struct Memory {
    R *states, *blocks, *dq, *dk;
  };

  HeadGradients(const Args& args, const Problem& problem)
      : args_(args),
        problem_(problem),
        layout_(problem.key_dim, problem.value_dim),
        chunk_starts_(args.chunk_states.is_null() ? IndexList() : args.cu_seqlens, problem, kChunk),
        block_size_(WholeLines<R>(GradientBlock<R>::Size(layout_))),
        state_size_(WholeLines<R>(layout_.StateSize())),
        stream_(problem.batch * problem.tokens * problem.value_heads * problem.value_dim *
                    static_cast<Index>(sizeof(T)) >
                kCachedBytes) {}

  const BlockLayout<R>& layout() const { return layout_; }
  Index state_size() const { return state_size_; }

  Index MemorySize() const { return kBlocks * (state_size_ + block_size_) + 2 * SumSize(); }
  Memory MemoryAt(R* memory) const {
    R* const blocks = memory + kBlocks * state_size_;
    R* const dq = blocks + kBlocks * block_size_;
    return {memory, blocks, dq, dq + SumSize()};
  }

  // ChunkForward without outputs: keeps the state that enters the chunk at t if that is in the
  // part, and walks it over the chunk if another follows there.
  void WalkStates(const Head& at, Index t, const Next& next, const Memory& m) const {
    if (t >= at.begin) std::copy_n(at.d_state, layout_.StateSize(), ChunkStateAt(at, t));
    if (t + kChunk >= at.end) return;
    ForBlocks(at, t, [&](Index i, Index first, Index count) {
      PackBlock<StepSize, T>(InputAt(at, first, count), layout_, problem_, WalkedBlockAt(m, i),
                             static_cast<TokenScales<R>*>(nullptr));
    });
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      PanelScratch<R> scratch;
      ForBlocks(at, t, [&](Index i, Index /*first*/, Index /*count*/) {
        LineQueue lines;
        AddKeyLines(next, i, panel, lines);
        AddLines(args_.v, next, i, panel, lines);
        lines.SpreadOver(FetchShares(layout_, kBlock));
        AdvanceBlock(layout_, WalkedBlockAt(m, i), panel, at.d_state + panel * layout_.PanelSize(),
                     scratch, lines);
      });
    }
  }

  // dS alone, back over the chunk at t.
  void WalkStateGradients(const Head& at, Index t, const Next& next, const Memory& m) const {
    ForBlocks(at, t, [&](Index i, Index first, Index count) {
      BlockInput<T> input = InputAt(at, first, count);
      input.v.data = nullptr;
      PackBlock<StepSize, T>(input, layout_, problem_, WalkedBlockAt(m, i),
                             static_cast<TokenScales<R>*>(nullptr));
      PackOutputGradients(at, first, count, BlockAt(m, i));
    });
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      BackScratch<R> scratch;
      for (Index i = BlockCount(at, t); i-- > 0;) {
        LineQueue lines;
        AddKeyLines(next, i, panel, lines);
        AddLines(args_.d_o, next, i, panel, lines);
        lines.SpreadOver(BackFetchShares(layout_, true));
        BackStatePanel(layout_, BlockAt(m, i), panel, at.d_state + panel * layout_.PanelSize(),
                       scratch, lines);
      }
    }
  }

  // All gradients of the chunk at t, and at.d_state from dS+ of its last block to dS of its first.
  void ChunkGradients(const Head& at, Index t, const Next& next, const Memory& m) const {
    ForBlocks(at, t, [&](Index i, Index first, Index count) {
      const GradientBlock<R> g = BlockAt(m, i);
      PackBlock<StepSize, T>(InputAt(at, first, count), layout_, problem_, g.block, g.scales);
      PackOutputGradients(at, first, count, g);
    });
    for (Index panel = 0; panel < layout_.panels; ++panel) {
      Recall(at, t, next, panel, m);
      Back(at, t, next, panel, m);
    }
    ForBlocks(at, t,
              [&](Index i, Index first, Index count) { BlockGradients(at, first, i, count, m); });
    if (stream_) hwy::FlushStream();
  }

 private:
  using W = Wide<R>;
  static constexpr Index kBlocks = kChunk / kBlock;

  // Only where a group has several heads.
  Index SumSize() const { return problem_.GroupSize() > 1 ? kChunk * layout_.key_pitch : 0; }
  GradientBlock<R> BlockAt(const Memory& m, Index i) const {
    return GradientBlock<R>(layout_, m.blocks + i * block_size_);
  }
  // Without what only gradients need.
  Block<R> WalkedBlockAt(const Memory& m, Index i) const {
    return Block<R>(layout_, m.blocks + i * block_size_);
  }
  BlockInput<T> InputAt(const Head& at, Index t, Index count) const {
    return BlockInput<T>(args_, at.span.batch, at.span.begin + t, count, at.key_head, at.head);
  }

  Index BlockCount(const Head& at, Index t) const {
    return std::min(kBlocks, (at.span.length - t + kBlock - 1) / kBlock);
  }
  // The chunk at t in blocks: f(<number of the block>, <its first token>, <its tokens>).
  template <class F>
  void ForBlocks(const Head& at, Index t, const F& f) const {
    const Index end = std::min(t + kChunk, at.span.length);
    for (Index i = 0; t < end; t += kBlock, ++i) f(i, t, std::min(kBlock, end - t));
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

  void Recall(const Head& at, Index t, const Next& next, Index panel, const Memory& m) const {
    const Index blocks = BlockCount(at, t);
    PanelScratch<R> scratch;
    R* const states = m.states + panel * layout_.PanelSize();
    LoadChunkState(at, t, panel, states);
    for (Index i = 0; i < blocks; ++i) {
      const bool more = i + 1 < blocks;
      R* const state = states + i * state_size_;
      LineQueue lines;
      AddKeyLines(next, i, panel, lines);
      lines.SpreadOver(FetchShares(layout_, kBlock, more));
      RecallPanel(layout_, BlockAt(m, i), panel, state, more ? state + state_size_ : nullptr,
                  scratch, lines);
    }
  }

  // The state that enters the chunk at t, of those that were walked.
  R* ChunkStateAt(const Head& at, Index t) const {
    return at.chunk_states + (t - at.begin) / kChunk * state_size_;
  }
  void LoadChunkState(const Head& at, Index t, Index panel, R* state) const {
    const auto& given = args_.chunk_states;
    if (given.is_null()) {
      std::copy_n(ChunkStateAt(at, t) + panel * layout_.PanelSize(), layout_.PanelSize(), state);
    } else {
      LoadPanel(given.Row(chunk_starts_[at.n] + t / kChunk, at.head, 0),
                given.template stride<Key>(), 1, layout_, panel, state);
    }
  }

  void Back(const Head& at, Index t, const Next& next, Index panel, const Memory& m) const {
    BackScratch<R> scratch;
    const Index offset = panel * layout_.PanelSize();
    for (Index i = BlockCount(at, t); i-- > 0;) {
      LineQueue lines;
      AddLines(args_.v, next, i, panel, lines);
      AddLines(args_.d_o, next, i, panel, lines);
      AddStateLines(next, i, panel, lines);
      lines.SpreadOver(BackFetchShares(layout_));
      BackPanel(layout_, BlockAt(m, i), panel, m.states + i * state_size_ + offset,
                at.d_state + offset, scratch, lines);
    }
  }

  // Block i of a chunk, tokens [t, t + count).
  void BlockGradients(const Head& at, Index t, Index i, Index count, const Memory& m) const {
    const GradientBlock<R> g = BlockAt(m, i);
    const BlockInput<T> input = InputAt(at, t, count);
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

  // What is packed next arrives while this chunk computes: block i's share of `panel`, every
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
  // The same of values [T, V].
  template <class Values>
  HWY_INLINE void AddLines(const Values& values, const Next& next, Index i, Index panel,
                           LineQueue& lines) const {
    const Share share = ShareOf(next, i, panel);
    if (share.count <= 0) return;
    lines.Add(values.Row(next.at.span.batch, next.at.span.begin + share.first, next.at.head),
              layout_.value_dim, layout_.panels * values.template stride<Time>(), share.count);
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
    const Index begin = next.begin + i * kBlock;
    if (begin < next.at.begin || begin >= next.at.end) return;
    const Index rows = (layout_.key_dim + kBlocks - 1) / kBlocks;
    const Index first = i * rows, last = std::min(first + rows, layout_.key_dim);
    if (first >= last) return;
    if (args_.chunk_states.is_null()) {
      lines.Add(ChunkStateAt(next.at, begin) + panel * layout_.PanelSize() + first * kPanel<R>,
                (last - first) * kPanel<R>);
      return;
    }
    const Index column = panel * kPanel<R>, stride = args_.chunk_states.template stride<Key>();
    lines.Add(
        args_.chunk_states.Row(chunk_starts_[next.at.n] + begin / kChunk, next.at.head, first) +
            column,
        std::min(kPanel<R>, layout_.value_dim - column), stride, last - first);
  }

  const Args& args_;
  const Problem& problem_;
  BlockLayout<R> layout_;
  ChunkStarts<HeadGradients> chunk_starts_;
  Index block_size_, state_size_;
  bool stream_;  // outputs go past the caches
};

}  // namespace KLA_SIMD_VARIANT
}  // namespace HWY_NAMESPACE
}  // namespace kla

#endif  // KLA_BACKEND_SIMD_HEAD_GRADIENT_H_
