// SPDX-License-Identifier: Apache-2.0
// LayerStep of the backend Cuda: its kernel bodies on this processor, that for few blocks and, as
// on a card of one multiprocessor, that for many.
#include "backend/cuda/decode_on_host.h"
#include "backend/cuda/layer_step_suite.h"
#include "kla/backend/cuda/layer/step.h"

namespace kla::test {

template <int kMultiprocessors>
struct LayerStepOnHost {
  static constexpr std::string_view kName = "LayerStepOnHost";
};

}  // namespace kla::test

namespace kla {

template <int kMultiprocessors, HeadShape Shape, class T, class State>
class LayerState<test::LayerStepOnHost<kMultiprocessors>, Shape, T, State>
    : public internal::device::PooledLayerState<test::HostPlatform, Shape, T, State> {
  using internal::device::PooledLayerState<test::HostPlatform, Shape, T, State>::PooledLayerState;
};

template <class StepSize, class T, class State, class Shape, int kMultiprocessors>
struct Kernel<LayerStepOp<StepSize, T, State>, test::LayerStepOnHost<kMultiprocessors>, Shape> {
  template <class Exec>
  static void Run(const LayerStepArgs<T>& args,
                  LayerState<test::LayerStepOnHost<kMultiprocessors>, Shape, T, State>& state,
                  const Exec& executor) {
    internal::device::RunLayerStep<StepSize>(
        args, state, internal::device::HostLauncher(executor, kMultiprocessors));
  }
};

}  // namespace kla

namespace kla::test {
namespace {

template <int kMultiprocessors>
struct OnHost {
  using Backend = LayerStepOnHost<kMultiprocessors>;
  template <class Shape, class StepSize, class T, class State>
  static void Step(const LayerStepArgs<T>& args, LayerState<Backend, Shape, T, State>& state) {
    LayerStep<Backend, Shape, StepSize>(args, state);
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, LayerStepTest, OnHost<132>);
INSTANTIATE_TYPED_TEST_SUITE_P(OnHostManyBlocks, LayerStepTest, OnHost<1>);

}  // namespace
}  // namespace kla::test
