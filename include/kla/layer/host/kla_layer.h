// SPDX-License-Identifier: Apache-2.0
// layer/host: the token mixer of a model, trained in chunks and decoded token by token.
//
//   kla::KlaLayer<kla::Simd, kla::Shape<96, 192>> layer({.model_dim = 1536, .num_heads = 12});
//   std::mt19937_64 random(1);
//   layer.Initialize(random);
//
//   kla::LayerWorkspace<float> workspace;                      // training
//   auto gradients = layer.MakeGradients();
//   kla::ModelView<const float> y = layer.Forward(x, workspace);           // x [B, T, 1536]
//   kla::ModelView<const float> dx = layer.Backward(dy, workspace, gradients);
//
//   auto state = layer.MakeState(/*slots=*/1);                 // generation
//   layer.Forward(prompt, workspace, {.final_state = &state, .keep_for_backward = false});
//   layer.Step(x_t, state, y_t);                               // x_t, y_t [1, 1, 1536]
//
// For each token x_t, with * the causal convolution over four tokens (short_conv.h):
//   q = SiLU(c_q * W_q x)    k = SiLU(c_k * W_k x)    v = SiLU(c_v * W_v x)
//   g = -exp(A_log) softplus(W_a x + dt_bias)         eta = sigmoid(W_b x + b)
//   o = the recurrence of ChunkForward, per value head
//   y = W_o (RMSNorm(o) SiLU(W_g x))
// Zou, Ren, Liu: Kaczmarz Linear Attention, arXiv:2605.08587; with another StepSize the same layer
// is Gated DeltaNet, Longhorn or a plain delta rule.
//
// Dense algebra is Eigen's, run by the executor alone: Eigen starts no threads here. Eigen gives
// its functions one name whatever instruction set they are compiled for, so that a program of which
// parts are compiled for several must use the layer in one of them only; the operations are free of
// this.
#ifndef KLA_LAYER_HOST_KLA_LAYER_H_
#define KLA_LAYER_HOST_KLA_LAYER_H_

#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kla/core/backend.h"
#include "kla/core/concepts.h"
#include "kla/core/executor.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/call.h"
#include "kla/layer/check.h"
#include "kla/layer/config.h"
#include "kla/layer/declaration.h"
#include "kla/layer/host/passes.h"
#include "kla/layer/host/state.h"
#include "kla/layer/host/token_rows.h"
#include "kla/layer/host/workspace.h"
#include "kla/layer/parameters.h"
#include "kla/layer/passes.h"
#include "kla/math/step_size.h"

namespace kla {

// T is float, double or, with Reference, a scalar of yours; StateElement is the storage type of a
// LayerState. All methods that are const may run at once, each with a workspace or state of its
// own. They throw std::invalid_argument for a bad argument, before anything is written.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize, class T, class StateElement>
requires(!std::is_same_v<Backend, Cuda>) class KlaLayer<Backend, Shape, StepSize, T, StateElement> {
  static_assert(std::is_same_v<T, Accumulator<T>>,
                "kla: KlaLayer computes in float, double or a scalar of yours; for states in 16 "
                "bits pass bfloat16 or float16 as StateElement");

 public:
  using Parameters = KlaParameters<T>;
  using Gradients = Parameters;
  using Workspace = LayerWorkspace<T>;
  using State = LayerState<Backend, Shape, T, StateElement>;
  using Options = ForwardOptions<State>;

  // Parameters are zero until Initialize or until you fill them.
  explicit KlaLayer(const KlaLayerConfig& config)
      : config_(config), parameters_(ResolveSizes<Shape>(config)) {}

  const KlaLayerConfig& config() const { return config_; }
  const LayerSizes& sizes() const { return parameters_.sizes(); }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

  void Initialize(std::mt19937_64& random) { parameters_.Initialize(random); }
  Gradients MakeGradients() const { return Gradients(sizes()); }  // zero
  State MakeState(Index slots) const { return State(sizes(), slots); }
  // For a Forward of x [batch, tokens, D] with these options, as on other backends; this workspace
  // grows when it must, and Workspace() does as well.
  Workspace MakeWorkspace(Index /*batch*/, Index /*tokens*/, const Options& = {}) const {
    return {};
  }

  // x [B, T, D] -> y [B, T, D], which lies in the workspace until its next Forward. Unless
  // keep_for_backward is false, x must stay as it is until Backward. The gradient does not reach
  // into initial_state.
  template <Executor Exec = Serial>
  ModelView<const T> Forward(const ModelView<const T>& x, Workspace& workspace,
                             const Options& options = {}, const Exec& executor = {}) const {
    auto& buffers = workspace.buffers_;
    const Check check("KlaLayer::Forward", sizes());
    check.Rows("x", x);
    CheckOutside(check, "x", x, buffers);
    check.Offsets(options.cu_seqlens, x);
    const Index count = SequenceCount(options.cu_seqlens, x.template extent<Batch>());
    if (options.initial_state != nullptr) {
      check.ReadSlots("initial_state", *options.initial_state, options.slots, count);
    }
    if (options.final_state != nullptr) {
      check.WrittenSlots("final_state", *options.final_state, options.slots, count);
    }

    const internal::LayerViews views = ViewsOf({.batch = x.template extent<Batch>(),
                                                .tokens = x.template extent<Time>(),
                                                .cu_seqlens = options.cu_seqlens,
                                                .loads_state = options.initial_state != nullptr,
                                                .stores_state = options.final_state != nullptr,
                                                .keeps = options.keep_for_backward});
    buffers.kept.Reset();
    const auto arrays = buffers.Forward(views, ChunksOf(views.call));
    internal::RunForward(Passes<Exec>(views, parameters_, buffers.scratch, executor), views, arrays,
                         x, options);
    if (options.keep_for_backward) buffers.kept.Set(sizes(), x, views.call);
    return views.Model(arrays.y);
  }

  // dy [B, T, D] -> dx [B, T, D], which lies in the workspace until its next Backward, and the
  // gradient of every parameter. For the workspace of the Forward that made y, with unchanged
  // parameters.
  template <Executor Exec = Serial>
  ModelView<const T> Backward(const ModelView<const T>& dy, Workspace& workspace,
                              Gradients& gradients, GradientMode mode = GradientMode::kOverwrite,
                              const Exec& executor = {}) const {
    auto& buffers = workspace.buffers_;
    const Check check("KlaLayer::Backward", sizes());
    check.Kept(buffers.kept.sizes());
    const ModelView<const T>& x = buffers.kept.x();
    check.Rows("dy", dy, x.extents());
    CheckOutside(check, "dy", dy, buffers);
    check.Gradients(gradients, parameters_);

    const internal::LayerViews views = ViewsOf(buffers.kept.call());
    const Index small_size = parameters_.norm_weight() - parameters_.small_weights();
    const auto arrays = buffers.Backward(views, ChunksOf(views.call),
                                         buffers.scratch.tokens.BlockCount(), small_size);
    internal::RunBackward(Passes<Exec>(views, parameters_, buffers.scratch, executor), views,
                          arrays, x, dy, gradients, mode == GradientMode::kAccumulate);
    return views.Model(arrays.dx);
  }

  // One or more tokens for each of N sequences, which continue from the state and advance it:
  // x, y [N, L, D]; y may be x. slots [N] names the slot of each sequence; -1 skips it, and its y
  // is left as it is; left out: slot n. The same function as Forward on the tokens one after the
  // other.
  template <Executor Exec = Serial>
  void Step(const ModelView<const T>& x, State& state, const ModelView<T>& y,
            const IndexList& slots = {}, const Exec& executor = {}) const {
    auto& buffers = state.scratch_.buffers_;
    const Check check("KlaLayer::Step", sizes());
    check.Rows("x", x);
    CheckOutside(check, "x", x, buffers);
    check.Output("y", y, x.extents());
    const Index count = x.template extent<Batch>();
    check.WrittenSlots("state", state, slots, count);

    const ModelView<const T> rows =
        internal::GatherActive(x, slots, buffers.gathered, buffers.slots);
    const internal::LayerViews views =
        ViewsOf({.batch = rows.template extent<Batch>(), .tokens = rows.template extent<Time>()});
    const auto arrays = buffers.Forward(views, 0);
    const Passes<Exec> passes(views, parameters_, buffers.scratch, executor);
    passes.Begin();
    const bool all = views.call.batch == count;
    const ModelView<T> to = all ? y : views.Model(arrays.y);
    internal::RunStep(passes, arrays, rows, state, to, buffers.slots);
    if (!all) internal::ScatterActive(to, slots, y);
  }

 private:
  using Check = internal::LayerCheck<Backend, Shape>;
  template <class Exec>
  using Passes = internal::HostPasses<Backend, Shape, StepSize, T, Exec>;

  // Rows of `projected` begin on a cache line.
  internal::LayerViews ViewsOf(const internal::LayerCall& call) const {
    return {config_, sizes(), call, (sizes().projected_width() + 15) / 16 * 16};
  }
  static Index ChunksOf(const internal::LayerCall& call) {
    return ChunkCount(call.cu_seqlens, call.batch, call.tokens, kChunkLength<Backend, Shape, T>);
  }
  // What is returned in a workspace is not to be passed to the call that writes it.
  static void CheckOutside(const Check& check, const char* name, const ModelView<const T>& view,
                           const internal::LayerBuffers<T>& buffers) {
    for (const auto* buffer : {&buffers.y, &buffers.dx}) {
      check.Outside(name, view, buffer->data(),
                    buffer->size_bytes() / static_cast<Index>(sizeof(T)));
    }
  }

  KlaLayerConfig config_;
  Parameters parameters_;
};

}  // namespace kla

#endif  // KLA_LAYER_HOST_KLA_LAYER_H_
