// SPDX-License-Identifier: Apache-2.0
// Language-model example, mixers: kla::KlaLayer as a block of the model wants it.
#ifndef KLA_EXAMPLES_LM_KLA_MIXER_H_
#define KLA_EXAMPLES_LM_KLA_MIXER_H_

#include <cstdint>
#include <random>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"
#include "kla/layer.h"

namespace lm {

struct KlaMixerConfig {
  std::int64_t num_heads = 2;
};

// The step size decides what the layer is: kla::Kla, kla::Gdn, kla::Longhorn, ... Each call runs on
// the thread that makes it; the trainer gives every thread sequences of its own.
template <class Backend, kla::HeadShape Shape, kla::StepSizePolicy StepSize, class T>
class KlaMixer {
 public:
  using Scalar = T;
  using Config = KlaMixerConfig;
  using Layer = kla::KlaLayer<Backend, Shape, StepSize, T>;
  using Workspace = typename Layer::Workspace;
  using State = typename Layer::State;

  KlaMixer(const Config& config, std::int64_t model_dim)
      : layer_({.model_dim = model_dim, .num_heads = config.num_heads}) {}

  void Initialize(std::mt19937_64& random) { layer_.Initialize(random); }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    for (auto& [name, shape, values] : layer_.parameters().tensors()) {
      list.push_back({prefix + "." + name, shape, values});
    }
  }

  void Forward(const Matrix<T>& x, Window window, Matrix<T>& y, Workspace& workspace,
               State* state) const {
    const typename Layer::Options options{
        .initial_state = state, .final_state = state, .keep_for_backward = state == nullptr};
    y = Rows(layer_.Forward(View(x, window), workspace, options));
  }

  void Backward(const Matrix<T>&, const Matrix<T>& dy, Window window, Workspace& workspace,
                Matrix<T>& dx, KlaMixer& gradient) const {
    dx = Rows(layer_.Backward(View(dy, window), workspace, gradient.layer_.parameters(),
                              kla::GradientMode::kAccumulate));
  }

  State MakeState(std::int64_t batch) const { return layer_.MakeState(batch); }

  void Step(const Matrix<T>& x, State& state, Matrix<T>& y) const {
    y.resize(x.rows(), x.cols());
    const Window window{.batch = x.rows(), .time = 1};
    layer_.Step(View(x, window), state, kla::ModelView<T>(y.data(), Extents(y, window)));
  }

 private:
  static auto Extents(const Matrix<T>& m, Window window) {
    return typename kla::ModelView<T>::Sizes{window.batch, window.time, m.cols()};
  }
  static kla::ModelView<const T> View(const Matrix<T>& m, Window window) {
    return {m.data(), Extents(m, window)};
  }
  static Eigen::Map<const Matrix<T>> Rows(const kla::ModelView<const T>& view) {
    return {view.data(), view.template extent<kla::Batch>() * view.template extent<kla::Time>(),
            view.template extent<kla::Model>()};
  }

  Layer layer_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_KLA_MIXER_H_
