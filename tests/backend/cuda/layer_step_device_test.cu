// SPDX-License-Identifier: Apache-2.0
// LayerStep of the backend Cuda on a device.
#include "backend/cuda/layer_step_suite.h"
#include "kla/cuda.cuh"
#include "support/device_copy.cuh"

namespace kla::test {
namespace {

using WeightView = View<const float, Extent<Model>>;

// Weights in device memory; null and misaligned pointers stay what they are.
class DeviceWeight {
 public:
  DeviceWeight(const float* host, Index size)
      : host_(host), copy_(WeightView(host, {host == nullptr ? 0 : size})) {}
  const float* data() const { return host_ == nullptr ? nullptr : copy_.view().data(); }

 private:
  const float* host_;
  DeviceCopy<WeightView> copy_;
};

struct OnDevice {
  using Backend = Cuda;
  template <class Shape, class StepSize, class T, class State>
  static void Step(const LayerStepArgs<T>& args, LayerState<Cuda, Shape, T, State>& state) {
    const bool overlap = args.o.data() == args.projected.data();
    const DeviceCopy projected(args.projected);
    const DeviceCopy o(args.o);
    const Index channels = state.sizes().conv_channels(), heads = state.sizes().value_heads;
    const DeviceWeight conv(args.conv, 4 * channels), a_log(args.a_log, heads),
        dt_bias(args.dt_bias, heads), step_bias(args.step_bias, heads),
        norm(args.norm, Shape::kValueDim);
    LayerStepArgs<T> on_device = args;
    on_device.projected = projected.view();
    on_device.o =
        overlap ? RowView<T>(const_cast<T*>(projected.view().data()), args.o.extents()) : o.view();
    on_device.conv = conv.data();
    on_device.a_log = a_log.data();
    on_device.dt_bias = dt_bias.data();
    on_device.step_bias = step_bias.data();
    on_device.norm = norm.data();
    LayerStep<Cuda, Shape, StepSize>(on_device, state);
    o.CopyBack();
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(OnDevice, LayerStepTest, OnDevice);

}  // namespace
}  // namespace kla::test
