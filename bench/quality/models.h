// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: the model of each mixer, with equal numbers of parameters.
#ifndef KLA_BENCH_QUALITY_MODELS_H_
#define KLA_BENCH_QUALITY_MODELS_H_

#include <cstdint>

#include "bench/quality/settings.h"
#include "bench/quality/step_size_mixer.h"
#include "examples/lm/attention_mixer.h"
#include "examples/lm/language_model.h"

namespace quality {

using RecurrentModel = lm::LanguageModel<StepSizeMixer>;
using AttentionModel = lm::LanguageModel<lm::AttentionMixer<float>>;

// A recurrent layer has 6 D² + O(D) parameters, attention 4 D². Attention's feed-forward network,
// 3 D a hidden unit, is widened by as many units as make up for it, to the nearest one.
inline std::int64_t AttentionHiddenDim(const RunSettings& s) {
  StepSizeMixer recurrent({"kla", s.heads()}, s.model_dim);
  lm::AttentionMixer<float> attention({.num_heads = s.heads()}, s.model_dim);
  lm::TensorList<float> has, lacks;
  recurrent.AppendTensors("", has);
  attention.AppendTensors("", lacks);
  const std::int64_t unit = 3 * s.model_dim;
  return s.hidden_dim + (lm::CountElements(has) - lm::CountElements(lacks) + unit / 2) / unit;
}

// Calls `use` with an uninitialised model.
template <class Use>
auto WithModel(const RunSettings& s, Use use) {
  if (s.mixer == "attention") {  // heads of 64, rotary positions
    return use(AttentionModel({.vocabulary = s.vocabulary,
                               .model_dim = s.model_dim,
                               .layers = s.layers,
                               .hidden_dim = AttentionHiddenDim(s),
                               .mixer = {.num_heads = s.heads()}}));
  }
  return use(RecurrentModel({.vocabulary = s.vocabulary,
                             .model_dim = s.model_dim,
                             .layers = s.layers,
                             .hidden_dim = s.hidden_dim,
                             .mixer = {.step_size = s.mixer, .num_heads = s.heads()}}));
}

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_MODELS_H_
