// SPDX-License-Identifier: Apache-2.0
// Language-model example, model: embedding, blocks, norm, tied scores; forward, backward and step.
#ifndef KLA_EXAMPLES_LM_LANGUAGE_MODEL_H_
#define KLA_EXAMPLES_LM_LANGUAGE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/lm/block.h"
#include "examples/lm/cross_entropy.h"
#include "examples/lm/matrix.h"
#include "examples/lm/mixer.h"
#include "examples/lm/rms_norm.h"
#include "examples/lm/tensor_list.h"
#include "examples/lm/tied_embedding.h"

namespace lm {

template <class MixerConfig>
struct ModelConfig {
  std::int64_t vocabulary = 256;
  std::int64_t model_dim = 128;
  std::int64_t layers = 2;
  std::int64_t hidden_dim = 384;  // of the feed-forward network
  MixerConfig mixer;
};

// Tokens [batch, time] → logits. No positional encoding of its own: order comes from the mixers.
// Labels below zero mark rows that carry no loss; those rows are never scored, so a task with a
// large vocabulary and few labels does not pay for the others.
template <Mixer M>
class LanguageModel {
 public:
  using T = typename M::Scalar;
  using Scalar = T;
  using MixerType = M;
  using Config = ModelConfig<typename M::Config>;
  static constexpr std::int32_t kNoLabel = -1;

  struct Workspace {
    std::vector<typename Block<M>::Workspace> blocks;
    typename RmsNorm<T>::Workspace norm;
    Matrix<T> x;                          // residual stream, later its gradient [rows, D]
    Matrix<T> labelled;                   // rows of x that carry a label [labelled, D]
    Matrix<T> hidden;                     // their normalised form [labelled, D]
    Matrix<T> logits;                     // [labelled, vocabulary], later their gradient
    Matrix<T> d_hidden;                   // [labelled, D]
    std::vector<std::int32_t> targets;    // the labels without the gaps
    std::vector<Eigen::Index> positions;  // their rows
  };

  // What recurrent decoding carries from token to token, for `batch` sequences.
  struct State {
    std::vector<typename M::State> layers;
    std::vector<typename Block<M>::Workspace> scratch;
    typename RmsNorm<T>::Workspace norm;
    Matrix<T> x;       // [batch, D]
    Matrix<T> hidden;  // [batch, D]
  };

  explicit LanguageModel(const Config& config)
      : config_(config), embedding_(config.vocabulary, config.model_dim), norm_(config.model_dim) {
    if (config.vocabulary < 1 || config.model_dim < 1 || config.layers < 1 ||
        config.hidden_dim < 1) {
      throw std::invalid_argument("lm: every size of a model must be positive");
    }
    for (std::int64_t i = 0; i < config.layers; ++i) {
      blocks_.emplace_back(config.mixer, config.model_dim, config.hidden_dim);
    }
  }

  const Config& config() const { return config_; }

  void Initialize(std::mt19937_64& random) {
    embedding_.Initialize(random);
    for (Block<M>& block : blocks_) block.Initialize(random);
    norm_.Initialize();
  }

  TensorList<T> Tensors() {
    TensorList<T> list;
    embedding_.AppendTensors("embedding", list);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].AppendTensors("blocks." + std::to_string(i), list);
    }
    norm_.AppendTensors("norm", list);
    return list;
  }

  // Loss over the rows whose label is not negative. tokens, labels [batch, time]; labels[i] is the
  // token to predict after tokens[i]. With a state the sequences continue from it (no Backward).
  LossSum Forward(std::span<const std::int32_t> tokens, std::span<const std::int32_t> labels,
                  Window window, Workspace& w, State* state = nullptr) const {
    RequireSize("tokens", tokens.size(), window.rows());
    RequireSize("labels", labels.size(), window.rows());
    RunBlocks(tokens, window, w, state);
    w.targets.clear();
    w.positions.clear();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] < 0) continue;
      w.targets.push_back(labels[i]);
      w.positions.push_back(static_cast<Eigen::Index>(i));
    }
    w.labelled.resize(static_cast<Eigen::Index>(w.positions.size()), config_.model_dim);
    for (std::size_t i = 0; i < w.positions.size(); ++i) {
      w.labelled.row(static_cast<Eigen::Index>(i)) = w.x.row(w.positions[i]);
    }
    norm_.Forward(w.labelled, w.hidden, w.norm);
    embedding_.Score(w.hidden, w.logits);
    return CrossEntropyInPlace<T>(w.targets, w.logits);
  }

  // After Forward: adds scale · d(Σ loss)/d(parameters) to `gradient`.
  void Backward(std::span<const std::int32_t> tokens, Window window, T scale, Workspace& w,
                LanguageModel& gradient) const {
    w.logits *= scale;
    embedding_.ScoreBackward(w.hidden, w.logits, w.d_hidden, gradient.embedding_);
    w.labelled.setZero();
    norm_.Backward(w.d_hidden, w.norm, w.labelled, gradient.norm_);
    w.x.setZero();
    for (std::size_t i = 0; i < w.positions.size(); ++i) {
      w.x.row(w.positions[i]) = w.labelled.row(static_cast<Eigen::Index>(i));
    }
    for (std::size_t i = blocks_.size(); i-- > 0;) {
      blocks_[i].Backward(window, w.x, w.blocks[i], gradient.blocks_[i]);
    }
    embedding_.EmbedBackward(tokens, w.x, gradient.embedding_);
  }

  State MakeState(std::int64_t batch) const {
    State state;
    for (const Block<M>& block : blocks_) state.layers.push_back(block.mixer.MakeState(batch));
    state.scratch.resize(blocks_.size());
    return state;
  }

  // Reads tokens [batch, time] into the state without scoring them.
  void Prefill(std::span<const std::int32_t> tokens, Window window, Workspace& w,
               State& state) const {
    RequireSize("tokens", tokens.size(), window.rows());
    RunBlocks(tokens, window, w, &state);
  }

  // For mixers with a cache: a state as after `length` tokens of one sequence, with arbitrary
  // entries and room for `more`, to measure the speed of Step.
  void FillCaches(State& state, std::int64_t length, std::int64_t more,
                  std::mt19937_64& random) const requires
      requires(const M& m, typename M::State& s) {
    m.FillCache(s, 1, length, more, random);
  }
  {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].mixer.FillCache(state.layers[i], 1, length, more, random);
    }
  }

  // One token a sequence: tokens [batch], logits [batch, vocabulary] for the tokens that follow.
  void Step(std::span<const std::int32_t> tokens, State& state, Matrix<T>& logits) const {
    embedding_.Embed(tokens, state.x);
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].Step(state.x, state.scratch[i], state.layers[i]);
    }
    norm_.Forward(state.x, state.hidden, state.norm);
    embedding_.Score(state.hidden, logits);
  }

 private:
  static void RequireSize(const char* name, std::size_t given, std::int64_t expected) {
    if (given == static_cast<std::size_t>(expected)) return;
    throw std::invalid_argument(std::string("lm: ") + name + " has " + std::to_string(given) +
                                " entries; batch * time asks for " + std::to_string(expected));
  }

  void RunBlocks(std::span<const std::int32_t> tokens, Window window, Workspace& w,
                 State* state) const {
    embedding_.Embed(tokens, w.x);
    w.blocks.resize(blocks_.size());
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].Forward(window, w.x, w.blocks[i], state ? &state->layers[i] : nullptr);
    }
  }

  Config config_;
  TiedEmbedding<T> embedding_;
  std::vector<Block<M>> blocks_;
  RmsNorm<T> norm_;
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_LANGUAGE_MODEL_H_
