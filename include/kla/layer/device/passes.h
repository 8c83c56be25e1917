// SPDX-License-Identifier: Apache-2.0
// layer/device: the passes of Forward and Backward on a device, in the order in which they run.
// Each queues matrix products, an operation of op/ or kernel bodies; what flows between them lies
// in DeviceArrays (workspace.h).
#ifndef KLA_LAYER_DEVICE_PASSES_H_
#define KLA_LAYER_DEVICE_PASSES_H_

#include <type_traits>

#include "kla/backend/cuda/decode/launch.h"
#include "kla/backend/cuda/layer/gradient_kernels.h"
#include "kla/backend/cuda/layer/kernels.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/layer/device/parameters.h"
#include "kla/layer/device/projections.h"
#include "kla/layer/device/workspace.h"

namespace kla::internal::device {

template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T>
class DevicePasses {
 public:
  using Executor = typename Platform::Executor;
  using Parameters = DeviceParameters<Platform, T>;
  using Gradients = DeviceParameters<Platform, float>;
  using Arrays = DeviceArrays<Platform, Shape, StepSize, T>;

  DevicePasses(const Parameters& parameters, const typename Platform::Products& products,
               const Arrays& arrays, const Executor& executor)
      : parameters_(parameters),
        a_(arrays),
        s_(arrays.sizes),
        executor_(executor),
        projections_(parameters, products, executor) {}

  // ---- Forward ----------------------------------------------------------------------------------

  // cu_seqlens to the device.
  void WriteOffsets() const {
    if (a_.offsets == nullptr) return;
    WriteIndexList("KlaLayer: offsets", Platform::MakeLauncher(executor_), a_.offsets,
                   a_.call.Sequences() + 1, [&](Index n) { return a_.call.cu_seqlens[n]; });
  }

  // Initial states and windows, copied from their slots; from zero where there is none.
  template <class State>
  void LoadStates(const State* initial, const IndexList& slots) const {
    if (initial == nullptr) return;
    const Index count = a_.call.Sequences();
    ForEachRun(slots, {}, 1, count, [&](const auto& sequences, Index run) {
      using Sequences = std::remove_cvref_t<decltype(sequences)>;
      Launch("KlaLayer: windows",
             GatherWindowsBody<T, Sequences>{initial->windows(), initial->positions(), a_.windows,
                                             s_.conv_channels(), s_.value_heads, sequences},
             run);
    });
    Platform::Zero(a_.initial_state, count * s_.state_size(), executor_);
    initial->recurrent().Store(a_.States(a_.initial_state), slots, executor_);
  }

  void Project(const ModelView<const T>& x) const {
    projections_.Input(x, a_.projected, a_.product);
  }

  // Convolution of q, k and v, decay and step size.
  void PrepareTokens() const {
    const ConvolveBody<T> convolve = Convolve();
    Launch("KlaLayer: convolution", convolve, convolve.Blocks());
    const TokenGatesBody<T> gates = Gates();
    Launch("KlaLayer: gates", gates, gates.Blocks());
  }

  void RunChunks() const {
    Platform::template RunChunkForward<Shape, StepSize>(a_.ForwardArgs(), a_.chunk, a_.chunk_bytes,
                                                        executor_);
  }

  template <class State>
  void StoreStates(State* final_state, const IndexList& slots) const {
    if (final_state == nullptr) return;
    ForEachRun(slots, {}, 1, a_.call.Sequences(), [&](const auto& sequences, Index run) {
      using Sequences = std::remove_cvref_t<decltype(sequences)>;
      Launch("KlaLayer: windows",
             SaveWindowsBody<T, Sequences>{Convolve(), final_state->windows(),
                                           final_state->positions(), s_.value_heads, sequences},
             run);
    });
    final_state->recurrent().Load(a_.States(a_.final_state), slots, executor_);
  }

  void Normalize() const {
    const GatedNormBody<T> norm = Norm();
    Launch("KlaLayer: norm", norm, norm.Blocks());
  }

  void ProjectOutput(const ModelView<T>& y) const { projections_.Output(a_.z, y, a_.product); }

  // ---- Backward ---------------------------------------------------------------------------------

  // dW_o, and dz in d_z.
  void BackwardOutput(const ModelView<const T>& dy, Gradients& gradients, bool accumulate) const {
    projections_.BackwardOutput(dy, a_.z, a_.d_z, gradients.output_weight(), accumulate,
                                a_.product);
  }

  // d_z becomes do; the gate's part of d_projected, and the parts of the norm weight's gradient.
  void BackwardNormalize() const {
    const GatedNormBackwardBody<T, Shape::kValueDim> norm{.forward = Norm(),
                                                          .parts = a_.Parts(),
                                                          .dz = a_.d_z,
                                                          .du = a_.d_projected + s_.gate_column(),
                                                          .du_stride = ProjectedStride(s_),
                                                          .sums = a_.norm_sums};
    Launch("KlaLayer: norm, backward", norm, norm.Blocks());
  }

  // dq, dk, dv behind the convolution, dg and deta.
  void BackwardChunks() const {
    Platform::template RunChunkBackward<Shape, StepSize>(a_.BackwardArgs(), a_.chunk,
                                                         a_.chunk_bytes, executor_);
  }

  // The rest of d_projected, and the parts of the small gradients.
  void BackwardTokens() const {
    const Index stride = ProjectedStride(s_);
    const ConvolveBackwardBody<T> convolve{.forward = Convolve(),
                                           .parts = a_.Parts(),
                                           .small = a_.Small(),
                                           .dy = a_.d_mixed,
                                           .dx = a_.d_projected,
                                           .dx_stride = stride,
                                           .sums = a_.small_sums};
    Launch("KlaLayer: convolution, backward", convolve, convolve.Blocks());
    const TokenGatesBackwardBody<T> gates{.forward = Gates(),
                                          .parts = a_.Parts(),
                                          .small = a_.Small(),
                                          .dg = a_.dg,
                                          .deta = a_.deta,
                                          .da = a_.d_projected + s_.decay_column(),
                                          .da_stride = stride,
                                          .sums = a_.small_sums};
    Launch("KlaLayer: gates, backward", gates, gates.Blocks());
  }

  // The parts, added up.
  void SumSmallGradients(Gradients& gradients, bool accumulate) const {
    const Index parts = a_.Parts().Count();
    const SumPartsBody small{.parts = a_.small_sums,
                             .count = parts,
                             .stride = a_.Small().Stride(),
                             .width = a_.Small().Size(),
                             .to = gradients.conv_weight(),
                             .accumulate = accumulate};
    Launch("KlaLayer: sums", small, small.Blocks());
    const SumPartsBody norm{.parts = a_.norm_sums,
                            .count = parts * s_.value_heads,
                            .stride = s_.value_dim,
                            .width = s_.value_dim,
                            .to = gradients.norm_weight(),
                            .accumulate = accumulate};
    Launch("KlaLayer: sums", norm, norm.Blocks());
  }

  // dW_in, and dx.
  void BackwardProject(const ModelView<const T>& x, const ModelView<T>& dx, Gradients& gradients,
                       bool accumulate) const {
    projections_.BackwardInput(a_.d_projected, x, dx, gradients.input_weight(), accumulate,
                               a_.product);
  }

 private:
  template <class Body>
  void Launch(const char* step, const Body& body, Index blocks) const {
    Platform::MakeLauncher(executor_).Launch(step, body, blocks);
  }

  ConvolveBody<T> Convolve() const {
    return {.x = a_.projected,
            .y = a_.mixed,
            .x_stride = ProjectedStride(s_),
            .rows = a_.call.Rows(),
            .taps = parameters_.conv_weight(),
            .windows = a_.windows,
            .channels = s_.conv_channels(),
            .sequences = a_.Sequences()};
  }
  TokenGatesBody<T> Gates() const {
    return {.a = a_.projected + s_.decay_column(),
            .stride = ProjectedStride(s_),
            .rows = a_.call.Rows(),
            .heads = s_.value_heads,
            .a_log = parameters_.a_log(),
            .dt_bias = parameters_.dt_bias(),
            .step_bias = parameters_.step_bias(),
            .g = a_.g,
            .eta = a_.eta};
  }
  GatedNormBody<T> Norm() const {
    return {.o = a_.o,
            .z = a_.z,
            .u = a_.projected + s_.gate_column(),
            .u_stride = ProjectedStride(s_),
            .rows = a_.call.Rows(),
            .heads = s_.value_heads,
            .value_dim = s_.value_dim,
            .weight = parameters_.norm_weight(),
            .epsilon = static_cast<float>(a_.config.norm_epsilon)};
  }

  const Parameters& parameters_;
  const Arrays& a_;
  const LayerSizes& s_;
  const Executor& executor_;
  DeviceProjections<Platform, T> projections_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_PASSES_H_
