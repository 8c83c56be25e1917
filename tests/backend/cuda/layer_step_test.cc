// SPDX-License-Identifier: Apache-2.0
// LayerStep of the backend Cuda: its kernel body on this processor.
#include "backend/cuda/decode_on_host.h"
#include "backend/cuda/layer_step_suite.h"

namespace kla::test {
namespace {

struct OnHost {
  using Platform = HostPlatform;
  template <class Shape, class StepSize, class T, class State>
  static void Step(const LayerStepArgs<T>& args,
                   internal::device::PooledLayerState<HostPlatform, Shape, T, State>& state) {
    internal::device::RunLayerStep<HostPlatform, Shape, StepSize>(
        args, state, internal::device::HostLauncher(Serial{}));
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnHost, LayerStepTest, OnHost);

}  // namespace
}  // namespace kla::test
