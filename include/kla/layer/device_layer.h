// SPDX-License-Identifier: Apache-2.0
// layer: KlaLayer on a device, over a platform: that of PooledState (backend/cuda/decode_state.h),
// and besides
//   Products                      how matrices are multiplied: Multiply(a, b, c, memory, executor,
//                                 overlaps), c = a b^T
//   MakeOverlappingLauncher(executor)   runs kernel bodies that may begin before the kernel ahead
//                                 of them has ended (launch.cuh)
//   ChunkForwardBytes<Shape, StepSize>(args), RunChunkForward<Shape, StepSize>(args, memory,
//                                 bytes, executor)
// The platform is CudaLayerPlatform (cuda_layer.cuh) or, under the tests, the host.
#ifndef KLA_LAYER_DEVICE_LAYER_H_
#define KLA_LAYER_DEVICE_LAYER_H_

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>

#include "kla/backend/cuda/chunk_plan.h"
#include "kla/backend/cuda/layer_step.h"
#include "kla/core/check.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/device_layer_kernels.h"
#include "kla/layer/device_parameters.h"
#include "kla/layer/device_state.h"
#include "kla/layer/kla_layer_declaration.h"
#include "kla/layer/panels.h"
#include "kla/layer/parameters.h"
#include "kla/op/argument_check.h"
#include "kla/op/chunk_forward.h"
#include "kla/op/memory_region.h"

namespace kla::device {

// The interface of kla::KlaLayer (kla_layer.h), on views of device memory and with an executor that
// says where calls are queued; they return at once and allocate nothing, so that Step can be
// captured in a graph. T is float, bfloat16 or float16. Inference: nothing is kept for a Backward.
template <class Platform, HeadShape Shape, StepSizePolicy StepSize, class T, class StateElement>
class DeviceLayer {
  static_assert(kIsStored<T>,
                "kla: KlaLayer on Cuda takes float, bfloat16 and float16; for double use a CPU "
                "backend");

 public:
  using Parameters = DeviceParameters<Platform, T>;
  using Workspace = DeviceWorkspace<Platform>;
  using State = DeviceLayerState<Platform, Shape, T, StateElement>;
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
  // Step may then take up to `tokens` tokens of each sequence in a call.
  State MakeState(Index slots, Index tokens = 1) const { return State(sizes(), slots, tokens); }
  // For Forward with x [batch, tokens, D] and these options.
  std::size_t WorkspaceBytes(Index batch, Index tokens, const Options& options = {}) const {
    // Counted from an address at which nothing is read or written.
    return Arrays(*this, batch, tokens, options, reinterpret_cast<void*>(1024)).bytes;
  }
  Workspace MakeWorkspace(Index batch, Index tokens, const Options& options = {}) const {
    return Workspace(WorkspaceBytes(batch, tokens, options));
  }

  // x [B, T, D] -> y [B, T, D], which lies in the workspace until its next Forward.
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
    const Arrays arrays(*this, batch, tokens, options, workspace.data());
    KLA_CHECK(workspace.bytes() >= arrays.bytes, kName, "workspace",
              std::to_string(arrays.bytes) + " bytes (WorkspaceBytes)",
              std::to_string(workspace.bytes()));
    const ModelView<T> y(arrays.y, {batch, tokens, sizes().model_dim});
    KLA_CHECK(!internal::MayOverlap(internal::RegionOf(x), internal::RegionOf(y)), kName, "x",
              "memory outside the workspace", "a view into it");
    if (batch * tokens > 0 || count > 0) Run(x, y, arrays, options, count, executor);
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

    const Index stride = State::ProjectedStride(sizes()), width = sizes().value_width();
    const auto& memory = state.product_memory();
    // One token of one sequence: the three kernels overlap. What each reads before it waits for the
    // one ahead was there before the first began.
    const bool overlaps = Project(x, state.projected(), memory, executor) && count * tokens == 1;
    const auto step = [&](Index t, const auto& launcher) {
      using Columns = std::array<Index, 2>;
      RunLayerStep<Platform, Shape, StepSize>(
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
          static_cast<PooledLayerState<Platform, Shape, T, StateElement>&>(state), launcher);
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
        ProjectOutput(state.z() + n * tokens * width, rows, memory, executor, overlaps);
      }
      n = std::max(end, n + 1);
    }
  }

  template <class... Arguments>
  void Backward(Arguments&&...) const {
    static_assert(internal::kAlwaysFalse<void(Arguments...)>,
                  "kla: KlaLayer on Cuda has no Backward yet; train on a CPU backend, or put "
                  "ChunkForward and ChunkBackward of Cuda into a layer of your own");
  }

 private:
  // A piece of memory that a product may use.
  struct ProductMemory {
    unsigned char* pointer;
    Index count;
    unsigned char* data() const { return pointer; }
    Index size() const { return count; }
  };

  // The arrays of a Forward in its workspace.
  struct Arrays {
    Arrays(const DeviceLayer& layer, Index batch_size, Index token_count, const Options& options,
           void* memory)
        : batch(batch_size), tokens(token_count) {
      const LayerSizes& s = layer.sizes();
      Carver carver(memory);
      const Index rows = batch * tokens, count = SequenceCount(options.cu_seqlens, batch);
      y = carver.template Take<T>(rows * s.model_dim);
      projected = carver.template Take<T>(rows * State::ProjectedStride(s));
      mixed = carver.template Take<T>(rows * s.conv_channels());
      o = carver.template Take<T>(rows * s.value_width());
      g = carver.template Take<float>(rows * s.value_heads);
      eta = carver.template Take<float>(rows * s.value_heads);
      if (!options.cu_seqlens.is_null()) offsets = carver.template Take<Index>(count + 1);
      if (options.initial_state != nullptr) {
        windows = carver.template Take<T>(count * kPast * s.conv_channels());
      }
      if (options.initial_state != nullptr || options.final_state != nullptr) {
        states = carver.template Take<float>(count * s.state_size());
      }
      product = {carver.template Take<unsigned char>(kForwardProductBytes), kForwardProductBytes};
      const Index before = static_cast<Index>(carver.used());
      chunk_bytes = Platform::template ChunkForwardBytes<Shape, StepSize>(
          layer.ChunkArgs(*this, options, count));
      chunk = carver.template Take<unsigned char>(static_cast<Index>(chunk_bytes));
      bytes = static_cast<std::size_t>(before) + (chunk_bytes + 1023) / 1024 * 1024;
    }

    Index batch, tokens;
    T *y, *projected, *mixed, *o;
    float *g, *eta, *states = nullptr;
    Index* offsets = nullptr;
    T* windows = nullptr;
    ProductMemory product;
    unsigned char* chunk;
    std::size_t chunk_bytes, bytes;
  };

  ChunkForwardArgs<T, float> ChunkArgs(const Arrays& a, const Options& options, Index count) const {
    const LayerSizes& s = sizes();
    const Index row = s.conv_channels();
    const KeyView<const T> q(a.mixed, {a.batch, a.tokens, s.key_heads, s.key_dim},
                             {a.tokens * row, row, s.key_dim, 1});
    ChunkForwardArgs<T, float> args = {.q = q,
                                       .k = {a.mixed + s.key_width(), q.extents(), q.strides()},
                                       .v = {a.mixed + 2 * s.key_width(),
                                             {a.batch, a.tokens, s.value_heads, s.value_dim},
                                             {a.tokens * row, row, s.value_dim, 1}},
                                       .g = {a.g, {a.batch, a.tokens, s.value_heads}},
                                       .eta = {a.eta, {a.batch, a.tokens, s.value_heads}},
                                       .o = {a.o, {a.batch, a.tokens, s.value_heads, s.value_dim}},
                                       .cu_seqlens = options.cu_seqlens,
                                       .scale = config_.scale,
                                       .epsilon = config_.epsilon,
                                       .grouping = config_.grouping};
    const StateView<float> states(a.states, {count, s.value_heads, s.key_dim, s.value_dim});
    if (options.initial_state != nullptr) args.initial_state = states;
    if (options.final_state != nullptr) args.final_state = states;
    return args;
  }

  void Run(const ModelView<const T>& x, const ModelView<T>& y, const Arrays& a,
           const Options& options, Index count, const Executor& executor) const {
    const LayerSizes& s = sizes();
    const auto launcher = Platform::MakeLauncher(executor);
    const Index rows = a.batch * a.tokens, stride = State::ProjectedStride(s);
    for (Index first = 0; a.offsets != nullptr && first <= count;) {
      WriteOffsetsBody body{a.offsets + first, 0, {}};
      for (; first <= count && body.count < WriteOffsetsBody::kCapacity; ++first) {
        body.values[body.count++] = options.cu_seqlens[first];
      }
      launcher.Launch("KlaLayer: offsets", body, 1);
    }
    if (const State* initial = options.initial_state; initial != nullptr) {
      ForEachRun(options.slots, {}, 1, count, [&](const auto& sequences, Index run) {
        using Sequences = std::remove_cvref_t<decltype(sequences)>;
        launcher.Launch(
            "KlaLayer: windows",
            GatherWindowsBody<T, Sequences>{initial->windows(), initial->positions(), a.windows,
                                            s.conv_channels(), s.value_heads, sequences},
            run);
      });
      Platform::Zero(a.states, count * s.state_size(), executor);
      initial->recurrent().Store(States(a, count), options.slots, executor);
    }

    Project(x, a.projected, a.product, executor);
    const ConvolveBody<T> convolve{.x = a.projected,
                                   .y = a.mixed,
                                   .x_stride = stride,
                                   .rows = rows,
                                   .taps = parameters_.conv_weight(),
                                   .windows = a.windows,
                                   .channels = s.conv_channels(),
                                   .sequences = {a.offsets, a.tokens, count}};
    launcher.Launch("KlaLayer: convolution", convolve, convolve.Blocks());
    const TokenGatesBody<T> gates{.a = a.projected + s.decay_column(),
                                  .stride = stride,
                                  .rows = rows,
                                  .heads = s.value_heads,
                                  .a_log = parameters_.a_log(),
                                  .dt_bias = parameters_.dt_bias(),
                                  .step_bias = parameters_.step_bias(),
                                  .g = a.g,
                                  .eta = a.eta};
    launcher.Launch("KlaLayer: gates", gates, gates.Blocks());
    Platform::template RunChunkForward<Shape, StepSize>(ChunkArgs(a, options, count), a.chunk,
                                                        a.chunk_bytes, executor);
    if (State* final_state = options.final_state; final_state != nullptr) {
      ForEachRun(options.slots, {}, 1, count, [&](const auto& sequences, Index run) {
        using Sequences = std::remove_cvref_t<decltype(sequences)>;
        launcher.Launch(
            "KlaLayer: windows",
            SaveWindowsBody<T, Sequences>{convolve, final_state->windows(),
                                          final_state->positions(), s.value_heads, sequences},
            run);
      });
      final_state->recurrent().Load(States(a, count), options.slots, executor);
    }
    const GatedNormBody<T> norm{.o = a.o,
                                .u = a.projected + s.gate_column(),
                                .u_stride = stride,
                                .rows = rows,
                                .heads = s.value_heads,
                                .value_dim = s.value_dim,
                                .weight = parameters_.norm_weight(),
                                .epsilon = static_cast<float>(config_.norm_epsilon)};
    launcher.Launch("KlaLayer: norm", norm, norm.Blocks());
    ProjectOutput(a.o, y, a.product, executor);
  }

  StateView<float> States(const Arrays& a, Index count) const {
    return {a.states, {count, sizes().value_heads, sizes().key_dim, sizes().value_dim}};
  }

  // projected = x W_in^T. True if that was the kernel for one row.
  template <class Memory>
  bool Project(const ModelView<const T>& x, T* projected, const Memory& memory,
               const Executor& executor) const {
    const Index stride = State::ProjectedStride(sizes()), width = sizes().projected_width();
    bool one_row = false;
    internal::ForEachPanel(x, [&](Index row, const internal::MatrixRef<const T>& panel) {
      const internal::MatrixRef<const T> weight{parameters_.input_weight(), width, panel.columns,
                                                panel.columns};
      one_row = products_->Multiply(
          panel, weight,
          internal::MatrixRef<T>{projected + row * stride, panel.rows, width, stride}, memory,
          executor);
    });
    return one_row;
  }
  // y = z W_o^T
  template <class Memory>
  void ProjectOutput(const T* z, const ModelView<T>& y, const Memory& memory,
                     const Executor& executor, bool overlaps = false) const {
    const Index width = sizes().value_width();
    internal::ForEachPanel(y, [&](Index row, const internal::MatrixRef<T>& panel) {
      const internal::MatrixRef<const T> weight{parameters_.output_weight(), panel.columns, width,
                                                width};
      products_->Multiply(internal::MatrixRef<const T>{z + row * width, panel.rows, width, width},
                          weight, panel, memory, executor, overlaps);
    });
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

}  // namespace kla::device

#endif  // KLA_LAYER_DEVICE_LAYER_H_
