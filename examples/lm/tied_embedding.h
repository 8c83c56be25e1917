// SPDX-License-Identifier: Apache-2.0
// Language-model example, first and last layer: one table that embeds tokens and scores them.
#ifndef KLA_EXAMPLES_LM_TIED_EMBEDDING_H_
#define KLA_EXAMPLES_LM_TIED_EMBEDDING_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"

namespace lm {

//   in:  x_i = E[token_i]           dE[token_i] += dx_i
//   out: logits = h Eᵀ              dh = dlogits E,  dE += dlogitsᵀ h
// E [vocabulary, D]  x, h [rows, D]  logits [rows, vocabulary].
template <class T>
struct TiedEmbedding {
  TiedEmbedding() = default;
  TiedEmbedding(std::int64_t vocabulary, std::int64_t model_dim)
      : table(Matrix<T>::Zero(vocabulary, model_dim)) {}

  // Variance 1 / D, so that the logits of a normalised row start with variance one.
  void Initialize(std::mt19937_64& random) {
    FillUniform(table, std::sqrt(3.0 / static_cast<double>(table.cols())), random);
  }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    Append(list, prefix + ".weight", table);
  }

  void Embed(std::span<const std::int32_t> tokens, Matrix<T>& x) const {
    x.resize(static_cast<Eigen::Index>(tokens.size()), table.cols());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= table.rows()) {
        throw std::invalid_argument("lm: token " + std::to_string(tokens[i]) + " at row " +
                                    std::to_string(i) + " is outside the vocabulary of " +
                                    std::to_string(table.rows()));
      }
      x.row(static_cast<Eigen::Index>(i)) = table.row(tokens[i]);
    }
  }

  void EmbedBackward(std::span<const std::int32_t> tokens, const Matrix<T>& dx,
                     TiedEmbedding& gradient) const {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      gradient.table.row(tokens[i]) += dx.row(static_cast<Eigen::Index>(i));
    }
  }

  void Score(const Matrix<T>& h, Matrix<T>& logits) const {
    logits.resize(h.rows(), table.rows());
    logits.noalias() = h * table.transpose();
  }

  void ScoreBackward(const Matrix<T>& h, const Matrix<T>& d_logits, Matrix<T>& dh,
                     TiedEmbedding& gradient) const {
    gradient.table.noalias() += d_logits.transpose() * h;
    dh.resize(h.rows(), h.cols());
    dh.noalias() = d_logits * table;
  }

  Matrix<T> table;  // E [vocabulary, D]
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_TIED_EMBEDDING_H_
