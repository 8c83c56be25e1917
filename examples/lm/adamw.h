// SPDX-License-Identifier: Apache-2.0
// Language-model example, optimiser: AdamW over summed shard gradients, with clipping.
#ifndef KLA_EXAMPLES_LM_ADAMW_H_
#define KLA_EXAMPLES_LM_ADAMW_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "examples/lm/tensor_list.h"

namespace lm {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // of matrices
  double clip_norm = 1.0;     // 0: no clipping
};

// Linear warm-up to `peak`, then half a cosine down to `floor` · peak at `steps`.
struct CosineSchedule {
  double peak = 3e-3;
  double floor = 0.1;
  std::int64_t warmup = 100;
  std::int64_t steps = 1000;

  double operator()(std::int64_t step) const {
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double span = static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
    const double done = std::min(1.0, static_cast<double>(step - warmup) / span);
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
  }
};

//   g ← Σ_shards g_shard,  g ← g · min(1, clip / ‖g‖)
//   m ← β₁ m + (1 − β₁) g,  u ← β₂ u + (1 − β₂) g²
//   w ← w (1 − lr · decay) − lr · (m / (1 − β₁ᵗ)) / (√(u / (1 − β₂ᵗ)) + ε)
// Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
//
// Work is cut into blocks of fixed size and ‖g‖² is added up block by block in double, so that the
// result has the same bits whatever the number of threads.
template <class T>
class AdamW {
 public:
  AdamW(const AdamWConfig& config, TensorList<T> parameters)
      : config_(config), parameters_(std::move(parameters)) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const std::size_t size = parameters_[i].values.size();
      first_moment_.emplace_back(size, T(0));
      second_moment_.emplace_back(size, T(0));
      for (std::size_t begin = 0; begin < size; begin += kBlock) {
        blocks_.push_back({i, begin, std::min(size, begin + kBlock)});
      }
    }
    block_norm_.resize(blocks_.size());
  }

  // Adds shards 1.. into shard 0, in that order, updates the parameters and clears every shard.
  // Returns ‖g‖ before clipping.
  template <class Executor>
  double Step(std::vector<TensorList<T>>& shards, double learning_rate, Executor&& executor) {
    const auto block_count = static_cast<std::int64_t>(blocks_.size());
    executor.ParallelFor(block_count, [&](std::int64_t index) {
      SumShards(static_cast<std::size_t>(index), shards);
    });
    double norm2 = 0.0;
    for (const double part : block_norm_) norm2 += part;
    const double norm = std::sqrt(norm2);
    const bool clips = config_.clip_norm > 0.0 && norm > config_.clip_norm;
    const double shrink = clips ? config_.clip_norm / norm : 1.0;
    ++step_;
    executor.ParallelFor(block_count, [&](std::int64_t index) {
      Update(blocks_[static_cast<std::size_t>(index)], shards, learning_rate, shrink);
    });
    return norm;
  }

  // Updates made so far, and the moments tensor by tensor: what a resumed run has to put back.
  std::int64_t step() const { return step_; }
  void set_step(std::int64_t step) { step_ = step; }
  std::vector<std::vector<T>>& first_moment() { return first_moment_; }
  std::vector<std::vector<T>>& second_moment() { return second_moment_; }
  const TensorList<T>& parameters() const { return parameters_; }

 private:
  static constexpr std::size_t kBlock = 16384;
  static constexpr std::size_t kLanes = 8;  // independent partial sums of ‖g‖²

  struct Block {
    std::size_t tensor, begin, end;
  };

  void SumShards(std::size_t index, std::vector<TensorList<T>>& shards) {
    const Block& block = blocks_[index];
    T* total = shards[0][block.tensor].values.data();
    for (std::size_t s = 1; s < shards.size(); ++s) {
      T* part = shards[s][block.tensor].values.data();
      for (std::size_t i = block.begin; i < block.end; ++i) total[i] += part[i];
      std::fill(part + block.begin, part + block.end, T(0));
    }
    double lanes[kLanes] = {};
    std::size_t i = block.begin;
    for (; i + kLanes <= block.end; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const double g = static_cast<double>(total[i + lane]);
        lanes[lane] += g * g;
      }
    }
    for (; i < block.end; ++i) {
      const double g = static_cast<double>(total[i]);
      lanes[0] += g * g;
    }
    double sum = 0.0;
    for (const double lane : lanes) sum += lane;
    block_norm_[index] = sum;
  }

  void Update(const Block& block, std::vector<TensorList<T>>& shards, double learning_rate,
              double shrink) {
    const TensorRef<T>& tensor = parameters_[block.tensor];
    T* __restrict weight = tensor.values.data();
    T* __restrict gradient = shards[0][block.tensor].values.data();
    T* __restrict m = first_moment_[block.tensor].data();
    T* __restrict u = second_moment_[block.tensor].data();
    const double t = static_cast<double>(step_);
    const T beta1 = static_cast<T>(config_.beta1), beta2 = static_cast<T>(config_.beta2);
    const T rate = static_cast<T>(learning_rate / (1.0 - std::pow(config_.beta1, t)));
    const T correct2 = static_cast<T>(1.0 / (1.0 - std::pow(config_.beta2, t)));
    const T epsilon = static_cast<T>(config_.epsilon);
    const T keep =
        static_cast<T>(1.0 - (tensor.decays() ? learning_rate * config_.weight_decay : 0.0));
    const T scale = static_cast<T>(shrink);
    for (std::size_t i = block.begin; i < block.end; ++i) {
      const T g = gradient[i] * scale;
      m[i] = beta1 * m[i] + (T(1) - beta1) * g;
      u[i] = beta2 * u[i] + (T(1) - beta2) * g * g;
      weight[i] = weight[i] * keep - rate * m[i] / (std::sqrt(u[i] * correct2) + epsilon);
      gradient[i] = T(0);
    }
  }

  AdamWConfig config_;
  TensorList<T> parameters_;
  std::vector<std::vector<T>> first_moment_, second_moment_;  // m, u
  std::vector<Block> blocks_;
  std::vector<double> block_norm_;
  std::int64_t step_ = 0;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_ADAMW_H_
