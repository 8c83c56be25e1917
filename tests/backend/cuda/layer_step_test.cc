// SPDX-License-Identifier: Apache-2.0
// LayerStep of the backend Cuda: its kernel body on this processor.
#include "backend/cuda/decode_on_host.h"
#include "backend/cuda/layer_step_suite.h"
#include "kla/backend/cuda/layer/step.h"

namespace kla::test {

struct LayerStepOnHost {
  static constexpr std::string_view kName = "LayerStepOnHost";
};

}  // namespace kla::test

namespace kla {

template <HeadShape Shape, class T, class State>
class LayerState<test::LayerStepOnHost, Shape, T, State>
    : public internal::device::PooledLayerState<test::HostPlatform, Shape, T, State> {
  using internal::device::PooledLayerState<test::HostPlatform, Shape, T, State>::PooledLayerState;
};

template <class StepSize, class T, class State, class Shape>
struct Kernel<LayerStepOp<StepSize, T, State>, test::LayerStepOnHost, Shape> {
  template <class Exec>
  static void Run(const LayerStepArgs<T>& args,
                  LayerState<test::LayerStepOnHost, Shape, T, State>& state, const Exec& executor) {
    internal::device::RunLayerStep<StepSize>(args, state, internal::device::HostLauncher(executor));
  }
};

}  // namespace kla

namespace kla::test {
namespace {

struct OnHost {
  using Backend = LayerStepOnHost;
  template <class Shape, class StepSize, class T, class State>
  static void Step(const LayerStepArgs<T>& args, LayerState<Backend, Shape, T, State>& state) {
    LayerStep<Backend, Shape, StepSize>(args, state);
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, LayerStepTest, OnHost);

}  // namespace
}  // namespace kla::test
