// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: from the name of a mixer to a model that has it.
#ifndef KLA_EXAMPLES_LM_MIXERS_H_
#define KLA_EXAMPLES_LM_MIXERS_H_

#include <stdexcept>
#include <string>

#include "examples/lm/attention_mixer.h"
#include "examples/lm/kla_mixer.h"
#include "examples/lm/language_model.h"
#include "examples/lm/settings.h"
#include "kla/kla.h"

namespace lm {

// 48 and 96: the paper's small models. With D / 64 heads, q and k have 0.75 D columns, v 1.5 D.
using HeadShape = kla::Shape</*key*/ 48, /*value*/ 96>;
template <class StepSize, class T = float>
using TextMixer = KlaMixer<kla::DefaultBackend, HeadShape, StepSize, T>;

template <class M>
LanguageModel<M> MakeModel(const Settings& settings, const typename M::Config& mixer) {
  return LanguageModel<M>({.vocabulary = settings.vocabulary,
                           .model_dim = settings.model_dim,
                           .layers = settings.layers,
                           .hidden_dim = settings.hidden_dim,
                           .mixer = mixer});
}

// Calls `use` with an uninitialised model of the kind and size that the settings name.
template <class Use>
auto WithModel(const Settings& settings, Use use) {
  if (settings.mixer == "kla") {
    return use(MakeModel<TextMixer<kla::Kla>>(settings, {.num_heads = settings.heads()}));
  }
  if (settings.mixer == "gdn") {
    return use(MakeModel<TextMixer<kla::Gdn>>(settings, {.num_heads = settings.heads()}));
  }
  if (settings.mixer == "attention") {
    return use(MakeModel<AttentionMixer<float>>(settings, {.num_heads = settings.heads()}));
  }
  throw std::invalid_argument("no mixer is called '" + settings.mixer +
                              "'; there are kla, gdn and attention");
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_MIXERS_H_
