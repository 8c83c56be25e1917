// SPDX-License-Identifier: Apache-2.0
// Language-model example, blocks: the gated feed-forward network, forward and backward.
#ifndef KLA_EXAMPLES_LM_SWIGLU_H_
#define KLA_EXAMPLES_LM_SWIGLU_H_

#include <cstdint>
#include <random>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"

namespace lm {

// With σ the logistic function, SiLU(a) = a σ(a):
//   [a | b] = x Wᵢₙᵀ        h = SiLU(a) ∘ b        y = h W_outᵀ
//   dh = dy W_out           db = dh ∘ SiLU(a)      da = dh ∘ b ∘ σ(a) (1 + a (1 − σ(a)))
//   dx = [da | db] Wᵢₙ      dWᵢₙ = [da | db]ᵀ x    dW_out = dyᵀ h
// x, y [rows, D]  a, b, h [rows, F]  Wᵢₙ [2F, D]  W_out [D, F].  6 D F multiply-adds a token and
// direction.  Shazeer, GLU Variants Improve Transformer, 2020.
template <class T>
struct SwiGlu {
  struct Workspace {
    Matrix<T> projected;  // [a | b] [rows, 2F]
    Matrix<T> sigmoid;    // σ(a) [rows, F]
    Matrix<T> hidden;     // h [rows, F]
    Matrix<T> d_hidden;   // dh [rows, F]
  };

  SwiGlu() = default;
  SwiGlu(std::int64_t model_dim, std::int64_t hidden_dim)
      : input(Matrix<T>::Zero(2 * hidden_dim, model_dim)),
        output(Matrix<T>::Zero(model_dim, hidden_dim)) {}

  void Initialize(std::mt19937_64& random) {
    InitializeLinear(input, random);
    InitializeLinear(output, random);
  }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    Append(list, prefix + ".input.weight", input);
    Append(list, prefix + ".output.weight", output);
  }

  // Adds the network's output to `y`, which already holds the residual path.
  void Forward(const Matrix<T>& x, Matrix<T>& y, Workspace& w) const {
    const Eigen::Index hidden_dim = output.cols();
    w.projected.resize(x.rows(), 2 * hidden_dim);
    w.projected.noalias() = x * input.transpose();
    const auto a = w.projected.leftCols(hidden_dim).array();
    const auto b = w.projected.rightCols(hidden_dim).array();
    w.sigmoid = ((-a).exp() + T(1)).inverse().matrix();
    w.hidden = (a * w.sigmoid.array() * b).matrix();
    y.noalias() += w.hidden * output.transpose();
  }

  // Overwrites `dx`, adds to `gradient`; overwrites the workspace's activations on the way.
  void Backward(const Matrix<T>& x, const Matrix<T>& dy, Workspace& w, Matrix<T>& dx,
                SwiGlu& gradient) const {
    const Eigen::Index hidden_dim = output.cols();
    w.d_hidden.resize(x.rows(), hidden_dim);
    w.d_hidden.noalias() = dy * output;
    gradient.output.noalias() += dy.transpose() * w.hidden;
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      auto a = w.projected.row(i).head(hidden_dim).array();
      auto b = w.projected.row(i).tail(hidden_dim).array();
      const auto s = w.sigmoid.row(i).array();
      const auto dh = w.d_hidden.row(i).array();
      // `hidden` has served its purpose; its row holds da until b has been replaced by db.
      auto da = w.hidden.row(i).array();
      da = dh * b * s * (T(1) + a * (T(1) - s));
      b = dh * a * s;
      a = da;
    }
    gradient.input.noalias() += w.projected.transpose() * x;
    dx.resize(x.rows(), x.cols());
    dx.noalias() = w.projected * input;
  }

  Matrix<T> input;   // Wᵢₙ [2F, D]: the first F rows are the gate
  Matrix<T> output;  // W_out [D, F]
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_SWIGLU_H_
