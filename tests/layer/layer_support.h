// SPDX-License-Identifier: Apache-2.0
// tests/layer: random layers and inputs.
#ifndef KLA_TESTS_LAYER_LAYER_SUPPORT_H_
#define KLA_TESTS_LAYER_LAYER_SUPPORT_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kla/kla.h"
#include "kla/layer.h"
#include "layer/naive_layer.h"
#include "support/array.h"
#include "support/own_threads.h"
#include "support/tolerance.h"

namespace kla::test {

template <class B, class Element, HeadShape S, StepSizePolicy Step = Kla,
          class StateElement = Accumulator<Element>>
struct LayerConfig {
  using Backend = B;
  using T = Element;
  using Shape = S;
  using StepSize = Step;
  using State = StateElement;
  using Layer = KlaLayer<Backend, Shape, StepSize, T, StateElement>;
};

// Simd_f32_Kla
struct LayerConfigName {
  template <class C>
  static std::string GetName(int /*position*/) {
    return std::string(C::Backend::kName) +
           (std::is_same_v<typename C::T, float> ? "_f32" : "_f64") + "_" +
           std::string(C::StepSize::kName) + (C::Shape::kKeyDim == kDynamic ? "_dynamic" : "") +
           (std::is_same_v<typename C::State, bfloat16> ? "_bf16state" : "");
  }
};

// Initialize, and then every parameter moved off the special value that it starts with.
template <class Layer>
Layer MakeLayer(const KlaLayerConfig& config, std::uint64_t seed = 1) {
  using T = typename Layer::Parameters::Element;
  Layer layer(config);
  std::mt19937_64 random(seed);
  layer.Initialize(random);
  std::normal_distribution<double> normal(0, 0.3);
  for (T& value : layer.parameters().values()) value += static_cast<T>(normal(random));
  return layer;
}

template <class T>
Array<ModelView<T>> RandomModel(Index batch, Index tokens, Index width, std::uint64_t seed = 2,
                                Placement placement = Placement::kContiguous) {
  Array<ModelView<T>> x({batch, tokens, width}, placement);
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  x.Fill([&] { return normal(random); });
  return x;
}

template <class T>
std::vector<double> Values(const ModelView<T>& view) {
  std::vector<double> values;
  for (Index b = 0; b < view.template extent<Batch>(); ++b) {
    for (Index t = 0; t < view.template extent<Time>(); ++t) {
      for (Index c = 0; c < view.template extent<Model>(); ++c) {
        values.push_back(static_cast<double>(view(b, t, c)));
      }
    }
  }
  return values;
}

// Tokens [begin, end) of every batch row.
template <class T>
ModelView<T> Tokens(const ModelView<T>& view, Index begin, Index end) {
  return ModelView<T>(view.data() + begin * view.template stride<Time>(),
                      {view.template extent<Batch>(), end - begin, view.template extent<Model>()},
                      view.strides());
}

}  // namespace kla::test

#endif  // KLA_TESTS_LAYER_LAYER_SUPPORT_H_
