// SPDX-License-Identifier: Apache-2.0
// Language-model example, blocks: root-mean-square normalisation, forward and backward.
#ifndef KLA_EXAMPLES_LM_RMS_NORM_H_
#define KLA_EXAMPLES_LM_RMS_NORM_H_

#include <cmath>
#include <cstdint>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"

namespace lm {

// Row by row, with r = (mean(x²) + ε)^-1/2 and x̂ = r x:
//   y  = w ∘ x̂
//   dx = r (u − x̂ mean(u ∘ x̂)),   u = w ∘ dy
//   dw = Σ_rows dy ∘ x̂
// x, y [rows, D]  w [D].  Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
template <class T>
struct RmsNorm {
  static constexpr double kEpsilon = 1e-5;

  struct Workspace {
    Matrix<T> normalised;          // x̂ [rows, D]
    ColumnVector<T> inverse_root;  // r [rows]
  };

  RmsNorm() = default;
  explicit RmsNorm(std::int64_t dim) : weight(RowVector<T>::Zero(dim)) {}

  void Initialize() { weight.setOnes(); }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    Append(list, prefix + ".weight", weight);
  }

  void Forward(const Matrix<T>& x, Matrix<T>& y, Workspace& workspace) const {
    const T width = static_cast<T>(x.cols());
    workspace.normalised.resize(x.rows(), x.cols());
    workspace.inverse_root.resize(x.rows());
    y.resize(x.rows(), x.cols());
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      using std::sqrt;
      const T r = T(1) / sqrt(x.row(i).squaredNorm() / width + static_cast<T>(kEpsilon));
      workspace.inverse_root(i) = r;
      workspace.normalised.row(i) = r * x.row(i);
      y.row(i) = workspace.normalised.row(i).cwiseProduct(weight);
    }
  }

  // Adds to `dx`, which already holds the gradient of the residual path, and to `gradient`.
  void Backward(const Matrix<T>& dy, const Workspace& workspace, Matrix<T>& dx,
                RmsNorm& gradient) const {
    const T width = static_cast<T>(dy.cols());
    for (Eigen::Index i = 0; i < dy.rows(); ++i) {
      const auto x_hat = workspace.normalised.row(i);
      const T mean = dy.row(i).cwiseProduct(weight).dot(x_hat) / width;
      dx.row(i) += workspace.inverse_root(i) * (dy.row(i).cwiseProduct(weight) - mean * x_hat);
      gradient.weight += dy.row(i).cwiseProduct(x_hat);
    }
  }

  RowVector<T> weight;  // w [D]
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_RMS_NORM_H_
