// SPDX-License-Identifier: Apache-2.0
// layer/host: the passes (layer/passes.h) on CPUs. Each is a matrix product, an operation of op/,
// or a loop over fixed blocks of rows, so that results do not depend on the executor.
#ifndef KLA_LAYER_HOST_PASSES_H_
#define KLA_LAYER_HOST_PASSES_H_

#include <algorithm>
#include <vector>

#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/host/buffer.h"
#include "kla/layer/host/dense.h"
#include "kla/layer/host/gated_rms_norm.h"
#include "kla/layer/host/short_conv.h"
#include "kla/layer/host/token_gates.h"
#include "kla/layer/host/token_rows.h"
#include "kla/layer/panels.h"
#include "kla/layer/parameters.h"
#include "kla/layer/passes.h"
#include "kla/math/convolution.h"
#include "kla/op/chunk_backward.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_step.h"

namespace kla::internal {

// What the passes of a call share besides the arrays; Begin fills it.
template <class T>
struct HostScratch {
  TokenRows tokens;
  Buffer<T> taps;                   // [4, conv_channels]
  Buffer<T> decay_rate;             // [HV] exp(A_log)
  Buffer<T> zero_window;            // [3, conv_channels]
  std::vector<const T*> window_of;  // [N], of the pass that is running
};

template <class Backend, HeadShape Shape, StepSizePolicy StepSize, class T, class Exec>
class HostPasses {
 public:
  HostPasses(const LayerViews& views, const KlaParameters<T>& parameters, HostScratch<T>& scratch,
             const Exec& executor)
      : views_(views),
        sizes_(views.sizes),
        parameters_(parameters),
        scratch_(scratch),
        tokens_(scratch.tokens),
        executor_(executor) {}

  void Begin() const {
    const Index channels = sizes_.conv_channels();
    scratch_.tokens.Set(views_.call.cu_seqlens, views_.call.batch, views_.call.tokens);
    ShortConv<T>::TransposeWeight(parameters_.conv_weight(), channels,
                                  scratch_.taps.Resize(kConvWidth * channels));
    scratch_.decay_rate.Resize(sizes_.value_heads);
    Gates().Prepare();
    scratch_.zero_window.Zero(WindowSize());
  }

  // ---- Forward ----------------------------------------------------------------------------------

  template <class State>
  void LoadStates(const LoadStatesPass<T, State>& pass) const {
    const Index count = SequenceTotal();
    std::fill_n(pass.initial_state, count * sizes_.state_size(), T(0));
    pass.from->recurrent().Store(views_.States(pass.initial_state), pass.slots);
    std::fill_n(pass.windows, count * WindowSize(), T(0));
    for (Index n = 0; n < count; ++n) {
      const Index slot = pass.slots.is_null() ? n : pass.slots[n];
      if (slot != -1) {
        std::copy_n(pass.from->window(slot), WindowSize(), pass.windows + n * WindowSize());
      }
    }
  }

  bool Project(const ProjectPass<T>& pass) const {
    ForEachPanel(pass.x, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kAsIs, Operand::kTransposed>(
          panel, views_.InputWeight(parameters_.input_weight()),
          views_.ProjectedRows(pass.projected, row, panel.rows), Result::kOverwrite, executor_);
    });
    return false;
  }

  void PrepareTokens(const PrepareTokensPass<T>& pass) const {
    UseWindows(pass.windows);
    Prepare(pass);
  }

  void RunChunks(const ChunkForwardArgs<T, T>& args) const {
    ChunkForward<Backend, Shape, StepSize, T, T>(args, executor_);
  }

  template <class State>
  void StoreStates(const StoreStatesPass<T, State>& pass) const {
    pass.to->recurrent().Load(views_.States(pass.final_state), pass.slots);
    UseWindows(pass.windows);
    const auto conv = Conv(pass.projected);
    for (Index n = 0; n < SequenceTotal(); ++n) {
      const Index slot = pass.slots.is_null() ? n : pass.slots[n];
      if (slot != -1) conv.SaveWindow(n, pass.to->window(slot));
    }
  }

  void Normalize(const NormalizePass<T>& pass) const {
    const auto norm = Norm();
    const Index width = sizes_.value_width();
    tokens_.ForEachBlock(executor_, [&](Index, Index begin, Index end) {
      for (Index row = begin; row < end; ++row) {
        norm.Forward(pass.o + row * width, Row(pass.projected, row) + sizes_.gate_column(),
                     pass.z + row * width, pass.inverse_rms + row * sizes_.value_heads);
      }
    });
  }

  // Of rows that are all there: Step has put those of skipped sequences aside.
  void ProjectOutput(const ProjectOutputPass<T>& pass) const {
    ForEachPanel(pass.y, [&](Index row, const MatrixRef<T>& panel) {
      Multiply<Operand::kAsIs, Operand::kTransposed>(
          views_.ValueRows(pass.z, row, panel.rows),
          views_.OutputWeight(parameters_.output_weight()), panel, Result::kOverwrite, executor_);
    });
  }

  // ---- Step -------------------------------------------------------------------------------------

  template <class State>
  void StepTokens(const StepTokensPass<T, State>& pass) const {
    scratch_.window_of.clear();
    for (Index n = 0; n < SequenceTotal(); ++n) {
      scratch_.window_of.push_back(pass.state.window(pass.slots[n]));
    }
    Prepare({.projected = pass.projected,
             .windows = nullptr,
             .mixed = pass.mixed,
             .g = pass.g,
             .eta = pass.eta});
    DecodeStep<Backend, Shape, StepSize, T>(
        views_.StepArgs<T>(pass.mixed, pass.g, pass.eta, pass.o, pass.slots),
        pass.state.recurrent(), executor_);
    const auto conv = Conv(pass.projected);
    for (Index n = 0; n < SequenceTotal(); ++n) {
      conv.SaveWindow(n, pass.state.window(pass.slots[n]));
    }
    Normalize(
        {.o = pass.o, .projected = pass.projected, .z = pass.z, .inverse_rms = pass.inverse_rms});
  }

  // ---- Backward ---------------------------------------------------------------------------------

  void BackwardOutput(const BackwardOutputPass<T>& pass) const {
    const MatrixRef<T> d_weight = views_.OutputWeight(pass.d_weight);
    ForEachPanel(pass.dy, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kTransposed, Operand::kAsIs>(
          panel, views_.ValueRows(pass.z, row, panel.rows), d_weight,
          pass.accumulate || row > 0 ? Result::kAccumulate : Result::kOverwrite, executor_);
      Multiply<Operand::kAsIs, Operand::kAsIs>(
          panel, views_.OutputWeight(parameters_.output_weight()),
          views_.ValueRows(pass.d_z, row, panel.rows), Result::kOverwrite, executor_);
    });
  }

  void BackwardNormalize(const BackwardNormalizePass<T>& pass) const {
    const auto norm = Norm();
    const Index width = sizes_.value_width(), gate = sizes_.gate_column();
    tokens_.ForEachBlock(executor_, [&](Index block, Index begin, Index end) {
      T* d_weight = pass.norm_parts + block * sizes_.value_dim;
      std::fill_n(d_weight, sizes_.value_dim, T(0));
      for (Index row = begin; row < end; ++row) {
        norm.Backward(pass.o + row * width, Row(pass.projected, row) + gate,
                      pass.inverse_rms + row * sizes_.value_heads, pass.d_z + row * width,
                      Row(pass.d_projected, row) + gate, d_weight);
      }
    });
  }

  void BackwardChunks(const ChunkBackwardArgs<T, T>& args) const {
    ChunkBackward<Backend, Shape, StepSize, T, T>(args, executor_);
  }

  void BackwardTokens(const BackwardTokensPass<T>& pass) const {
    UseWindows(pass.windows);
    const auto conv = Conv(pass.projected);
    const auto gates = Gates();
    const Index heads = sizes_.value_heads;
    tokens_.ForEachBlock(executor_, [&](Index block, Index begin, Index end) {
      T* part = pass.small_parts + block * SmallSize();
      conv.Backward(begin, end, pass.d_mixed, pass.d_projected, views_.projected_stride,
                    part + OffsetInSmall(parameters_.conv_weight()));
      T* d_step_bias = part + OffsetInSmall(parameters_.step_bias());
      T* d_a_log = part + OffsetInSmall(parameters_.a_log());
      T* d_dt_bias = part + OffsetInSmall(parameters_.dt_bias());
      for (T* sums : {d_step_bias, d_a_log, d_dt_bias}) std::fill_n(sums, heads, T(0));
      for (Index row = begin; row < end; ++row) {
        const Index at = row * heads;
        T* d_row = Row(pass.d_projected, row);
        gates.Backward(Row(pass.projected, row) + sizes_.decay_column(), pass.g + at, pass.eta + at,
                       pass.dg + at, pass.deta + at, d_row + sizes_.decay_column(),
                       d_row + sizes_.step_column(), d_a_log, d_dt_bias, d_step_bias);
      }
    });
  }

  void SumParts(const SumPartsPass<T>& pass) const {
    SumBlocks(pass.small_parts, SmallSize(), pass.d_small, pass.accumulate);
    SumBlocks(pass.norm_parts, sizes_.value_dim, pass.d_norm, pass.accumulate);
  }

  void BackwardProject(const BackwardProjectPass<T>& pass) const {
    const MatrixRef<T> d_weight = views_.InputWeight(pass.d_weight);
    ForEachPanel(pass.x, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kTransposed, Operand::kAsIs>(
          views_.ProjectedRows(pass.d_projected, row, panel.rows), panel, d_weight,
          pass.accumulate || row > 0 ? Result::kAccumulate : Result::kOverwrite, executor_);
    });
    ForEachPanel(pass.dx, [&](Index row, const MatrixRef<T>& panel) {
      Multiply<Operand::kAsIs, Operand::kAsIs>(
          views_.ProjectedRows(pass.d_projected, row, panel.rows),
          views_.InputWeight(parameters_.input_weight()), panel, Result::kOverwrite, executor_);
    });
  }

 private:
  Index SequenceTotal() const { return static_cast<Index>(tokens_.sequences.size()); }
  Index WindowSize() const { return ShortConv<T>::kPast * sizes_.conv_channels(); }

  // [N, 3, conv_channels], or null for zeros.
  void UseWindows(const T* windows) const {
    scratch_.window_of.clear();
    for (Index n = 0; n < SequenceTotal(); ++n) {
      scratch_.window_of.push_back(windows == nullptr ? scratch_.zero_window.data()
                                                      : windows + n * WindowSize());
    }
  }

  // PrepareTokens with the windows in use.
  void Prepare(const PrepareTokensPass<T>& pass) const {
    const auto conv = Conv(pass.projected);
    const auto gates = Gates();
    tokens_.ForEachBlock(executor_, [&](Index, Index begin, Index end) {
      conv.Forward(begin, end, pass.mixed);
      for (Index row = begin; row < end; ++row) {
        const T* projected = Row(pass.projected, row);
        gates.Forward(projected + sizes_.decay_column(), projected + sizes_.step_column(),
                      pass.g + row * sizes_.value_heads, pass.eta + row * sizes_.value_heads);
      }
    });
  }

  // to [width] = the sum of the blocks' parts [blocks, width], in order, or += it.
  void SumBlocks(const T* parts, Index width, T* to, bool accumulate) const {
    constexpr Index kColumns = 1024;
    executor_.ParallelFor((width + kColumns - 1) / kColumns, [&](Index task) {
      const Index first = task * kColumns, count = std::min(kColumns, width - first);
      auto sum = AsArray(to + first, count);
      if (!accumulate) sum.setZero();
      for (Index block = 0; block < tokens_.BlockCount(); ++block) {
        sum += AsArray(parts + block * width + first, count);
      }
    });
  }

  // The small parameters but for the norm's weight lie together.
  Index SmallSize() const { return parameters_.norm_weight() - parameters_.small_weights(); }
  Index OffsetInSmall(const T* tensor) const { return tensor - parameters_.small_weights(); }

  template <class U>
  U* Row(U* projected, Index row) const {
    return projected + row * views_.projected_stride;
  }
  ShortConv<T> Conv(const T* projected) const {
    return ShortConv<T>(tokens_, sizes_.conv_channels(), projected, views_.projected_stride,
                        scratch_.taps.data(), scratch_.window_of);
  }
  TokenGates<T> Gates() const {
    return {sizes_.value_heads, parameters_.a_log(), parameters_.dt_bias(), parameters_.step_bias(),
            scratch_.decay_rate.data()};
  }
  GatedRmsNorm<T> Norm() const {
    return {sizes_.value_heads, sizes_.value_dim, T(views_.config.norm_epsilon),
            parameters_.norm_weight()};
  }

  const LayerViews& views_;
  const LayerSizes& sizes_;
  const KlaParameters<T>& parameters_;
  HostScratch<T>& scratch_;
  const TokenRows& tokens_;
  const Exec& executor_;
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_PASSES_H_
