// SPDX-License-Identifier: Apache-2.0
// layer/host: the passes of Backward, in the order in which they run (see forward_passes.h).
#ifndef KLA_LAYER_HOST_BACKWARD_PASSES_H_
#define KLA_LAYER_HOST_BACKWARD_PASSES_H_

#include <algorithm>

#include "kla/layer/host/arrays.h"
#include "kla/op/chunk_backward.h"

namespace kla::internal {

template <class Backend, HeadShape Shape, StepSizePolicy StepSize, class T>
class BackwardPasses : private LayerPasses<T> {
  using LayerPasses<T>::config_;
  using LayerPasses<T>::sizes_;
  using LayerPasses<T>::b_;
  using LayerPasses<T>::arrays_;

 public:
  using typename LayerPasses<T>::Parameters;
  using LayerPasses<T>::LayerPasses;

  // dW_o = dy^T z, dz = dy W_o.
  template <class Exec>
  void BackwardOutput(const ModelView<const T>& dy, Parameters& gradients, bool accumulate,
                      const Exec& executor) const {
    b_.d_normed.Resize(b_.tokens.rows * sizes_.value_width());
    const MatrixRef<T> d_weight{gradients.output_weight(), sizes_.model_dim, sizes_.value_width(),
                                sizes_.value_width()};
    ForEachPanel(dy, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kTransposed, Operand::kAsIs>(
          panel, arrays_.ValueRows(b_.normed.data(), row, panel.rows), d_weight,
          accumulate || row > 0 ? Result::kAccumulate : Result::kOverwrite, executor);
      Multiply<Operand::kAsIs, Operand::kAsIs>(
          panel, arrays_.OutputWeight(), arrays_.ValueRows(b_.d_normed.data(), row, panel.rows),
          Result::kOverwrite, executor);
    });
  }

  // dz becomes do; the gate's part of d_projected.
  template <class Exec>
  void BackwardNormalize(Parameters& gradients, const Exec& executor) const {
    b_.d_projected.Resize(b_.tokens.rows * b_.projected_stride);
    b_.d_small.Resize(b_.tokens.BlockCount() * gradients.small_size());
    const auto norm = arrays_.Norm();
    const Index width = sizes_.value_width(), gate = sizes_.gate_column();
    b_.tokens.ForEachBlock(executor, [&](Index block, Index begin, Index end) {
      std::fill_n(arrays_.SmallPart(gradients, block), gradients.small_size(), T(0));
      T* d_weight = arrays_.SmallPart(gradients, block, gradients.norm_weight());
      for (Index row = begin; row < end; ++row) {
        norm.Backward(b_.o.data() + row * width, arrays_.ProjectedRow(row) + gate,
                      b_.inverse_rms.data() + row * sizes_.value_heads,
                      b_.d_normed.data() + row * width, arrays_.DProjectedRow(row) + gate,
                      d_weight);
      }
    });
  }

  // dq, dk, dv behind the convolution, dg and deta.
  template <class Exec>
  void BackwardChunks(const Exec& executor) const {
    const IndexList offsets = arrays_.Offsets();
    const Index rows = b_.tokens.rows;
    b_.d_mixed.Resize(rows * sizes_.conv_channels());
    ChunkBackwardArgs<T, T> args = {.q = arrays_.Keys(b_.mixed.data()),
                                    .k = arrays_.Keys(b_.mixed.data() + sizes_.key_width()),
                                    .v = arrays_.MixedValues(b_.mixed.data()),
                                    .g = arrays_.Gate(b_.g.data()),
                                    .eta = arrays_.Gate(b_.eta.data()),
                                    .d_o = arrays_.Values(b_.d_normed.data()),
                                    .dq = arrays_.Keys(b_.d_mixed.data()),
                                    .dk = arrays_.Keys(b_.d_mixed.data() + sizes_.key_width()),
                                    .dv = arrays_.MixedValues(b_.d_mixed.data()),
                                    .dg = arrays_.Gate(b_.dg.Resize(rows * sizes_.value_heads)),
                                    .deta = arrays_.Gate(b_.deta.Resize(rows * sizes_.value_heads)),
                                    .chunk_states = arrays_.ChunkStateArray(),
                                    .cu_seqlens = offsets,
                                    .scale = config_.scale,
                                    .epsilon = config_.epsilon,
                                    .grouping = config_.grouping};
    if (b_.has_state) args.initial_state = arrays_.States(b_.initial_state.data());
    ChunkBackward<Backend, Shape, StepSize, T, T>(args, executor);
  }

  // The rest of d_projected, and the blocks' parts of the small gradients.
  template <class Exec>
  void BackwardTokens(Parameters& gradients, const Exec& executor) const {
    arrays_.PointAtWindows();
    const auto conv = arrays_.Conv();
    const auto gates = arrays_.Gates();
    b_.tokens.ForEachBlock(executor, [&](Index block, Index begin, Index end) {
      conv.Backward(begin, end, b_.d_mixed.data(), b_.d_projected.data(), b_.projected_stride,
                    arrays_.SmallPart(gradients, block, gradients.conv_weight()));
      T* d_a_log = arrays_.SmallPart(gradients, block, gradients.a_log());
      T* d_dt_bias = arrays_.SmallPart(gradients, block, gradients.dt_bias());
      T* d_step_bias = arrays_.SmallPart(gradients, block, gradients.step_bias());
      for (Index row = begin; row < end; ++row) {
        const Index at = row * sizes_.value_heads;
        T* d_projected = arrays_.DProjectedRow(row);
        gates.Backward(arrays_.ProjectedRow(row) + sizes_.decay_column(), b_.g.data() + at,
                       b_.eta.data() + at, b_.dg.data() + at, b_.deta.data() + at,
                       d_projected + sizes_.decay_column(), d_projected + sizes_.step_column(),
                       d_a_log, d_dt_bias, d_step_bias);
      }
    });
  }

  // The blocks' parts, added up in order.
  template <class Exec>
  void SumSmallGradients(Parameters& gradients, bool accumulate, const Exec& executor) const {
    constexpr Index kColumns = 1024;
    const Index size = gradients.small_size();
    T* sums = gradients.values().data() + gradients.small_begin();
    executor.ParallelFor((size + kColumns - 1) / kColumns, [&](Index task) {
      const Index first = task * kColumns, width = std::min(kColumns, size - first);
      auto sum = AsArray(sums + first, width);
      if (!accumulate) sum.setZero();
      for (Index block = 0; block < b_.tokens.BlockCount(); ++block) {
        sum += AsArray(arrays_.SmallPart(gradients, block) + first, width);
      }
    });
  }

  // dW_in = d_projected^T x, dx = d_projected W_in.
  template <class Exec>
  ModelView<T> BackwardProject(Parameters& gradients, bool accumulate, const Exec& executor) const {
    const MatrixRef<T> d_weight{gradients.input_weight(), sizes_.projected_width(),
                                sizes_.model_dim, sizes_.model_dim};
    const auto d_projected = [&](Index row, Index rows) {
      return MatrixRef<const T>{arrays_.DProjectedRow(row), rows, sizes_.projected_width(),
                                b_.projected_stride};
    };
    ForEachPanel(b_.x, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kTransposed, Operand::kAsIs>(
          d_projected(row, panel.rows), panel, d_weight,
          accumulate || row > 0 ? Result::kAccumulate : Result::kOverwrite, executor);
    });
    const ModelView<T> dx = arrays_.ModelOutput(b_.dx);
    ForEachPanel(dx, [&](Index row, const MatrixRef<T>& panel) {
      Multiply<Operand::kAsIs, Operand::kAsIs>(d_projected(row, panel.rows), arrays_.InputWeight(),
                                               panel, Result::kOverwrite, executor);
    });
    return dx;
  }
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_BACKWARD_PASSES_H_
