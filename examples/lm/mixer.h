// SPDX-License-Identifier: Apache-2.0
// Language-model example, blocks: what a block asks of the layer that mixes tokens over time.
#ifndef KLA_EXAMPLES_LM_MIXER_H_
#define KLA_EXAMPLES_LM_MIXER_H_

#include <concepts>
#include <cstdint>
#include <random>
#include <string>

#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"

namespace lm {

// A causal map from x [rows, D] to y [rows, D], built from (Config, D). KlaMixer and AttentionMixer
// are two; whatever satisfies this trains, decodes and saves with the rest of the example.
//
//   Forward(x, window, y, workspace, state)   y overwritten. Without a state every sequence starts
//       afresh and the workspace keeps what Backward needs. With one (window.batch sequences) the
//       sequences continue from it and it is updated; Backward may then not be called.
//   Backward(x, dy, window, workspace, dx, gradient)   dx overwritten, gradient added to. The
//       gradient is a mixer of the same type, so that it lists its tensors in the same order.
//   MakeState(batch), Step(x, state, y)   x, y [batch, D]: one token for each sequence.
//
// Forward, Backward and Step are const and share nothing, so that threads may call them at once
// with a workspace and a gradient each.
template <class M>
concept Mixer = requires(M mixer, const M const_mixer, const Matrix<typename M::Scalar>& x,
                         Matrix<typename M::Scalar>& y, Window window,
                         typename M::Workspace& workspace, typename M::State& state,
                         TensorList<typename M::Scalar>& list, std::mt19937_64& random) {
  requires std::constructible_from<M, const typename M::Config&, std::int64_t>;
  mixer.Initialize(random);
  mixer.AppendTensors(std::string(), list);
  const_mixer.Forward(x, window, y, workspace, &state);
  const_mixer.Backward(x, x, window, workspace, y, mixer);
  { const_mixer.MakeState(std::int64_t{1}) } -> std::same_as<typename M::State>;
  const_mixer.Step(x, state, y);
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_MIXER_H_
