// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: from the name of a mixer to a model that has it.
#ifndef KLA_EXAMPLES_LM_MIXERS_H_
#define KLA_EXAMPLES_LM_MIXERS_H_

#include <stdexcept>
#include <string>

#include "examples/lm/attention_mixer.h"
#include "examples/lm/language_model.h"
#include "examples/lm/settings.h"

namespace lm {

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
  if (settings.mixer == "attention") {
    return use(MakeModel<AttentionMixer<float>>(settings, {.num_heads = settings.heads()}));
  }
  throw std::invalid_argument("no mixer is called '" + settings.mixer + "'");
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_MIXERS_H_
