// SPDX-License-Identifier: Apache-2.0
// layer/device: the parameters of a layer in device memory, over a platform
// (backend/cuda/decode/state.h).
#ifndef KLA_LAYER_DEVICE_PARAMETERS_H_
#define KLA_LAYER_DEVICE_PARAMETERS_H_

#include <algorithm>
#include <vector>

#include "kla/core/check.h"
#include "kla/core/scalar.h"
#include "kla/layer/config.h"
#include "kla/layer/parameters.h"
#include "kla/math/convolution.h"
#include "kla/op/decode_state.h"

namespace kla::internal::device {

// The tensors of KlaParameters, weights of linear maps as T, the rest as float. Zero until Load.
// With T = float also their gradients.
template <class Platform, class T>
class DeviceParameters {
 public:
  using Executor = typename Platform::Executor;

  explicit DeviceParameters(const LayerSizes& sizes, const Executor& executor = {})
      : sizes_(sizes),
        output_(RoundUp(sizes.projected_width() * sizes.model_dim)),
        linear_(output_ + sizes.model_dim * sizes.value_width()),
        a_log_(kConvWidth * sizes.conv_channels()),
        small_(a_log_ + 3 * sizes.value_heads + sizes.value_dim) {
    SetZero(executor);
  }

  const LayerSizes& sizes() const { return sizes_; }
  Index size_bytes() const { return static_cast<Index>(linear_.Bytes() + small_.Bytes()); }

  void SetZero(const Executor& executor = {}) {
    linear_.Zero(0, linear_.size(), Platform::Queue(executor));
    small_.Zero(0, small_.size(), Platform::Queue(executor));
  }

  // From and to the parameters of a layer of the same sizes in host memory, in whatever type they
  // have there: rounded to nearest. Both wait for the copies.
  template <class U>
  void Load(const KlaParameters<U>& host, const Executor& executor = {}) {
    CheckSizes("KlaParameters::Load", host.sizes());
    ForEachTensor(host, [&](const U* from, auto* to, Index count) {
      using V = std::remove_pointer_t<decltype(to)>;
      std::vector<V> values(static_cast<std::size_t>(count), V(0.0f));
      std::transform(from, from + count, values.begin(),
                     [](const U& value) { return internal::ConvertElement<V>(value); });
      Platform::CopyAndWait(const_cast<const V*>(values.data()), to, count, executor);
    });
  }
  template <class U>
  void Store(KlaParameters<U>& host, const Executor& executor = {}) const {
    CheckSizes("KlaParameters::Store", host.sizes());
    ForEachTensor(host, [&](U* to, auto* from, Index count) {
      using V = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
      std::vector<V> values(static_cast<std::size_t>(count), V(0.0f));
      Platform::CopyAndWait(const_cast<const V*>(from), values.data(), count, executor);
      std::transform(values.begin(), values.end(), to,
                     [](const V& value) { return internal::ConvertElement<U>(value); });
    });
  }

  // Device pointers; shapes as in KlaParameters. Everything but the weights of linear maps lies
  // together, conv_weight first, in this order.
  T* input_weight() const { return linear_.data(); }             // [projected_width, D]
  T* output_weight() const { return linear_.data() + output_; }  // [D, HV V]
  float* small_weights() const { return small_.data(); }
  float* conv_weight() const { return small_.data(); }  // [conv_channels, 4]
  float* a_log() const { return small_.data() + a_log_; }
  float* dt_bias() const { return a_log() + sizes_.value_heads; }
  float* step_bias() const { return dt_bias() + sizes_.value_heads; }
  float* norm_weight() const { return step_bias() + sizes_.value_heads; }

 private:
  // Matrices begin on 256 bytes.
  static Index RoundUp(Index count) {
    constexpr Index kUnit = 256 / static_cast<Index>(sizeof(T));
    return (count + kUnit - 1) / kUnit * kUnit;
  }
  void CheckSizes(const char* operation, const LayerSizes& given) const {
    KLA_CHECK(given == sizes_, operation, "host", "parameters of a layer of the same sizes",
              "those of another");
  }
  // f(host tensor, device tensor, elements) for all of them.
  template <class Host, class F>
  void ForEachTensor(Host& host, const F& f) const {
    f(host.input_weight(), input_weight(), sizes_.projected_width() * sizes_.model_dim);
    f(host.output_weight(), output_weight(), sizes_.model_dim * sizes_.value_width());
    f(host.conv_weight(), conv_weight(), kConvWidth * sizes_.conv_channels());
    f(host.a_log(), a_log(), sizes_.value_heads);
    f(host.dt_bias(), dt_bias(), sizes_.value_heads);
    f(host.step_bias(), step_bias(), sizes_.value_heads);
    f(host.norm_weight(), norm_weight(), sizes_.value_dim);
  }

  LayerSizes sizes_;
  Index output_;
  typename Platform::template Memory<T> linear_;
  Index a_log_;
  typename Platform::template Memory<float> small_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_PARAMETERS_H_
