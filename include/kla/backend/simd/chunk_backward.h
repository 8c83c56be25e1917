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
// Tasks as in ChunkForward, except that the value heads that share a key head are one task: dq and
// dk are their sums, taken in the order of the heads.
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
        block_size_(WholeLines<R>(GradientBlock<R>::Size(layout_))),
        state_size_(WholeLines<R>(layout_.StateSize())) {
    for (Index n = 0; n < problem_.sequences; ++n) {
      longest_ = std::max(longest_, SequenceAt(args.cu_seqlens, problem_.tokens, n).length);
    }
  }

  template <class Executor>
  void Run(const Executor& executor) const {
    const Index tasks = problem_.sequences * problem_.key_heads;
    if (tasks < 2 * executor.Concurrency() && executor.Concurrency() > 1) {
      const Index segment = std::clamp<Index>(RoundUp(longest_, kChunk) / kBlock, 1, kWindow);
      const AlignedArray<R> memory(WorkspaceSize(segment));
      for (Index task = 0; task < tasks; ++task) RunGroup(executor, task, segment, memory.data());
    } else {
      RunTasks<R>(executor, tasks, WorkspaceSize(kChunkBlocks),
                  [&](Index task, R* memory) { RunGroup(Serial{}, task, kChunkBlocks, memory); });
    }
  }

 private:
  static constexpr Index kWindow = 64;  // blocks of a segment where blocks and panels are tasks
  static_assert(kWindow % kChunkBlocks == 0);

  // One workspace: the states that enter the chunks, those that enter the blocks of a segment, the
  // gradients of those that leave them, the blocks, and the sums over a group of heads.
  struct Memory {
    R *chunk_states, *states, *d_states, *blocks, *dq, *dk;
  };
  Index ChunkStateCount() const {
    return args_.chunk_states.is_null() ? (longest_ + kChunk - 1) / kChunk : 0;
  }
  Index SumSize() const { return problem_.GroupSize() > 1 ? longest_ * layout_.key_pitch : 0; }
  Index WorkspaceSize(Index segment) const {
    return (ChunkStateCount() + 2 * segment + 1) * state_size_ + segment * block_size_ +
           2 * SumSize();
  }
  Memory Place(R* memory, Index segment) const {
    Memory m;
    m.chunk_states = memory;
    m.states = m.chunk_states + ChunkStateCount() * state_size_;
    m.d_states = m.states + segment * state_size_;
    m.blocks = m.d_states + (segment + 1) * state_size_;
    m.dq = m.blocks + segment * block_size_;
    m.dk = m.dq + SumSize();
    return m;
  }
  GradientBlock<R> BlockAt(const Memory& m, Index i) const {
    return GradientBlock<R>(layout_, m.blocks + i * block_size_);
  }

  template <class Executor>
  void RunGroup(const Executor& executor, Index task, Index segment, R* memory) const {
    const Memory m = Place(memory, segment);
    const Index n = task / problem_.key_heads, key_head = task % problem_.key_heads;
    for (Index i = 0; i < problem_.GroupSize(); ++i) {
      const Index head = problem_.ValueHeadOf(key_head, i);
      const Head at{n, head, key_head, SequenceAt(args_.cu_seqlens, problem_.tokens, n), i};
      if (args_.chunk_states.is_null()) WalkStates(executor, at, segment, m);
      R* d_last = m.d_states;  // dS+ of the block that is next in reverse
      LoadState(layout_, args_.d_final_state, n, head, d_last);
      const Index length = segment * kBlock;
      for (Index begin = RoundUp(at.span.length, length); begin > 0;) {
        begin -= length;
        Segment(executor, at, begin, std::min(begin + length, at.span.length), m);
      }
      StoreState(layout_, d_last, args_.d_initial_state, n, head);
    }
  }

  struct Head {
    Index n, head, key_head;
    SequenceSpan span;
    Index group_position;
  };

  BlockInput<T> Input(const Head& at, Index t, Index end) const {
    return BlockInput<T>(args_, at.span.batch, at.span.begin + t, std::min(kBlock, end - t),
                         at.key_head, at.head);
  }

  // ChunkForward without outputs: the states that enter the chunks.
  template <class Executor>
  void WalkStates(const Executor& executor, const Head& at, Index segment, const Memory& m) const {
    R* state = m.d_states;
    LoadState(layout_, args_.initial_state, at.n, at.head, state);
    for (Index begin = 0; begin < at.span.length; begin += segment * kBlock) {
      const Index end = std::min(at.span.length, begin + segment * kBlock);
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
            std::copy_n(state + offset, layout_.PanelSize(),
                        m.chunk_states + t / kChunk * state_size_ + offset);
          }
          AdvanceBlock(layout_, Block<R>(layout_, m.blocks + i * block_size_), panel,
                       state + offset, scratch);
        }
      });
    }
  }

  // Tokens [begin, end), begin a multiple of kChunk: all gradients, and m.d_states from dS+ of the
  // last block to dS of the first.
  template <class Executor>
  void Segment(const Executor& executor, const Head& at, Index begin, Index end,
               const Memory& m) const {
    const Index count = (end - begin + kBlock - 1) / kBlock;
    executor.ParallelFor(count, [&](Index i) {
      PackBlock<StepSize, T>(Input(at, begin + i * kBlock, end), layout_, problem_,
                             BlockAt(m, i).block, BlockAt(m, i).scales);
    });
    executor.ParallelFor(layout_.panels, [&](Index panel) {
      Recall(at, begin, count, panel, m);
      Back(at, begin, end, count, panel, m);
    });
    executor.ParallelFor(count, [&](Index i) { Gradients(at, begin + i * kBlock, end, i, m); });
  }

  void Recall(const Head& at, Index begin, Index count, Index panel, const Memory& m) const {
    PanelScratch<R> scratch;
    const Index offset = panel * layout_.PanelSize();
    for (Index i = 0; i < count; ++i) {
      const Index t = begin + i * kBlock;
      R* state = m.states + i * state_size_ + offset;
      if (t % kChunk == 0) LoadChunkState(at, t / kChunk, panel, m, state);
      const bool more = i + 1 < count && (t + kBlock) % kChunk != 0;
      RecallPanel(layout_, BlockAt(m, i), panel, state, more ? state + state_size_ : nullptr,
                  scratch);
    }
  }

  void LoadChunkState(const Head& at, Index chunk, Index panel, const Memory& m, R* state) const {
    const auto& given = args_.chunk_states;
    if (given.is_null()) {
      std::copy_n(m.chunk_states + chunk * state_size_ + panel * layout_.PanelSize(),
                  layout_.PanelSize(), state);
    } else {
      const Index first = ChunksBefore(args_.cu_seqlens, problem_.tokens, at.n, kChunk);
      LoadPanel(given.Row(first + chunk, at.head, 0), given.template stride<Key>(), 1, layout_,
                panel, state);
    }
  }

  // d_states[i + 1] is dS+ of block i, d_states[i] what it becomes.
  void Back(const Head& at, Index begin, Index end, Index count, Index panel,
            const Memory& m) const {
    BackScratch<R> scratch;
    const Index offset = panel * layout_.PanelSize(), first = panel * kPanel<R>;
    const Index columns = std::min(kPanel<R>, layout_.value_dim - first);
    std::copy_n(m.d_states + offset, layout_.PanelSize(),
                m.d_states + count * state_size_ + offset);
    for (Index i = count; i-- > 0;) {
      const Index t = begin + i * kBlock, tokens = std::min(kBlock, end - t);
      for (Index j = 0; j < kBlock; ++j) {
        R* row = scratch.d_o + j * kPanel<R>;
        if (j < tokens) {
          LoadRow(args_.d_o.Row(at.span.batch, at.span.begin + t + j, at.head) + first, columns,
                  R(1), row, kPanel<R>);
        } else {
          std::fill_n(row, kPanel<R>, R(0));
        }
      }
      const GradientBlock<R> g = BlockAt(m, i);
      BackPanel(layout_, g, panel, m.states + i * state_size_ + offset,
                m.d_states + (i + 1) * state_size_ + offset, m.d_states + i * state_size_ + offset,
                scratch);
      // dv = r_v dv~ = r_v b Z
      for (Index j = 0; j < tokens; ++j) {
        R* row = scratch.z + j * kPanel<R>;
        ScaleInPlace(g.scales->key[j].value * g.scales->key[j].step, row, kPanel<R>);
        ConvertRow(row, columns,
                   args_.dv.Row(at.span.batch, at.span.begin + t + j, at.head) + first);
      }
    }
  }

  void Gradients(const Head& at, Index t, Index end, Index i, const Memory& m) const {
    const GradientBlock<R> g = BlockAt(m, i);
    const BlockInput<T> input = Input(at, t, end);
    BlockProducts<R> products;
    KeySums<R> sums;
    W d_gates[kBlock], d_etas[kBlock];
    MultiplyOutputs(layout_, g, products);
    KeyGradients(layout_, g, m.states + i * state_size_, m.d_states + (i + 1) * state_size_,
                 products, sums);
    TokenGradients<StepSize>(layout_, problem_, g, input, products, sums, d_gates, d_etas);
    for (Index j = 0; j < input.count; ++j) {
      const Index token = at.span.begin + t + j;
      args_.dg(at.span.batch, token, at.head) = static_cast<R>(d_gates[j]);
      args_.deta(at.span.batch, token, at.head) = static_cast<R>(d_etas[j]);
    }
    StoreKeyGradients(at, t, input.count, g, m);
  }

  // dk and dq of a block's tokens: written, or added up over the value heads of the group.
  void StoreKeyGradients(const Head& at, Index t, Index count, const GradientBlock<R>& g,
                         const Memory& m) const {
    BlockRows<R> rows;
    const Index pitch = layout_.key_pitch;
    for (const bool is_key : {true, false}) {
      Transpose(g.d_keys_queries + (is_key ? 0 : kBlock), 2 * kBlock, layout_.key_rows, kBlock,
                rows.data, pitch);
      for (Index j = 0; j < count; ++j) {
        const Index token = at.span.begin + t + j;
        StoreSum(at, rows.data + j * pitch, (is_key ? m.dk : m.dq) + (t + j) * pitch,
                 (is_key ? args_.dk : args_.dq).Row(at.span.batch, token, at.key_head));
      }
    }
  }

  void StoreSum(const Head& at, const R* row, R* sum, T* to) const {
    if (problem_.GroupSize() > 1) {
      for (Index c = 0; c < layout_.key_dim; ++c) {
        sum[c] = at.group_position == 0 ? row[c] : sum[c] + row[c];
      }
      if (at.group_position + 1 < problem_.GroupSize()) return;
      row = sum;
    }
    ConvertRow(row, layout_.key_dim, to);
  }

  const Args& args_;
  Problem problem_;
  BlockLayout<R> layout_;
  Index block_size_, state_size_, longest_ = 0;
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
