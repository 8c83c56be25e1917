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

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>

#include "kla/backend/cuda/layer/state.h"
#include "kla/backend/cuda/layer/step.h"
#include "kla/backend/cuda/runtime/check_memory.h"
#include "kla/core/check.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/declaration.h"
#include "kla/layer/device/parameters.h"
#include "kla/layer/device/passes.h"
#include "kla/layer/device/projections.h"
#include "kla/layer/device/workspace.h"
#include "kla/layer/parameters.h"
#include "kla/op/argument_check.h"
#include "kla/op/layer_step.h"
#include "kla/op/memory_region.h"

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
    return Arrays(config_, sizes(), CallOf(batch, tokens, options), reinterpret_cast<void*>(1024))
        .bytes;
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
    const Index batch = x.template extent<Batch>(), tokens = x.template extent<Time>();
    CheckRows(kName, "x", x, {batch, tokens, sizes().model_dim});
    internal::ArgumentCheck<Platform, Shape>(kName).Offsets(options.cu_seqlens, batch, tokens);
    const Index count = SequenceCount(options.cu_seqlens, batch);
    CheckState(kName, "initial_state", options.initial_state, options.slots, count);
    CheckState(kName, "final_state", options.final_state, options.slots, count);
    if (options.final_state != nullptr) {
      options.final_state->recurrent().CheckSlots(kName, options.slots, count);
    }
    const Arrays arrays(config_, sizes(), CallOf(batch, tokens, options), workspace.data());
    CheckWorkspace(kName, workspace.data(), workspace.bytes(), arrays.bytes);
    CheckOutside(kName, "x", x, arrays);

    workspace.kept_.reset();
    const ModelView<T> y = arrays.Model(arrays.y);
    if (batch * tokens > 0 || count > 0) {
      const Passes passes(parameters_, *products_, arrays, executor);
      passes.WriteOffsets();
      passes.LoadStates(options.initial_state, options.slots);
      passes.Project(x);
      passes.PrepareTokens();
      passes.RunChunks();
      passes.StoreStates(options.final_state, options.slots);
      passes.Normalize();
      passes.ProjectOutput(y);
    }
    if (options.keep_for_backward) {
      workspace.kept_ = std::make_unique<const KeptForward<T>>(sizes(), x, arrays.call);
    }
    return y;
  }

  // One or more tokens for each of N sequences, which continue from the state and advance it:
  // x, y [N, L, D], L at most state.tokens(); y may be x. slots [N], in host memory, names the slot
  // of each sequence; -1 skips it, and its y is left as it is; left out: slot n.
  void Step(const ModelView<const T>& x, State& state, const ModelView<T>& y,
            const IndexList& slots = {}, const Executor& executor = {}) const {
    constexpr const char* kName = "KlaLayer::Step";
    const Index count = x.template extent<Batch>(), tokens = x.template extent<Time>();
    CheckRows(kName, "x", x, {count, tokens, sizes().model_dim});
    CheckRows(kName, "y", y, x.extents());
    KLA_CHECK(internal::RegionOf(y).empty || internal::RegionOf(y).ElementsAreDistinct(), kName,
              "y", "an output whose elements do not overlap each other",
              "strides smaller than the axes inside them");
    CheckState(kName, "state", &state, slots, count);
    state.recurrent().CheckSlots(kName, slots, count);
    KLA_CHECK(tokens <= state.tokens(), kName, "x",
              "at most " + std::to_string(state.tokens()) + " tokens, as in MakeState",
              std::to_string(tokens));
    if (count * tokens == 0) return;

    const Index stride = ProjectedStride(sizes()), width = sizes().value_width();
    const DeviceProjections<Platform, T> projections(parameters_, *products_, executor);
    const auto& memory = state.product_memory();
    // One token of one sequence: the three kernels overlap. What each reads before it waits for the
    // one ahead was there before the first began.
    const bool overlaps = projections.Input(x, state.projected(), memory) && count * tokens == 1;
    const auto step = [&](Index t, const auto& launcher) {
      using Columns = std::array<Index, 2>;
      RunLayerStep<StepSize>(
          LayerStepArgs<T>{
              .projected = {state.projected() + t * stride,
                            Columns{count, sizes().projected_width()}, Columns{tokens * stride, 1}},
              .o = {state.z() + t * width, Columns{count, width}, Columns{tokens * width, 1}},
              .conv = parameters_.conv_weight(),
              .a_log = parameters_.a_log(),
              .dt_bias = parameters_.dt_bias(),
              .step_bias = parameters_.step_bias(),
              .norm = parameters_.norm_weight(),
              .slots = slots,
              .scale = config_.scale,
              .epsilon = config_.epsilon,
              .norm_epsilon = config_.norm_epsilon,
              .grouping = config_.grouping},
          state, launcher);
    };
    if (overlaps) {
      step(0, Platform::MakeOverlappingLauncher(executor));
    } else {
      for (Index t = 0; t < tokens; ++t) step(t, Platform::MakeLauncher(executor));
    }
    // y of runs of sequences that are not skipped.
    for (Index n = 0; n < count;) {
      Index end = n;
      while (end < count && (slots.is_null() || slots[end] != -1)) ++end;
      if (end > n) {
        const ModelView<T> rows(y.data() + n * y.strides()[0], {end - n, tokens, sizes().model_dim},
                                y.strides());
        projections.Output(state.z() + n * tokens * width, rows, memory, overlaps);
      }
      n = std::max(end, n + 1);
    }
  }

  // dy [B, T, D] -> dx [B, T, D], which lies in the workspace until its next Backward, and the
  // gradient of every parameter. For the workspace of the Forward that made y, with unchanged
  // parameters.
  ModelView<const T> Backward(const ModelView<const T>& dy, Workspace& workspace,
                              Gradients& gradients, GradientMode mode = GradientMode::kOverwrite,
                              const Executor& executor = {}) const {
    constexpr const char* kName = "KlaLayer::Backward";
    const auto* kept = workspace.kept_.get();
    KLA_CHECK(kept != nullptr, kName, "workspace",
              "one that a Forward filled with keep_for_backward", "one without");
    KLA_CHECK(kept->sizes == sizes(), kName, "workspace", "that of a layer of these sizes",
              "that of another");
    CheckRows(kName, "dy", dy, kept->x.extents());
    KLA_CHECK(gradients.sizes() == sizes(), kName, "gradients",
              "those of a layer of these sizes, as MakeGradients makes them", "those of another");
    KLA_CHECK(static_cast<const void*>(&gradients) != &parameters_, kName, "gradients",
              "parameters of their own, as MakeGradients makes them", "those of the layer");
    const Arrays arrays(config_, sizes(), kept->call, workspace.data());
    CheckOutside(kName, "dy", dy, arrays);

    const ModelView<T> dx = arrays.Model(arrays.dx);
    const bool accumulate = mode == GradientMode::kAccumulate;
    if (kept->call.Rows() == 0) {
      if (!accumulate) gradients.SetZero(executor);
      return dx;
    }
    const Passes passes(parameters_, *products_, arrays, executor);
    passes.BackwardOutput(dy, gradients, accumulate);
    passes.BackwardNormalize();
    passes.BackwardChunks();
    passes.BackwardTokens();
    passes.SumSmallGradients(gradients, accumulate);
    passes.BackwardProject(kept->x, dx, gradients, accumulate);
    return dx;
  }

 private:
  using Arrays = DeviceArrays<Platform, Shape, StepSize, T>;
  using Passes = DevicePasses<Platform, Shape, StepSize, T>;

  static LayerCall CallOf(Index batch, Index tokens, const Options& options) {
    return {.batch = batch,
            .tokens = tokens,
            .cu_seqlens = options.cu_seqlens,
            .loads_state = options.initial_state != nullptr,
            .stores_state = options.final_state != nullptr,
            .keeps = options.keep_for_backward};
  }

  // x or dy, which are read while the workspace is written.
  void CheckOutside(const char* operation, const char* name, const ModelView<const T>& view,
                    const Arrays& arrays) const {
    const View<const T, Extent<Model>> memory(arrays.y,
                                              {static_cast<Index>(arrays.bytes / sizeof(T))});
    KLA_CHECK(!internal::MayOverlap(internal::RegionOf(view), internal::RegionOf(memory)),
              operation, name, "memory outside the workspace", "a view into it");
  }
  template <class V>
  void CheckRows(const char* operation, const char* name, const V& view,
                 const typename V::Sizes& expected) const {
    KLA_CHECK(view.extents() == expected, operation, name,
              "[B, T, D] = " + internal::ShapeString(expected.data(), expected.size()),
              view.is_null() ? "a null view" : view.ShapeText());
    const bool empty = expected[0] == 0 || expected[1] == 0;
    KLA_CHECK(empty || !view.is_null(), operation, name, "data", "a null pointer");
    CheckAligned(operation, name, view.data());
  }
  void CheckState(const char* operation, const char* name, const State* state,
                  const IndexList& slots, Index count) const {
    if (state == nullptr) return;
    KLA_CHECK(state->sizes() == sizes(), operation, name, "a state of a layer of these sizes",
              "that of another");
    internal::ArgumentCheck<Platform, Shape>(operation).ReadSlots(slots, state->slots(), count);
  }

  KlaLayerConfig config_;
  Parameters parameters_;
  std::shared_ptr<Products> products_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_KLA_LAYER_H_
