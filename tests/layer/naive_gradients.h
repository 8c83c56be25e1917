// SPDX-License-Identifier: Apache-2.0
// tests/layer: the gradients of the naive layer, by reverse-mode automatic differentiation. Without
// Eigen, for device tests too.
#ifndef KLA_TESTS_LAYER_NAIVE_GRADIENTS_H_
#define KLA_TESTS_LAYER_NAIVE_GRADIENTS_H_

#include <algorithm>
#include <vector>

#include "kla/core/layout.h"
#include "kla/core/view.h"
#include "kla/layer/parameters.h"
#include "layer/naive_layer.h"
#include "support/tape.h"

namespace kla::test {

struct NaiveGradients {
  std::vector<double> dx;
  KlaParameters<double> parameters;
};

// Of sum(y dy) on a batch, or on packed sequences. dx in row-major order.
template <class StepSize>
NaiveGradients RunNaiveBackward(const KlaLayerConfig& config,
                                const KlaParameters<double>& parameters,
                                const ModelView<const double>& x, const ModelView<const double>& dy,
                                const IndexList& cu_seqlens = {}) {
  using Naive = NaiveLayer<StepSize, Recorded>;
  Tape::CutTo(0);
  auto variables = Naive::Copy(parameters);
  for (const auto& tensor : parameters.tensors()) {
    for (Recorded& value : variables.at(tensor.name)) value.at = Tape::Variable();
  }
  const Naive layer(config, parameters.sizes(), variables);
  const std::size_t parameter_count = Tape::size();

  NaiveGradients result{{}, KlaParameters<double>(parameters.sizes())};
  const Index tokens = x.template extent<Time>();
  for (Index n = 0; n < SequenceCount(cu_seqlens, x.template extent<Batch>()); ++n) {
    const auto [batch, begin, length] = SequenceAt(cu_seqlens, tokens, n);
    auto rows = NaiveRows<Recorded>(x, batch, begin, begin + length);
    for (auto& row : rows) {
      for (Recorded& value : row) value.at = Tape::Variable();
    }
    const std::size_t input_end = Tape::size();
    const auto y = layer.Forward(rows);
    std::vector<double> slopes(Tape::size(), 0.0);
    for (std::size_t t = 0; t < y.size(); ++t) {
      for (std::size_t c = 0; c < y[t].size(); ++c) {
        slopes[static_cast<std::size_t>(y[t][c].at)] +=
            dy(batch, begin + static_cast<Index>(t), static_cast<Index>(c));
      }
    }
    Tape::Reverse(slopes);
    for (std::size_t i = 0; i < parameter_count; ++i) result.parameters.values()[i] += slopes[i];
    for (std::size_t i = parameter_count; i < input_end; ++i) result.dx.push_back(slopes[i]);
    Tape::CutTo(parameter_count);
  }
  return result;
}

}  // namespace kla::test

#endif  // KLA_TESTS_LAYER_NAIVE_GRADIENTS_H_
