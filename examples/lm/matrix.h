// SPDX-License-Identifier: Apache-2.0
// Language-model example, dense algebra: the few Eigen types that every other file here speaks.
#ifndef KLA_EXAMPLES_LM_MATRIX_H_
#define KLA_EXAMPLES_LM_MATRIX_H_

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <random>

namespace lm {

// Eigen's own threads would change the blocking of a product, and with it the last bits, with the
// number of cores. Work is cut into sequences and blocks instead, each on one thread.
inline const bool kEigenUsesOneThread = (Eigen::setNbThreads(1), true);

// Activations are [rows, width], row-major; a row is one token. Weights are [out, in], as in most
// checkpoint files, so that a linear map reads y = x Wᵀ.
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using RowVector = Eigen::Matrix<T, 1, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ColumnVector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

// How the rows of an activation are to be read: row b * time + t is token t of sequence b.
struct Window {
  std::int64_t batch = 1;
  std::int64_t time = 1;
  std::int64_t rows() const { return batch * time; }
};

// Uniform in [0, 1) from the top 53 bits. The standard distributions differ between libraries; this
// does not, so that a seed means the same model, data order and sample everywhere.
inline double UniformUnit(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

// Fills `m` with U(-bound, bound).
template <class Derived>
void FillUniform(Eigen::DenseBase<Derived>& m, double bound, std::mt19937_64& random) {
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    for (Eigen::Index j = 0; j < m.cols(); ++j) {
      m(i, j) = static_cast<typename Derived::Scalar>((2.0 * UniformUnit(random) - 1.0) * bound);
    }
  }
}

// The usual initial value of a linear map: U(+-1 / sqrt(fan_in)), fan_in being the column count.
template <class T>
void InitializeLinear(Matrix<T>& weight, std::mt19937_64& random) {
  FillUniform(weight, 1.0 / std::sqrt(static_cast<double>(weight.cols())), random);
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_MATRIX_H_
