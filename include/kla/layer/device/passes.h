// SPDX-License-Identifier: Apache-2.0
// layer/device: the passes (layer/passes.h) on a device. Each queues matrix products, an operation
// of op/ or kernel bodies.
#ifndef KLA_LAYER_DEVICE_PASSES_H_
#define KLA_LAYER_DEVICE_PASSES_H_

#include <algorithm>
#include <array>
#include <type_traits>

#include "kla/backend/cuda/block/index_list.h"
#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/layer/gradient_kernels.h"
#include "kla/backend/cuda/layer/kernels.h"
#include "kla/backend/cuda/layer/step.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/device/parameters.h"
#include "kla/layer/device/projections.h"
#include "kla/layer/device/workspace.h"
#include "kla/layer/passes.h"
#include "kla/op/layer_step.h"

namespace kla::internal::device {

template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T>
class DevicePasses {
 public:
  using Executor = typename Platform::Executor;
  using Parameters = DeviceParameters<Platform, T>;

  DevicePasses(const Parameters& parameters, const typename Platform::Products& products,
               const LayerViews& views, const DeviceScratch& scratch, const Executor& executor)
      : parameters_(parameters),
        views_(views),
        s_(views.sizes),
        call_(views.call),
        scratch_(scratch),
        executor_(executor),
        projections_(parameters, products, views, executor) {}

  // cu_seqlens to the device.
  void Begin() const {
    if (scratch_.offsets == nullptr) return;
    WriteIndexList("KlaLayer: offsets", Platform::MakeLauncher(executor_), scratch_.offsets,
                   call_.Sequences() + 1, [&](Index n) { return call_.cu_seqlens[n]; });
  }

  // ---- Forward ----------------------------------------------------------------------------------

  template <class State>
  void LoadStates(const LoadStatesPass<T, State>& pass) const {
    const Index count = call_.Sequences();
    ForEachRun(pass.slots, {}, 1, count, [&](const auto& sequences, Index run) {
      using Sequences = std::remove_cvref_t<decltype(sequences)>;
      Launch("KlaLayer: windows",
             GatherWindowsBody<T, Sequences>{pass.from->windows(), pass.from->positions(),
                                             pass.windows, s_.conv_channels(), s_.value_heads,
                                             sequences},
             run);
    });
    Platform::Zero(pass.initial_state, count * s_.state_size(), executor_);
    pass.from->recurrent().Store(views_.States(pass.initial_state), pass.slots, executor_);
  }

  // True: what follows may overlap, for one token of one sequence. What its kernels read before
  // they wait for the one ahead was there before the first began.
  bool Project(const ProjectPass<T>& pass) const {
    const bool one_row = projections_.Input(pass.x, pass.projected, scratch_.product);
    return one_row && call_.Rows() == 1;
  }

  void PrepareTokens(const PrepareTokensPass<T>& pass) const {
    ConvolveBody<T> convolve = Convolve(pass.projected, pass.windows);
    convolve.y = pass.mixed;
    Launch("KlaLayer: convolution", convolve, convolve.Blocks());
    TokenGatesBody<T> gates = Gates(pass.projected);
    gates.g = pass.g;
    gates.eta = pass.eta;
    Launch("KlaLayer: gates", gates, gates.Blocks());
  }

  void RunChunks(const ChunkForwardArgs<T, float>& args) const {
    Platform::template RunChunkForward<Shape, StepSize>(args, scratch_.chunk, scratch_.chunk_bytes,
                                                        executor_);
  }

  template <class State>
  void StoreStates(const StoreStatesPass<T, State>& pass) const {
    ForEachRun(pass.slots, {}, 1, call_.Sequences(), [&](const auto& sequences, Index run) {
      using Sequences = std::remove_cvref_t<decltype(sequences)>;
      Launch(
          "KlaLayer: windows",
          SaveWindowsBody<T, Sequences>{Convolve(pass.projected, pass.windows), pass.to->windows(),
                                        pass.to->positions(), s_.value_heads, sequences},
          run);
    });
    pass.to->recurrent().Load(views_.States(pass.final_state), pass.slots, executor_);
  }

  void Normalize(const NormalizePass<T>& pass) const {
    GatedNormBody<T> norm = Norm(pass.o, pass.projected);
    norm.z = pass.z;
    Launch("KlaLayer: norm", norm, norm.Blocks());
  }

  // Of each run of sequences that are not skipped.
  void ProjectOutput(const ProjectOutputPass<T>& pass) const {
    const auto [count, tokens, width] = pass.y.extents();
    for (Index n = 0; n < count;) {
      Index end = pass.slots.is_null() ? count : n;
      while (end < count && pass.slots[end] != -1) ++end;
      if (end > n) {
        const ModelView<T> rows(pass.y.data() + n * pass.y.strides()[0], {end - n, tokens, width},
                                pass.y.strides());
        projections_.Output(pass.z + n * tokens * s_.value_width(), rows, scratch_.product,
                            pass.overlaps);
      }
      n = std::max(end, n + 1);
    }
  }

  // ---- Step -------------------------------------------------------------------------------------

  template <class State>
  void StepTokens(const StepTokensPass<T, State>& pass) const {
    const auto step = [&](Index t, const auto& launcher) {
      using Columns = std::array<Index, 2>;
      const Index stride = views_.projected_stride, width = s_.value_width();
      RunLayerStep<StepSize>(
          LayerStepArgs<T>{
              .projected = {pass.projected + t * stride, Columns{call_.batch, s_.projected_width()},
                            Columns{call_.tokens * stride, 1}},
              .o = {pass.z + t * width, Columns{call_.batch, width},
                    Columns{call_.tokens * width, 1}},
              .conv = parameters_.conv_weight(),
              .a_log = parameters_.a_log(),
              .dt_bias = parameters_.dt_bias(),
              .step_bias = parameters_.step_bias(),
              .norm = parameters_.norm_weight(),
              .slots = pass.slots,
              .scale = views_.config.scale,
              .epsilon = views_.config.epsilon,
              .norm_epsilon = views_.config.norm_epsilon,
              .grouping = views_.config.grouping},
          pass.state, launcher);
    };
    if (pass.overlaps) {
      step(0, Platform::MakeOverlappingLauncher(executor_));
    } else {
      for (Index t = 0; t < call_.tokens; ++t) step(t, Platform::MakeLauncher(executor_));
    }
  }

  // ---- Backward ---------------------------------------------------------------------------------

  void BackwardOutput(const BackwardOutputPass<T>& pass) const {
    projections_.BackwardOutput(pass.dy, pass.z, pass.d_z, pass.d_weight, pass.accumulate,
                                scratch_.product);
  }

  void BackwardNormalize(const BackwardNormalizePass<T>& pass) const {
    const GatedNormBackwardBody<T, Shape::kValueDim> norm{.forward = Norm(pass.o, pass.projected),
                                                          .parts = Parts(),
                                                          .dz = pass.d_z,
                                                          .du = pass.d_projected + s_.gate_column(),
                                                          .du_stride = views_.projected_stride,
                                                          .sums = pass.norm_parts};
    Launch("KlaLayer: norm, backward", norm, norm.Blocks());
  }

  void BackwardChunks(const ChunkBackwardArgs<T, float>& args) const {
    Platform::template RunChunkBackward<Shape, StepSize>(args, scratch_.chunk, scratch_.chunk_bytes,
                                                         executor_);
  }

  void BackwardTokens(const BackwardTokensPass<T>& pass) const {
    const ConvolveBackwardBody<T> convolve{.forward = Convolve(pass.projected, pass.windows),
                                           .parts = Parts(),
                                           .small = SmallOf(s_),
                                           .dy = pass.d_mixed,
                                           .dx = pass.d_projected,
                                           .dx_stride = views_.projected_stride,
                                           .sums = pass.small_parts};
    Launch("KlaLayer: convolution, backward", convolve, convolve.Blocks());
    const TokenGatesBackwardBody<T> gates{.forward = Gates(pass.projected),
                                          .parts = Parts(),
                                          .small = SmallOf(s_),
                                          .g = pass.g,
                                          .eta = pass.eta,
                                          .dg = pass.dg,
                                          .deta = pass.deta,
                                          .da = pass.d_projected + s_.decay_column(),
                                          .da_stride = views_.projected_stride,
                                          .sums = pass.small_parts};
    Launch("KlaLayer: gates, backward", gates, gates.Blocks());
  }

  void SumParts(const SumPartsPass<T>& pass) const {
    const Index parts = Parts().Count();
    const SumPartsBody small{.parts = pass.small_parts,
                             .count = parts,
                             .stride = SmallOf(s_).Stride(),
                             .width = SmallOf(s_).Size(),
                             .to = pass.d_small,
                             .accumulate = pass.accumulate};
    Launch("KlaLayer: sums", small, small.Blocks());
    const SumPartsBody norm{.parts = pass.norm_parts,
                            .count = parts * s_.value_heads,
                            .stride = s_.value_dim,
                            .width = s_.value_dim,
                            .to = pass.d_norm,
                            .accumulate = pass.accumulate};
    Launch("KlaLayer: sums", norm, norm.Blocks());
  }

  void BackwardProject(const BackwardProjectPass<T>& pass) const {
    projections_.BackwardInput(pass.d_projected, pass.x, pass.dx, pass.d_weight, pass.accumulate,
                               scratch_.product);
  }

 private:
  template <class Body>
  void Launch(const char* step, const Body& body, Index blocks) const {
    Platform::MakeLauncher(executor_).Launch(step, body, blocks);
  }

  RowParts Parts() const { return RowParts::Of(call_.Rows()); }

  // Bodies as far as they read; what a pass writes is set by it.
  ConvolveBody<T> Convolve(const T* projected, const T* windows) const {
    return {.x = projected,
            .y = nullptr,
            .x_stride = views_.projected_stride,
            .rows = call_.Rows(),
            .taps = parameters_.conv_weight(),
            .windows = windows,
            .channels = s_.conv_channels(),
            .sequences = {scratch_.offsets, call_.tokens, call_.Sequences()}};
  }
  TokenGatesBody<T> Gates(const T* projected) const {
    return {.a = projected + s_.decay_column(),
            .stride = views_.projected_stride,
            .rows = call_.Rows(),
            .heads = s_.value_heads,
            .a_log = parameters_.a_log(),
            .dt_bias = parameters_.dt_bias(),
            .step_bias = parameters_.step_bias(),
            .g = nullptr,
            .eta = nullptr};
  }
  GatedNormBody<T> Norm(const T* o, const T* projected) const {
    return {.o = o,
            .z = nullptr,
            .u = projected + s_.gate_column(),
            .u_stride = views_.projected_stride,
            .rows = call_.Rows(),
            .heads = s_.value_heads,
            .value_dim = s_.value_dim,
            .weight = parameters_.norm_weight(),
            .epsilon = static_cast<float>(views_.config.norm_epsilon)};
  }

  const Parameters& parameters_;
  const LayerViews& views_;
  const LayerSizes& s_;
  const LayerCall& call_;
  const DeviceScratch& scratch_;
  const Executor& executor_;
  DeviceProjections<Platform, T> projections_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_PASSES_H_
