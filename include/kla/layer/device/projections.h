// SPDX-License-Identifier: Apache-2.0
// layer/device: the two linear maps of a layer on a device, and their gradients: all of its matrix
// products. Products is that of the platform (kla_layer.h).
#ifndef KLA_LAYER_DEVICE_PROJECTIONS_H_
#define KLA_LAYER_DEVICE_PROJECTIONS_H_

#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/device/parameters.h"
#include "kla/layer/panels.h"

namespace kla::internal::device {

template <class Platform, class T>
class DeviceProjections {
 public:
  using Executor = typename Platform::Executor;
  using Products = typename Platform::Products;
  template <class U>
  using Matrix = internal::MatrixRef<U>;

  DeviceProjections(const DeviceParameters<Platform, T>& parameters, const Products& products,
                    const LayerViews& views, const Executor& executor)
      : parameters_(parameters), views_(views), products_(products), executor_(executor) {}

  // projected = x W_in^T: [rows, D] [D, projected_width]. True if that was the kernel for one row.
  template <class Memory>
  bool Input(const ModelView<const T>& x, T* projected, const Memory& memory) const {
    bool one_row = false;
    internal::ForEachPanel(x, [&](Index row, const Matrix<const T>& panel) {
      one_row =
          products_.Multiply(panel, InputWeight(), views_.ProjectedRows(projected, row, panel.rows),
                             memory, executor_);
    });
    return one_row;
  }
  // y = z W_o^T: [rows, HV V] [HV V, D]
  template <class Memory>
  void Output(const T* z, const ModelView<T>& y, const Memory& memory,
              bool overlaps = false) const {
    internal::ForEachPanel(y, [&](Index row, const Matrix<T>& panel) {
      products_.Multiply(views_.ValueRows(z, row, panel.rows), OutputWeight(), panel, memory,
                         executor_, overlaps);
    });
  }

  // dW_o = dy^T z, or added to it; dz = dy W_o.
  template <class Memory>
  void BackwardOutput(const ModelView<const T>& dy, const T* z, T* dz, float* d_weight,
                      bool accumulate, const Memory& memory) const {
    const Matrix<float> sums = views_.OutputWeight(d_weight);
    internal::ForEachPanel(dy, [&](Index row, const Matrix<const T>& panel) {
      products_.MultiplyTransposed(panel, views_.ValueRows(z, row, panel.rows), sums,
                                   accumulate || row > 0, memory, executor_);
      products_.MultiplyAsIs(panel, OutputWeight(), views_.ValueRows(dz, row, panel.rows), memory,
                             executor_);
    });
  }
  // dW_in = d_projected^T x, or added to it; dx = d_projected W_in.
  template <class Memory>
  void BackwardInput(const T* d_projected, const ModelView<const T>& x, const ModelView<T>& dx,
                     float* d_weight, bool accumulate, const Memory& memory) const {
    const Matrix<float> sums = views_.InputWeight(d_weight);
    internal::ForEachPanel(x, [&](Index row, const Matrix<const T>& panel) {
      products_.MultiplyTransposed(views_.ProjectedRows(d_projected, row, panel.rows), panel, sums,
                                   accumulate || row > 0, memory, executor_);
    });
    internal::ForEachPanel(dx, [&](Index row, const Matrix<T>& panel) {
      products_.MultiplyAsIs(views_.ProjectedRows(d_projected, row, panel.rows), InputWeight(),
                             panel, memory, executor_);
    });
  }

 private:
  Matrix<const T> InputWeight() const {
    return views_.InputWeight<const T>(parameters_.input_weight());
  }
  Matrix<const T> OutputWeight() const {
    return views_.OutputWeight<const T>(parameters_.output_weight());
  }

  const DeviceParameters<Platform, T>& parameters_;
  const LayerViews& views_;
  const Products& products_;
  const Executor& executor_;
};

}  // namespace kla::internal::device

#endif  // KLA_LAYER_DEVICE_PROJECTIONS_H_
