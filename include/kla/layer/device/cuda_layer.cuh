// SPDX-License-Identifier: Apache-2.0
// layer/device: KlaLayer on a device. Needs cuBLAS, which the target kla::cuda links where CMake
// finds it; with nvcc alone, -lcublas.
//
//   kla::KlaLayer<kla::Cuda, kla::Shape<96, 192>, kla::Kla, kla::bfloat16> layer(
//       {.model_dim = 1536, .num_heads = 12});
//   layer.parameters().Load(host_layer.parameters());          // or Initialize(random)
//
//   auto workspace = layer.MakeWorkspace(batch, tokens);       // training
//   auto gradients = layer.MakeGradients();
//   auto y = layer.Forward(x, workspace, {}, {.stream = stream});
//   auto dx = layer.Backward(dy, workspace, gradients, kla::GradientMode::kOverwrite,
//                            {.stream = stream});
//
//   auto state = layer.MakeState(/*slots=*/1);                 // generation
//   kla::ForwardOptions<decltype(state)> options = {.final_state = &state,
//                                                   .keep_for_backward = false};
//   auto room = layer.MakeWorkspace(/*batch=*/1, prompt_length, options);
//   layer.Forward(prompt, room, options, {.stream = stream});
//   layer.Step(x_t, state, y_t, {}, {.stream = stream});
//
// The same names and functions as on a CPU (host/kla_layer.h); x, y and the parameters lie in
// device memory, T may be float, bfloat16 or float16; gradients of parameters are float. All calls
// may be captured in a graph. A Step is a product, one kernel (LayerStep) and a product; a Forward
// has three kernels and ChunkForward between its products, a Backward five and ChunkBackward. What
// a Forward keeps costs it a twentieth of its time (32K tokens of the layer below on an H100: 2.66
// instead of 2.54 ms), and its workspace, in which Backward works too, is more than twice as large
// (3.3 instead of 1.3 GB).
//
// One H200, 2026-11-23, the layer of the published 0.4B model (bench/bench_cuda_layer.cu), bf16,
// one sequence: a Step takes
//   16.1 us as a replayed graph, 19.1 us call by call
//   14.2 us                      15.5 us   its three kernels overlapping
// and flash-linear-attention 0.6.0's GatedDeltaNet, on such a device, 41.9 and 844 us. 256
// sequences take 194 us, a Forward of 1 x 32K tokens 2.6 ms.
#ifndef KLA_LAYER_DEVICE_CUDA_LAYER_CUH_
#define KLA_LAYER_DEVICE_CUDA_LAYER_CUH_

#include "kla/backend/cuda/chunk.cuh"
#include "kla/backend/cuda/layer/products.cuh"
#include "kla/backend/cuda/layer_step.cuh"
#include "kla/layer/device/kla_layer.h"

namespace kla {

namespace internal::device {

struct CudaLayerPlatform : DevicePlatform {
  static constexpr std::string_view kName = "Cuda";
  using Products = CudaProducts;
  template <HeadShape Shape, class T, class State>
  using LayerState = kla::LayerState<Cuda, Shape, T, State>;

  static OverlappingLauncher MakeOverlappingLauncher(const Executor& executor) {
    return OverlappingLauncher(executor.stream);
  }

  template <class T>
  static void Zero(T* data, Index count, const Executor& executor) {
    CheckCuda(
        cudaMemsetAsync(data, 0, static_cast<std::size_t>(count) * sizeof(T), executor.stream),
        "clearing device memory");
  }
  template <class Shape, class StepSize, class T, class State>
  static std::size_t ChunkForwardBytes(const ChunkForwardArgs<T, State>& args) {
    return ChunkForwardWorkspaceBytes<Cuda, Shape, StepSize>(args);
  }
  template <class Shape, class StepSize, class T, class State>
  static void RunChunkForward(const ChunkForwardArgs<T, State>& args, void* memory,
                              std::size_t bytes, const Executor& executor) {
    ChunkForward<Cuda, Shape, StepSize>(
        args, Executor{.stream = executor.stream, .workspace = memory, .workspace_bytes = bytes});
  }
  template <class Shape, class StepSize, class T, class State>
  static std::size_t ChunkBackwardBytes(const ChunkBackwardArgs<T, State>& args) {
    return ChunkBackwardWorkspaceBytes<Cuda, Shape, StepSize>(args);
  }
  template <class Shape, class StepSize, class T, class State>
  static void RunChunkBackward(const ChunkBackwardArgs<T, State>& args, void* memory,
                               std::size_t bytes, const Executor& executor) {
    ChunkBackward<Cuda, Shape, StepSize>(
        args, Executor{.stream = executor.stream, .workspace = memory, .workspace_bytes = bytes});
  }
};

}  // namespace internal::device

template <HeadShape Shape, StepSizePolicy StepSize, class T, class StateElement>
class KlaLayer<Cuda, Shape, StepSize, T, StateElement>
    : public internal::device::DeviceLayer<internal::device::CudaLayerPlatform, Shape, StepSize, T,
                                           StateElement> {
  using internal::device::DeviceLayer<internal::device::CudaLayerPlatform, Shape, StepSize, T,
                                      StateElement>::DeviceLayer;
};

}  // namespace kla

#endif  // KLA_LAYER_DEVICE_CUDA_LAYER_CUH_
