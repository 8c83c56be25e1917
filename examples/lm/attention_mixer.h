// SPDX-License-Identifier: Apache-2.0
// Language-model example, mixers: causal softmax attention with a key-value cache, the reference
// that a linear-attention layer is measured against.
#ifndef KLA_EXAMPLES_LM_ATTENTION_MIXER_H_
#define KLA_EXAMPLES_LM_ATTENTION_MIXER_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/lm/matrix.h"
#include "examples/lm/rotary.h"
#include "examples/lm/tensor_list.h"

namespace lm {

struct AttentionConfig {
  std::int64_t num_heads = 4;
  double rotary_base = 10000.0;  // 0: no positional encoding
};

// Per head, with d = D / heads, s = d^-1/2, q and k rotated by their position (rotary.h):
//   [q | k | v] = x Wᵀ     P_ij = exp(s q_i·k_j − L_i) for j ≤ i     o = P v     y = o W_outᵀ
//   L_i = ln Σ_{j≤i} exp(s q_i·k_j)
// Backward recomputes P from L, kBlock query rows at a time, so that memory stays linear in time:
//   dv = Pᵀ do    dP = do vᵀ    dS_ij = P_ij (dP_ij − do_i·o_i)    dq = s dS k    dk = s dSᵀ q
// Block form after Dao et al., FlashAttention, 2022; rotation after Su et al., RoFormer, 2021.
template <class T>
class AttentionMixer {
 public:
  using Scalar = T;
  using Config = AttentionConfig;

  // The rows of one head that lie in the cache are contiguous: [capacity, d].
  struct Cache {
    Matrix<T> keys;  // rotated
    Matrix<T> values;
  };
  struct State {
    std::int64_t length = 0;    // tokens cached
    std::vector<Cache> caches;  // [batch * heads]
    Matrix<T> projected;        // scratch of Step [batch, 3D]
    Matrix<T> attended;         // scratch of Step [batch, D]
    ColumnVector<T> scores;     // scratch of Step [length]
    RotaryTable<T> rotary;      // of the position of Step
  };
  struct Workspace {
    RotaryTable<T> rotary;
    Matrix<T> projected;                          // [q | k | v], q and k rotated [rows, 3D]
    Matrix<T> attended;                           // o [rows, D]
    Matrix<T> log_sum;                            // L [rows, heads]
    Matrix<T> query, key, value, output;          // one head [time, d], gathered
    Matrix<T> scores, d_scores;                   // [kBlock, time]
    Matrix<T> d_attended;                         // do [rows, D]
    Matrix<T> d_projected;                        // [rows, 3D]
    Matrix<T> d_query, d_key, d_value, d_output;  // one head [time, d]
  };

  AttentionMixer(const Config& config, std::int64_t model_dim)
      : config_(config),
        input_(Matrix<T>::Zero(3 * model_dim, model_dim)),
        output_(Matrix<T>::Zero(model_dim, model_dim)) {
    if (config.num_heads < 1 || model_dim % config.num_heads != 0 ||
        (model_dim / config.num_heads) % 2 != 0) {
      throw std::invalid_argument("lm: attention asks for an even model_dim / num_heads");
    }
  }

  void Initialize(std::mt19937_64& random) {
    InitializeLinear(input_, random);
    InitializeLinear(output_, random);
  }

  void AppendTensors(const std::string& prefix, TensorList<T>& list) {
    Append(list, prefix + ".input.weight", input_);
    Append(list, prefix + ".output.weight", output_);
  }

  void Forward(const Matrix<T>& x, Window window, Matrix<T>& y, Workspace& w, State* state) const {
    w.projected.resize(x.rows(), 3 * model_dim());
    w.projected.noalias() = x * input_.transpose();
    w.attended.resize(x.rows(), model_dim());
    w.log_sum.resize(x.rows(), config_.num_heads);
    const std::int64_t past = state ? state->length : 0;
    if (state) Reserve(*state, window.batch, past + window.time);
    PrepareRotary(w.rotary, past, window.time);
    for (std::int64_t b = 0; b < window.batch; ++b) {
      for (std::int64_t t = 0; t < window.time; ++t) {
        RotateToken(w.rotary, w.projected, b * window.time + t, t, +1);
      }
      for (std::int64_t h = 0; h < config_.num_heads; ++h) {
        w.query = HeadOf(w.projected, 0, b, h, window);
        if (state) {
          Cache& cache = state->caches[static_cast<std::size_t>(b * config_.num_heads + h)];
          cache.keys.middleRows(past, window.time) = HeadOf(w.projected, 1, b, h, window);
          cache.values.middleRows(past, window.time) = HeadOf(w.projected, 2, b, h, window);
          ForwardHead(cache.keys, cache.values, past, b, h, window, w);
        } else {
          w.key = HeadOf(w.projected, 1, b, h, window);
          w.value = HeadOf(w.projected, 2, b, h, window);
          ForwardHead(w.key, w.value, 0, b, h, window, w);
        }
      }
    }
    if (state) state->length += window.time;
    y.resize(x.rows(), model_dim());
    y.noalias() = w.attended * output_.transpose();
  }

  void Backward(const Matrix<T>& x, const Matrix<T>& dy, Window window, Workspace& w, Matrix<T>& dx,
                AttentionMixer& gradient) const {
    gradient.output_.noalias() += dy.transpose() * w.attended;
    w.d_attended.resize(x.rows(), model_dim());
    w.d_attended.noalias() = dy * output_;
    w.d_projected.resize(x.rows(), 3 * model_dim());
    for (std::int64_t b = 0; b < window.batch; ++b) {
      for (std::int64_t h = 0; h < config_.num_heads; ++h) BackwardHead(b, h, window, w);
      for (std::int64_t t = 0; t < window.time; ++t) {
        RotateToken(w.rotary, w.d_projected, b * window.time + t, t, -1);
      }
    }
    gradient.input_.noalias() += w.d_projected.transpose() * x;
    dx.resize(x.rows(), model_dim());
    dx.noalias() = w.d_projected * input_;
  }

  State MakeState(std::int64_t batch) const {
    State state;
    state.caches.resize(static_cast<std::size_t>(batch * config_.num_heads));
    return state;
  }

  // One token a sequence against its cache: two passes over [length, d] a head, both contiguous.
  void Step(const Matrix<T>& x, State& state, Matrix<T>& y) const {
    const std::int64_t batch = x.rows(), position = state.length;
    Reserve(state, batch, position + 1);
    state.projected.resize(batch, 3 * model_dim());
    state.projected.noalias() = x * input_.transpose();
    state.attended.resize(batch, model_dim());
    PrepareRotary(state.rotary, position, 1);
    const Window one{.batch = batch, .time = 1};
    for (std::int64_t b = 0; b < batch; ++b) {
      RotateToken(state.rotary, state.projected, b, 0, +1);
      for (std::int64_t h = 0; h < config_.num_heads; ++h) {
        Cache& cache = state.caches[static_cast<std::size_t>(b * config_.num_heads + h)];
        cache.keys.row(position) = HeadOf(state.projected, 1, b, h, one);
        cache.values.row(position) = HeadOf(state.projected, 2, b, h, one);
        state.scores.resize(position + 1);
        state.scores.noalias() =
            cache.keys.topRows(position + 1) * HeadOf(state.projected, 0, b, h, one).transpose();
        state.scores = ((state.scores.array() - state.scores.maxCoeff()) * Scale()).exp();
        const T total = state.scores.sum();
        state.attended.block(b, h * head_dim(), 1, head_dim()).noalias() =
            state.scores.transpose() * cache.values.topRows(position + 1);
        state.attended.block(b, h * head_dim(), 1, head_dim()) *= T(1) / total;
      }
    }
    state.length = position + 1;
    y.resize(batch, model_dim());
    y.noalias() = state.attended * output_.transpose();
  }

  // Makes room for `length` tokens a sequence, doubling so that appending stays linear.
  void Reserve(State& state, std::int64_t batch, std::int64_t length) const {
    if (static_cast<std::size_t>(batch * config_.num_heads) != state.caches.size()) {
      throw std::invalid_argument("lm: attention state made for another batch size");
    }
    for (Cache& cache : state.caches) {
      if (cache.keys.rows() >= length) continue;
      const std::int64_t capacity = std::max<std::int64_t>({length, 2 * cache.keys.rows(), 64});
      cache.keys.conservativeResize(capacity, head_dim());
      cache.values.conservativeResize(capacity, head_dim());
    }
  }

  // Stands in for a prefill of `length` tokens where only the speed of Step matters: a cache of the
  // right size with arbitrary entries, with room for `more` tokens.
  void FillCache(State& state, std::int64_t batch, std::int64_t length, std::int64_t more,
                 std::mt19937_64& random) const {
    Reserve(state, batch, length + more);
    for (Cache& cache : state.caches) {
      FillUniform(cache.keys, 1.0, random);
      FillUniform(cache.values, 1.0, random);
    }
    state.length = length;
  }

  std::int64_t model_dim() const { return output_.rows(); }
  std::int64_t head_dim() const { return model_dim() / config_.num_heads; }

 private:
  static constexpr std::int64_t kBlock = 64;  // query rows whose scores are held at a time

  T Scale() const { return static_cast<T>(1.0 / std::sqrt(static_cast<double>(head_dim()))); }

  // Columns of head h in part 0 (query), 1 (key) or 2 (value), tokens of sequence b: [time, d].
  template <class Derived>
  auto HeadOf(Derived& packed, std::int64_t part, std::int64_t b, std::int64_t h,
              Window window) const {
    return packed.block(b * window.time, part * model_dim() + h * head_dim(), window.time,
                        head_dim());
  }

  void PrepareRotary(RotaryTable<T>& table, std::int64_t first, std::int64_t count) const {
    if (config_.rotary_base > 0.0) table.Prepare(first, count, head_dim(), config_.rotary_base);
  }

  // Queries and keys of one row, token t of the table.
  void RotateToken(const RotaryTable<T>& table, Matrix<T>& packed, Eigen::Index row, std::int64_t t,
                   int direction) const {
    if (config_.rotary_base <= 0.0) return;
    table.Rotate(packed.data() + row * packed.cols(), 2 * config_.num_heads, t, direction);
  }

  // Queries past .. past + time − 1 against keys 0 .. past + time − 1.
  void ForwardHead(const Matrix<T>& keys, const Matrix<T>& values, std::int64_t past,
                   std::int64_t b, std::int64_t h, Window window, Workspace& w) const {
    auto out = HeadOf(w.attended, 0, b, h, window);
    for (std::int64_t first = 0; first < window.time; first += kBlock) {
      const std::int64_t count = std::min(kBlock, window.time - first);
      const std::int64_t visible = past + first + count;
      w.scores.resize(count, visible);
      w.scores.noalias() =
          Scale() * w.query.middleRows(first, count) * keys.topRows(visible).transpose();
      for (std::int64_t i = 0; i < count; ++i) {
        auto row = w.scores.row(i).array();
        auto seen = row.head(past + first + i + 1);
        const T largest = seen.maxCoeff();
        seen = (seen - largest).exp();
        const T total = seen.sum();
        seen *= T(1) / total;
        row.tail(count - 1 - i).setZero();
        using std::log;
        w.log_sum(b * window.time + first + i, h) = largest + log(total);
      }
      out.middleRows(first, count).noalias() = w.scores * values.topRows(visible);
    }
  }

  void BackwardHead(std::int64_t b, std::int64_t h, Window window, Workspace& w) const {
    w.query = HeadOf(w.projected, 0, b, h, window);
    w.key = HeadOf(w.projected, 1, b, h, window);
    w.value = HeadOf(w.projected, 2, b, h, window);
    w.output = HeadOf(w.attended, 0, b, h, window);
    w.d_output = HeadOf(w.d_attended, 0, b, h, window);
    w.d_query.resize(window.time, head_dim());
    w.d_key.setZero(window.time, head_dim());
    w.d_value.setZero(window.time, head_dim());
    for (std::int64_t first = 0; first < window.time; first += kBlock) {
      const std::int64_t count = std::min(kBlock, window.time - first);
      const std::int64_t visible = first + count;
      const auto query = w.query.middleRows(first, count);
      const auto d_output = w.d_output.middleRows(first, count);
      w.scores.resize(count, visible);
      w.d_scores.resize(count, visible);
      w.scores.noalias() = Scale() * query * w.key.topRows(visible).transpose();
      w.d_scores.noalias() = d_output * w.value.topRows(visible).transpose();
      for (std::int64_t i = 0; i < count; ++i) {
        auto p = w.scores.row(i).array();
        auto ds = w.d_scores.row(i).array();
        p = (p - w.log_sum(b * window.time + first + i, h)).exp();
        p.tail(count - 1 - i).setZero();
        ds = p * (ds - d_output.row(i).dot(w.output.row(first + i)));
      }
      w.d_value.topRows(visible).noalias() += w.scores.transpose() * d_output;
      w.d_query.middleRows(first, count).noalias() = Scale() * w.d_scores * w.key.topRows(visible);
      w.d_key.topRows(visible).noalias() += Scale() * w.d_scores.transpose() * query;
    }
    HeadOf(w.d_projected, 0, b, h, window) = w.d_query;
    HeadOf(w.d_projected, 1, b, h, window) = w.d_key;
    HeadOf(w.d_projected, 2, b, h, window) = w.d_value;
  }

  Config config_;
  Matrix<T> input_;   // W [3D, D]: query, key, value
  Matrix<T> output_;  // W_out [D, D]
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_ATTENTION_MIXER_H_
