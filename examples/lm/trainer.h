// SPDX-License-Identifier: Apache-2.0
// Language-model example, training: one optimiser step over a batch, data-parallel by shards.
#ifndef KLA_EXAMPLES_LM_TRAINER_H_
#define KLA_EXAMPLES_LM_TRAINER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "examples/lm/adamw.h"
#include "examples/lm/cross_entropy.h"
#include "examples/lm/matrix.h"

namespace lm {

// One batch, as a task hands it over: tokens and labels [batch, time], label −1 = no loss here.
struct Batch {
  Window window;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> labels;
};

struct TrainerConfig {
  // Parts a batch is cut into; each has its own gradient. A property of the run, not of the
  // machine: the same shards give the same bits on one thread and on many. Shards beyond the
  // number of sequences stay idle.
  std::int64_t shards = 4;
  AdamWConfig optimizer;
  CosineSchedule schedule;
};

struct StepReport {
  LossSum loss;  // before the update
  double gradient_norm = 0.0;
  double learning_rate = 0.0;
};

// Minimises the mean loss over labelled rows. Knows nothing of text: batches come from outside.
template <class Model, class Executor>
class Trainer {
 public:
  using T = typename Model::Scalar;

  Trainer(Model& model, const TrainerConfig& config, Executor executor)
      : model_(model),
        config_(config),
        executor_(std::move(executor)),
        optimizer_(config.optimizer, model.Tensors()) {
    if (config.shards < 1) throw std::invalid_argument("lm: a trainer needs at least one shard");
    gradients_.reserve(static_cast<std::size_t>(config.shards));
    for (std::int64_t i = 0; i < config.shards; ++i) {
      gradients_.emplace_back(model.config());
      gradient_tensors_.push_back(gradients_.back().Tensors());
      for (TensorRef<T>& tensor : gradient_tensors_.back()) {
        std::fill(tensor.values.begin(), tensor.values.end(), T(0));
      }
    }
    workspaces_.resize(gradients_.size());
  }

  StepReport Step(const Batch& batch) {
    StepReport report;
    report.learning_rate = config_.schedule(optimizer_.step());
    report.loss = AccumulateGradients(batch);
    report.gradient_norm = optimizer_.Step(gradient_tensors_, report.learning_rate, executor_);
    return report;
  }

  // Loss of a batch without touching anything, by the same shards.
  LossSum Evaluate(const Batch& batch) { return ForEachShard(batch, nullptr); }

  void set_schedule(const CosineSchedule& schedule) { config_.schedule = schedule; }
  AdamW<T>& optimizer() { return optimizer_; }
  std::int64_t step() const { return optimizer_.step(); }

 private:
  LossSum AccumulateGradients(const Batch& batch) {
    std::int64_t labelled = 0;
    for (const std::int32_t label : batch.labels) labelled += label >= 0 ? 1 : 0;
    if (labelled == 0) throw std::invalid_argument("lm: a training batch without a single label");
    const T scale = static_cast<T>(1.0 / static_cast<double>(labelled));
    return ForEachShard(batch, &scale);
  }

  LossSum ForEachShard(const Batch& batch, const T* backward_scale) {
    const auto expected = static_cast<std::size_t>(batch.window.rows());
    if (batch.tokens.size() != expected || batch.labels.size() != expected) {
      throw std::invalid_argument(
          "lm: tokens and labels of a batch must have batch * time entries");
    }
    RequireInVocabulary(batch);  // here, because an exception must not leave a parallel region
    std::vector<LossSum> sums(workspaces_.size());
    executor_.ParallelFor(config_.shards, [&](std::int64_t shard) {
      const std::int64_t first = batch.window.batch * shard / config_.shards;
      const std::int64_t last = batch.window.batch * (shard + 1) / config_.shards;
      if (first == last) return;
      const Window window{.batch = last - first, .time = batch.window.time};
      const auto offset = static_cast<std::size_t>(first * batch.window.time);
      const auto count = static_cast<std::size_t>(window.rows());
      const auto tokens = std::span<const std::int32_t>(batch.tokens).subspan(offset, count);
      const auto labels = std::span<const std::int32_t>(batch.labels).subspan(offset, count);
      const auto s = static_cast<std::size_t>(shard);
      sums[s] = model_.Forward(tokens, labels, window, workspaces_[s]);
      if (backward_scale != nullptr) {
        model_.Backward(tokens, window, *backward_scale, workspaces_[s], gradients_[s]);
      }
    });
    LossSum total;
    for (const LossSum& sum : sums) total += sum;
    return total;
  }

  void RequireInVocabulary(const Batch& batch) const {
    const std::int64_t vocabulary = model_.config().vocabulary;
    for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
      if (batch.tokens[i] < 0 || batch.tokens[i] >= vocabulary || batch.labels[i] >= vocabulary) {
        throw std::invalid_argument("lm: a token or label outside the vocabulary at row " +
                                    std::to_string(i));
      }
    }
  }

  Model& model_;
  TrainerConfig config_;
  Executor executor_;
  AdamW<T> optimizer_;
  std::vector<Model> gradients_;  // one a shard
  std::vector<TensorList<T>> gradient_tensors_;
  std::vector<typename Model::Workspace> workspaces_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_TRAINER_H_
