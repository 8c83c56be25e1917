// SPDX-License-Identifier: Apache-2.0
// layer/host: the passes of Forward and Step, in the order in which they run. Each is a matrix
// product, an operation of op/, or a loop over fixed blocks of rows, so that results do not depend
// on the executor. What flows between them lies in LayerBuffers (workspace.h).
#ifndef KLA_LAYER_HOST_FORWARD_PASSES_H_
#define KLA_LAYER_HOST_FORWARD_PASSES_H_

#include <algorithm>

#include "kla/layer/host/arrays.h"
#include "kla/layer/host/state.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/decode_step.h"

namespace kla::internal {

template <class Backend, HeadShape Shape, StepSizePolicy StepSize, class T>
class ForwardPasses : private LayerPasses<T> {
  using LayerPasses<T>::config_;
  using LayerPasses<T>::parameters_;
  using LayerPasses<T>::sizes_;
  using LayerPasses<T>::b_;
  using LayerPasses<T>::arrays_;

 public:
  using typename LayerPasses<T>::Parameters;
  using LayerPasses<T>::LayerPasses;

  // Makes room for x [B, T, D].
  void Begin(const ModelView<const T>& x, const IndexList& cu_seqlens, bool keep) const {
    b_.kept = false;
    b_.sizes = sizes_;
    b_.x = x;
    b_.chunk_length = kChunkLength<Backend, Shape, T>;
    b_.tokens.Set(cu_seqlens, x.template extent<Batch>(), x.template extent<Time>());
    b_.offsets.clear();
    for (Index n = 0; n < cu_seqlens.size(); ++n) b_.offsets.push_back(cu_seqlens[n]);
    b_.has_state = false;
    const Index rows = b_.tokens.rows;
    b_.projected_stride = (sizes_.projected_width() + 15) / 16 * 16;
    b_.projected.Resize(rows * b_.projected_stride);
    b_.mixed.Resize(rows * sizes_.conv_channels());
    b_.g.Resize(rows * sizes_.value_heads);
    b_.eta.Resize(rows * sizes_.value_heads);
    b_.o.Resize(rows * sizes_.value_width());
    b_.inverse_rms.Resize(rows * sizes_.value_heads);
    if (keep) {
      b_.normed.Resize(rows * sizes_.value_width());
      b_.chunk_states.Resize(arrays_.ChunkStates() * sizes_.state_size());
    }
    b_.keeps = keep;
    ShortConv<T>::TransposeWeight(parameters_.conv_weight(), sizes_.conv_channels(),
                                  b_.taps.Resize(kConvWidth * sizes_.conv_channels()));
    b_.decay_rate.Resize(sizes_.value_heads);
    arrays_.Gates().Prepare();
    b_.windows.Zero(arrays_.WindowSize());
    arrays_.PointAtWindows();
  }

  // Initial states and windows, copied from their slots; from zero where there is none.
  template <class State>
  void LoadStates(const State* initial, const IndexList& slots) const {
    if (initial == nullptr) return;
    const auto count = static_cast<Index>(b_.tokens.sequences.size());
    b_.has_state = true;
    b_.initial_state.Zero(count * sizes_.state_size());
    initial->recurrent().Store(arrays_.States(b_.initial_state.data()), slots);
    b_.windows.Zero(count * arrays_.WindowSize());
    for (Index n = 0; n < count; ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot != -1) {
        std::copy_n(initial->window(slot), arrays_.WindowSize(),
                    b_.windows.data() + n * arrays_.WindowSize());
      }
    }
    arrays_.PointAtWindows();
  }

  // projected = x W_in^T: [rows, D] [D, projected_width]
  template <class Exec>
  void Project(const ModelView<const T>& x, const Exec& executor) const {
    ForEachPanel(x, [&](Index row, const MatrixRef<const T>& panel) {
      Multiply<Operand::kAsIs, Operand::kTransposed>(
          panel, arrays_.InputWeight(),
          MatrixRef<T>{arrays_.ProjectedRow(row), panel.rows, sizes_.projected_width(),
                       b_.projected_stride},
          Result::kOverwrite, executor);
    });
  }

  // Convolution of q, k and v, decay and step size.
  template <class Exec>
  void PrepareTokens(const Exec& executor) const {
    const auto conv = arrays_.Conv();
    const auto gates = arrays_.Gates();
    b_.tokens.ForEachBlock(executor, [&](Index, Index begin, Index end) {
      conv.Forward(begin, end, b_.mixed.data());
      for (Index row = begin; row < end; ++row) {
        const T* projected = arrays_.ProjectedRow(row);
        gates.Forward(projected + sizes_.decay_column(), projected + sizes_.step_column(),
                      b_.g.data() + row * sizes_.value_heads,
                      b_.eta.data() + row * sizes_.value_heads);
      }
    });
  }

  template <class Exec>
  void RunChunks(bool wants_final_state, const Exec& executor) const {
    const IndexList offsets = arrays_.Offsets();
    ChunkForwardArgs<T, T> args = {.q = arrays_.Keys(b_.mixed.data()),
                                   .k = arrays_.Keys(b_.mixed.data() + sizes_.key_width()),
                                   .v = arrays_.MixedValues(b_.mixed.data()),
                                   .g = arrays_.Gate(b_.g.data()),
                                   .eta = arrays_.Gate(b_.eta.data()),
                                   .o = arrays_.Values(b_.o.data()),
                                   .cu_seqlens = offsets,
                                   .scale = config_.scale,
                                   .epsilon = config_.epsilon,
                                   .grouping = config_.grouping};
    if (b_.has_state) args.initial_state = arrays_.States(b_.initial_state.data());
    if (wants_final_state) {
      const auto count = static_cast<Index>(b_.tokens.sequences.size());
      args.final_state = arrays_.States(b_.final_state.Resize(count * sizes_.state_size()));
    }
    if (b_.keeps) args.chunk_states = arrays_.ChunkStateArray();
    ChunkForward<Backend, Shape, StepSize, T, T>(args, executor);
  }

  template <class State>
  void StoreStates(State* final_state, const IndexList& slots) const {
    if (final_state == nullptr) return;
    final_state->recurrent().Load(arrays_.States(b_.final_state.data()), slots);
    const auto conv = arrays_.Conv();
    for (Index n = 0; n < static_cast<Index>(b_.tokens.sequences.size()); ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot != -1) conv.SaveWindow(n, final_state->window(slot));
    }
  }

  // Gated norm of o; in place where nothing is kept.
  template <class Exec>
  void Normalize(const Exec& executor) const {
    const auto norm = arrays_.Norm();
    T* normed = b_.keeps ? b_.normed.data() : b_.o.data();
    const Index width = sizes_.value_width();
    b_.tokens.ForEachBlock(executor, [&](Index, Index begin, Index end) {
      for (Index row = begin; row < end; ++row) {
        norm.Forward(b_.o.data() + row * width, arrays_.ProjectedRow(row) + sizes_.gate_column(),
                     normed + row * width, b_.inverse_rms.data() + row * sizes_.value_heads);
      }
    });
  }

  ModelView<T> WorkspaceOutput() const { return arrays_.ModelOutput(b_.y); }

  // y = z W_o^T: [rows, HV V] [HV V, D]
  template <class Exec>
  void ProjectOutput(const ModelView<T>& y, const Exec& executor) const {
    const T* normed = b_.keeps ? b_.normed.data() : b_.o.data();
    ForEachPanel(y, [&](Index row, const MatrixRef<T>& panel) {
      Multiply<Operand::kAsIs, Operand::kTransposed>(arrays_.ValueRows(normed, row, panel.rows),
                                                     arrays_.OutputWeight(), panel,
                                                     Result::kOverwrite, executor);
    });
  }

  // ---- Step -------------------------------------------------------------------------------------

  // The sequences whose slot is not -1, as they are if these are all, else copied together.
  ModelView<const T> GatherActive(const ModelView<const T>& x, const IndexList& slots) const {
    const Index count = x.template extent<Batch>(), tokens = x.template extent<Time>();
    b_.slots.clear();
    for (Index n = 0; n < count; ++n) {
      const Index slot = slots.is_null() ? n : slots[n];
      if (slot != -1) b_.slots.push_back(slot);
    }
    const auto active = static_cast<Index>(b_.slots.size());
    if (active == count) return x;
    T* to = b_.gathered.Resize(active * tokens * sizes_.model_dim);
    for (Index n = 0; n < count; ++n) {
      if (slots[n] == -1) continue;
      for (Index t = 0; t < tokens; ++t) {
        to = std::copy_n(x.Row(n, t), sizes_.model_dim, to);
      }
    }
    return ModelView<const T>(b_.gathered.data(), {active, tokens, sizes_.model_dim});
  }

  void ScatterActive(const ModelView<T>& rows, const IndexList& slots,
                     const ModelView<T>& y) const {
    Index from = 0;
    for (Index n = 0; n < slots.size(); ++n) {
      if (slots[n] == -1) continue;
      for (Index t = 0; t < rows.template extent<Time>(); ++t) {
        std::copy_n(rows.Row(from, t), sizes_.model_dim, y.Row(n, t));
      }
      ++from;
    }
  }

  template <class State>
  void UseWindows(State& state) const {
    for (std::size_t n = 0; n < b_.slots.size(); ++n) b_.window_of[n] = state.window(b_.slots[n]);
  }

  // The recurrence and the step of the windows, in the state itself.
  template <class State, class Exec>
  void RunRecurrence(State& state, const Exec& executor) const {
    DecodeStep<Backend, Shape, StepSize, T>(
        {.q = arrays_.Keys(b_.mixed.data()),
         .k = arrays_.Keys(b_.mixed.data() + sizes_.key_width()),
         .v = arrays_.MixedValues(b_.mixed.data()),
         .g = arrays_.Gate(b_.g.data()),
         .eta = arrays_.Gate(b_.eta.data()),
         .o = arrays_.Values(b_.o.data()),
         .slots = b_.slots,
         .scale = config_.scale,
         .epsilon = config_.epsilon,
         .grouping = config_.grouping},
        state.recurrent(), executor);
    const auto conv = arrays_.Conv();
    for (std::size_t n = 0; n < b_.slots.size(); ++n) {
      conv.SaveWindow(static_cast<Index>(n), state.window(b_.slots[n]));
    }
  }
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_FORWARD_PASSES_H_
