// SPDX-License-Identifier: Apache-2.0
// Language-model example, blocks: one residual block, norm → mixer, norm → feed-forward.
#ifndef KLA_EXAMPLES_LM_BLOCK_H_
#define KLA_EXAMPLES_LM_BLOCK_H_

#include <cstdint>
#include <random>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/mixer.h"
#include "examples/lm/rms_norm.h"
#include "examples/lm/swiglu.h"
#include "examples/lm/tensor_list.h"

namespace lm {

//   x ← x + Mixer(RmsNorm₁(x))
//   x ← x + SwiGlu(RmsNorm₂(x))                 x [rows, D], in place
template <Mixer M>
struct Block {
  using T = typename M::Scalar;

  struct Workspace {
    typename RmsNorm<T>::Workspace mixer_norm;
    typename RmsNorm<T>::Workspace feed_forward_norm;
    typename M::Workspace mixer;
    typename SwiGlu<T>::Workspace feed_forward;
    Matrix<T> mixer_input;         // RmsNorm₁(x) [rows, D]
    Matrix<T> mixer_output;        // [rows, D]
    Matrix<T> feed_forward_input;  // RmsNorm₂(x) [rows, D]
    Matrix<T> d_input;             // gradient of a sublayer's input [rows, D]
  };

  Block(const typename M::Config& config, std::int64_t model_dim, std::int64_t hidden_dim)
      : mixer_norm(model_dim),
        mixer(config, model_dim),
        feed_forward_norm(model_dim),
        feed_forward(model_dim, hidden_dim) {}

  void Initialize(std::mt19937_64& random) {
    mixer_norm.Initialize();
    mixer.Initialize(random);
    feed_forward_norm.Initialize();
    feed_forward.Initialize(random);
  }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    mixer_norm.AppendTensors(prefix + ".mixer_norm", list);
    mixer.AppendTensors(prefix + ".mixer", list);
    feed_forward_norm.AppendTensors(prefix + ".feed_forward_norm", list);
    feed_forward.AppendTensors(prefix + ".feed_forward", list);
  }

  void Forward(Window window, Matrix<T>& x, Workspace& w, typename M::State* state) const {
    mixer_norm.Forward(x, w.mixer_input, w.mixer_norm);
    mixer.Forward(w.mixer_input, window, w.mixer_output, w.mixer, state);
    x += w.mixer_output;
    feed_forward_norm.Forward(x, w.feed_forward_input, w.feed_forward_norm);
    feed_forward.Forward(w.feed_forward_input, x, w.feed_forward);
  }

  // dx [rows, D] in place: the gradient of the output becomes that of the input.
  void Backward(Window window, Matrix<T>& dx, Workspace& w, Block& gradient) const {
    feed_forward.Backward(w.feed_forward_input, dx, w.feed_forward, w.d_input,
                          gradient.feed_forward);
    feed_forward_norm.Backward(w.d_input, w.feed_forward_norm, dx, gradient.feed_forward_norm);
    mixer.Backward(w.mixer_input, dx, window, w.mixer, w.d_input, gradient.mixer);
    mixer_norm.Backward(w.d_input, w.mixer_norm, dx, gradient.mixer_norm);
  }

  // One token a sequence, x [batch, D] in place.
  void Step(Matrix<T>& x, Workspace& w, typename M::State& state) const {
    mixer_norm.Forward(x, w.mixer_input, w.mixer_norm);
    mixer.Step(w.mixer_input, state, w.mixer_output);
    x += w.mixer_output;
    feed_forward_norm.Forward(x, w.feed_forward_input, w.feed_forward_norm);
    feed_forward.Forward(w.feed_forward_input, x, w.feed_forward);
  }

  RmsNorm<T> mixer_norm;
  M mixer;
  RmsNorm<T> feed_forward_norm;
  SwiGlu<T> feed_forward;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_BLOCK_H_
