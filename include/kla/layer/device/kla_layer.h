// SPDX-License-Identifier: Apache-2.0
// layer/device: KlaLayer on a device, over a platform: that of PooledState
// (backend/cuda/decode/state.h), and besides
//   Products                      how matrices are multiplied: Multiply(a, b, c, memory, executor,
//                                 overlaps), c = a b^T; MultiplyAsIs(a, b, c, memory, executor),
//                                 c = a b; MultiplyTransposed(a, b, c, accumulate, memory,
//                                 executor), c = a^T b or c += a^T b
//   MakeOverlappingLauncher(executor)   runs kernel bodies that may begin before the kernel ahead
//                                 of them has ended (backend/cuda/block/launch.cuh)
//   ChunkForwardBytes<Shape, StepSize>(args), RunChunkForward<Shape, StepSize>(args, memory,
//                                 bytes, executor), and the same for ChunkBackward
//   Zero(data, count, executor)
//   LayerState<Shape, T, State>   a PooledLayerState (backend/cuda/layer/state.h)
// The platform is CudaLayerPlatform (cuda_layer.cuh) or, under the tests, the host.
#ifndef KLA_LAYER_DEVICE_KLA_LAYER_H_
#define KLA_LAYER_DEVICE_KLA_LAYER_H_

#include <memory>
#include <random>
#include <string>
#include <utility>

#include "kla/backend/cuda/runtime/check_memory.h"
#include "kla/core/check.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/call.h"
#include "kla/layer/check.h"
#include "kla/layer/config.h"
#include "kla/layer/declaration.h"
#include "kla/layer/device/parameters.h"
#include "kla/layer/device/passes.h"
#include "kla/layer/device/workspace.h"
#include "kla/layer/parameters.h"
#include "kla/layer/passes.h"

namespace kla::internal::device {

// The interface of kla::KlaLayer (host/kla_layer.h), on views of device memory and with an executor
// that says where calls are queued; they return at once and allocate no device memory, so that they
// can be captured in a graph. T is float, bfloat16 or float16. The same calls give the same bits.
template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T, class StateElement>
class DeviceLayer {
  static_assert(kIsStored<T>,
                "kla: KlaLayer on Cuda takes float, bfloat16 and float16; for double use a CPU "
                "backend");

 public:
  using Parameters = DeviceParameters<Platform, T>;
  using Gradients = DeviceParameters<Platform, float>;
  using Workspace = DeviceWorkspace<Platform, T>;
  using State = typename Platform::template LayerState<Shape, T, StateElement>;
  using Options = ForwardOptions<State>;
  using Products = typename Platform::Products;
  using Executor = typename Platform::Executor;

  // Parameters are zero until Initialize or parameters().Load. Layers may share `products`.
  explicit DeviceLayer(const KlaLayerConfig& config,
                       std::shared_ptr<Products> products = std::make_shared<Products>())
      : config_(config), parameters_(ResolveSizes<Shape>(config)), products_(std::move(products)) {}

  const KlaLayerConfig& config() const { return config_; }
  const LayerSizes& sizes() const { return parameters_.sizes(); }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }

  // The numbers that the layer gets on a CPU for the same seed, rounded to T.
  void Initialize(std::mt19937_64& random) {
    KlaParameters<float> host(sizes());
    host.Initialize(random);
    parameters_.Load(host);
  }
  // Zero, and float whatever T is.
  Gradients MakeGradients(const Executor& executor = {}) const {
    return Gradients(sizes(), executor);
  }
  // Step may then take up to `tokens` tokens of each sequence in a call.
  State MakeState(Index slots, Index tokens = 1) const {
    KLA_CHECK(tokens >= 1, "KlaLayer::MakeState", "tokens", "at least 1", std::to_string(tokens));
    return State(sizes(), slots, tokens);
  }
  // For Forward with x [batch, tokens, D] and these options, and for its Backward unless
  // keep_for_backward is false.
  std::size_t WorkspaceBytes(Index batch, Index tokens, const Options& options = {}) const {
    // Counted from an address at which nothing is read or written.
    return Arrays(ViewsOf(CallOf(batch, tokens, options)), reinterpret_cast<void*>(1024)).bytes;
  }
  Workspace MakeWorkspace(Index batch, Index tokens, const Options& options = {}) const {
    return Workspace(WorkspaceBytes(batch, tokens, options));
  }

  // x [B, T, D] -> y [B, T, D], which lies in the workspace until its next Forward. Unless
  // keep_for_backward is false, x must stay as it is until Backward. The gradient does not reach
  // into initial_state.
  ModelView<const T> Forward(const ModelView<const T>& x, Workspace& workspace,
                             const Options& options = {}, const Executor& executor = {}) const {
    constexpr const char* kName = "KlaLayer::Forward";
    const Check check(kName, sizes());
    const Index batch = x.template extent<Batch>(), tokens = x.template extent<Time>();
    check.Rows("x", x);
    CheckAligned(kName, "x", x.data());
    check.Offsets(options.cu_seqlens, x);
    const Index count = SequenceCount(options.cu_seqlens, batch);
    if (options.initial_state != nullptr) {
      check.ReadSlots("initial_state", *options.initial_state, options.slots, count);
    }
    if (options.final_state != nullptr) {
      check.WrittenSlots("final_state", *options.final_state, options.slots, count);
    }
    const internal::LayerViews views = ViewsOf(CallOf(batch, tokens, options));
    const Arrays arrays(views, workspace.data());
    CheckWorkspace(kName, workspace.data(), workspace.bytes(), arrays.bytes);
    check.Outside("x", x, static_cast<const T*>(arrays.y), arrays.bytes / sizeof(T));

    workspace.kept_.Reset();
    if (batch * tokens > 0 || count > 0) {
      internal::RunForward(PassesOf(views, arrays.scratch, executor), views, Base(arrays), x,
                           options);
    }
    if (options.keep_for_backward) workspace.kept_.Set(sizes(), x, views.call);
    return views.Model(arrays.y);
  }

  // One or more tokens for each of N sequences, which continue from the state and advance it:
  // x, y [N, L, D], L at most state.tokens(); y may be x. slots [N], in host memory, names the slot
  // of each sequence; -1 skips it, and its y is left as it is; left out: slot n.
  void Step(const ModelView<const T>& x, State& state, const ModelView<T>& y,
            const IndexList& slots = {}, const Executor& executor = {}) const {
    constexpr const char* kName = "KlaLayer::Step";
    const Check check(kName, sizes());
    const Index count = x.template extent<Batch>(), tokens = x.template extent<Time>();
    check.Rows("x", x);
    CheckAligned(kName, "x", x.data());
    check.Output("y", y, x.extents());
    CheckAligned(kName, "y", y.data());
    check.WrittenSlots("state", state, slots, count);
    KLA_CHECK(tokens <= state.tokens(), kName, "x",
              "at most " + std::to_string(state.tokens()) + " tokens, as in MakeState",
              std::to_string(tokens));
    if (count * tokens == 0) return;

    const internal::LayerViews views = ViewsOf({.batch = count, .tokens = tokens});
    const auto& memory = state.product_memory();
    const DeviceScratch scratch = {.product = {memory.data(), memory.size()}};
    internal::LayerArrays<T> arrays;
    arrays.projected = state.projected();
    arrays.z = state.z();
    internal::RunStep(PassesOf(views, scratch, executor), arrays, x, state, y, slots);
  }

  // dy [B, T, D] -> dx [B, T, D], which lies in the workspace until its next Backward, and the
  // gradient of every parameter. For the workspace of the Forward that made y, with unchanged
  // parameters.
  ModelView<const T> Backward(const ModelView<const T>& dy, Workspace& workspace,
                              Gradients& gradients, GradientMode mode = GradientMode::kOverwrite,
                              const Executor& executor = {}) const {
    constexpr const char* kName = "KlaLayer::Backward";
    const Check check(kName, sizes());
    const internal::KeptForward<T>& kept = workspace.kept_;
    check.Kept(kept.sizes());
    check.Rows("dy", dy, kept.x().extents());
    CheckAligned(kName, "dy", dy.data());
    check.Gradients(gradients, parameters_);
    const internal::LayerViews views = ViewsOf(kept.call());
    const Arrays arrays(views, workspace.data());
    check.Outside("dy", dy, static_cast<const T*>(arrays.y), arrays.bytes / sizeof(T));

    const bool accumulate = mode == GradientMode::kAccumulate;
    if (views.call.Rows() > 0) {
      internal::RunBackward(PassesOf(views, arrays.scratch, executor), views, Base(arrays),
                            kept.x(), dy, gradients, accumulate);
    } else if (!accumulate) {
      gradients.SetZero(executor);
    }
    return views.Model(arrays.dx);
  }

 private:
  using Check = internal::LayerCheck<Platform, Shape>;
  using Arrays = DeviceArrays<Platform, Shape, StepSize, T>;
  using Passes = DevicePasses<Platform, Shape, StepSize, T>;

  static internal::LayerCall CallOf(Index batch, Index tokens, const Options& options) {
    return {.batch = batch,
            .tokens = tokens,
            .cu_seqlens = options.cu_seqlens,
            .loads_state = options.initial_state != nullptr,
            .stores_state = options.final_state != nullptr,
            .keeps = options.keep_for_backward};
  }
  internal::LayerViews ViewsOf(const internal::LayerCall& call) const {
    return {config_, sizes(), call, ProjectedStride(sizes())};
  }
  Passes PassesOf(const internal::LayerViews& views, const DeviceScratch& scratch,
                  const Executor& executor) const {
    return Passes(parameters_, *products_, views, scratch, executor);
  }
  static const internal::LayerArrays<T>& Base(const Arrays& arrays) { return arrays; }

  KlaLayerConfig config_;
  Parameters parameters_;
  std::shared_ptr<Products> products_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_KLA_LAYER_H_
