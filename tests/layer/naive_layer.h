// SPDX-License-Identifier: Apache-2.0
// tests/layer: the layer once more, written from its equations with plain loops and the raw step
// size, for double and for a scalar that carries derivatives. Without Eigen, for device tests too.
#ifndef KLA_TESTS_LAYER_NAIVE_LAYER_H_
#define KLA_TESTS_LAYER_NAIVE_LAYER_H_

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kla/core/layout.h"
#include "kla/core/view.h"
#include "kla/layer/config.h"
#include "kla/layer/parameters.h"
#include "support/tolerance.h"

namespace kla::test {

// RMS error bound of the layer in arithmetic of unit roundoff u: each of its sums is a random walk
// of roundings, and the norm behind the recurrence makes errors relative to what it outputs.
template <class T>
double LayerTolerance(const LayerSizes& sizes, Index tokens, double reference_rms) {
  const double terms = Growth(tokens, sizes.key_dim, sizes.value_dim) +
                       std::sqrt(static_cast<double>(sizes.model_dim)) +
                       std::sqrt(static_cast<double>(sizes.value_width()));
  return kRoundoff<T> * terms * reference_rms;
}

// The layer on one sequence that starts from nothing, x [T, D] to y [T, D].
template <class StepSize, class S>
class NaiveLayer {
 public:
  using Row = std::vector<S>;

  NaiveLayer(const KlaLayerConfig& config, const LayerSizes& sizes,
             std::map<std::string, Row> parameters)
      : config_(config), sizes_(sizes), parameters_(std::move(parameters)) {}

  template <class T>
  static std::map<std::string, Row> Copy(const KlaParameters<T>& parameters) {
    std::map<std::string, Row> copy;
    for (const auto& [name, shape, values] : parameters.tensors()) {
      for (const T value : values) copy[name].push_back(S(static_cast<double>(value)));
    }
    return copy;
  }

  std::vector<Row> Forward(const std::vector<Row>& x) const {
    const auto q = Mixed("q", x), k = Mixed("k", x), v = Mixed("v", x);
    const auto gate = Linear("g_proj.weight", x), a = Linear("a_proj.weight", x),
               b = Linear("b_proj.weight", x);
    std::vector<Row> z(x.size(), Row(Size(sizes_.value_width()), S(0)));
    const double group = static_cast<double>(sizes_.value_heads / sizes_.key_heads);
    for (Index hv = 0; hv < sizes_.value_heads; ++hv) {
      const Index h = config_.grouping == HeadGrouping::kTiled
                          ? hv % sizes_.key_heads
                          : static_cast<Index>(static_cast<double>(hv) / group);
      std::vector<Row> state(Size(sizes_.key_dim), Row(Size(sizes_.value_dim), S(0)));
      for (std::size_t t = 0; t < x.size(); ++t) {
        const Row o = Token(state, Head(q[t], h, sizes_.key_dim), Head(k[t], h, sizes_.key_dim),
                            Head(v[t], hv, sizes_.value_dim), a[t][Size(hv)], b[t][Size(hv)], hv);
        S square(0);
        for (const S& value : o) square += value * value;
        const S rms =
            sqrt(S(square / S(static_cast<double>(sizes_.value_dim)) + S(config_.norm_epsilon)));
        for (Index c = 0; c < sizes_.value_dim; ++c) {
          const Index at = hv * sizes_.value_dim + c;
          z[t][Size(at)] =
              o[Size(c)] / rms * parameters_.at("o_norm.weight")[Size(c)] * Silu(gate[t][Size(at)]);
        }
      }
    }
    return Linear("o_proj.weight", z);
  }

 private:
  static std::size_t Size(Index i) { return static_cast<std::size_t>(i); }
  static S Sigmoid(const S& x) {
    using std::exp;
    return S(1) / S(S(1) + S(exp(S(-x))));
  }
  static S Silu(const S& x) { return x * Sigmoid(x); }
  static Row Head(const Row& row, Index head, Index width) {
    return Row(row.begin() + head * width, row.begin() + (head + 1) * width);
  }

  // y_t = W x_t, W [out, in].
  std::vector<Row> Linear(const std::string& name, const std::vector<Row>& x) const {
    const Row& weight = parameters_.at(name);
    std::vector<Row> y;
    for (const Row& row : x) {
      Row out;
      for (std::size_t i = 0; i < weight.size() / row.size(); ++i) {
        S sum(0);
        for (std::size_t j = 0; j < row.size(); ++j) sum += weight[i * row.size() + j] * row[j];
        out.push_back(sum);
      }
      y.push_back(out);
    }
    return y;
  }

  // SiLU of the causal convolution of the projection.
  std::vector<Row> Mixed(const std::string& which, const std::vector<Row>& x) const {
    const auto in = Linear(which + "_proj.weight", x);
    const Row& weight = parameters_.at(which + "_conv1d.weight");
    std::vector<Row> out;
    for (std::size_t t = 0; t < in.size(); ++t) {
      Row row;
      for (std::size_t c = 0; c < in[t].size(); ++c) {
        S sum(0);
        for (std::size_t back = 0; back < 4 && back <= t; ++back) {
          sum += weight[c * 4 + 3 - back] * in[t - back][c];
        }
        row.push_back(Silu(sum));
      }
      out.push_back(row);
    }
    return out;
  }

  // The recurrence of one head: S <- a S + beta k (v - a S^T k)^T, o = scale S^T q.
  Row Token(std::vector<Row>& state, Row q, Row k, const Row& v, const S& a, const S& b,
            Index hv) const {
    using std::exp;
    using std::log;
    using std::sqrt;
    const auto normalise = [&](Row& row) {
      S sum(config_.epsilon);
      for (const S& value : row) sum += value * value;
      const S norm = sqrt(sum);
      for (S& value : row) value = value / norm;
    };
    if (StepSize::kNormalizeQuery) normalise(q);
    if (StepSize::kNormalizeKey) normalise(k);
    const std::size_t h = Size(hv);
    const S time = log(S(S(1) + S(exp(S(a + parameters_.at("dt_bias")[h])))));
    const S decay = exp(S(S(-exp(parameters_.at("A_log")[h])) * time));
    const S eta = Sigmoid(S(b + parameters_.at("b_proj.bias")[h]));
    S norm2(0);
    for (const S& value : k) norm2 += value * value;
    const S beta = StepSize::Beta(eta, norm2, S(config_.epsilon));
    const double scale = config_.scale.value_or(1 / std::sqrt(static_cast<double>(sizes_.key_dim)));
    Row o;
    for (std::size_t c = 0; c < v.size(); ++c) {
      S recalled(0), out(0);
      for (std::size_t i = 0; i < k.size(); ++i) recalled += decay * state[i][c] * k[i];
      for (std::size_t i = 0; i < k.size(); ++i) {
        state[i][c] = decay * state[i][c] + beta * k[i] * (v[c] - recalled);
        out += S(scale) * state[i][c] * q[i];
      }
      o.push_back(out);
    }
    return o;
  }

  KlaLayerConfig config_;
  LayerSizes sizes_;
  std::map<std::string, Row> parameters_;
};

// The rows of one batch row, tokens [begin, end).
template <class S, class T>
std::vector<std::vector<S>> NaiveRows(const ModelView<T>& x, Index batch, Index begin, Index end) {
  std::vector<std::vector<S>> rows;
  for (Index t = begin; t < end; ++t) {
    rows.emplace_back();
    for (Index c = 0; c < x.template extent<Model>(); ++c) {
      rows.back().push_back(S(static_cast<double>(x(batch, t, c))));
    }
  }
  return rows;
}

// The naive layer in double on a batch, or on packed sequences, in row-major order.
template <class StepSize, class T, class U>
std::vector<double> RunNaive(const KlaLayerConfig& config, const KlaParameters<T>& parameters,
                             const ModelView<U>& x, const IndexList& cu_seqlens = {}) {
  using Naive = NaiveLayer<StepSize, double>;
  const Naive layer(config, parameters.sizes(), Naive::Copy(parameters));
  const Index tokens = x.template extent<Time>();
  std::vector<double> y;
  for (Index n = 0; n < SequenceCount(cu_seqlens, x.template extent<Batch>()); ++n) {
    const auto [batch, begin, length] = SequenceAt(cu_seqlens, tokens, n);
    for (const auto& row : layer.Forward(NaiveRows<double>(x, batch, begin, begin + length))) {
      y.insert(y.end(), row.begin(), row.end());
    }
  }
  return y;
}

}  // namespace kla::test

#endif  // KLA_TESTS_LAYER_NAIVE_LAYER_H_
