// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: kla::KlaLayer with a step size chosen by name when the program runs.
#ifndef KLA_BENCH_QUALITY_STEP_SIZE_MIXER_H_
#define KLA_BENCH_QUALITY_STEP_SIZE_MIXER_H_

#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <variant>

#include "examples/lm/kla_mixer.h"
#include "examples/lm/matrix.h"
#include "examples/lm/tensor_list.h"
#include "kla/kla.h"

namespace quality {

// The layers differ in their step size alone: parameters, workspaces and states are of one type, so
// that one LanguageModel serves them all.
class StepSizeMixer {
 public:
  using Scalar = float;
  using Shape = kla::Shape</*key*/ 48, /*value*/ 96>;
  template <class StepSize>
  using Of = lm::KlaMixer<kla::DefaultBackend, Shape, StepSize, Scalar>;
  using Workspace = Of<kla::Kla>::Workspace;
  using State = Of<kla::Kla>::State;
  struct Config {
    std::string step_size;
    std::int64_t num_heads;
  };

  StepSizeMixer(const Config& config, std::int64_t model_dim) : mixer_(Make(config, model_dim)) {}

  void Initialize(std::mt19937_64& random) {
    std::visit([&](auto& mixer) { mixer.Initialize(random); }, mixer_);
  }
  void AppendTensors(const std::string& prefix, lm::TensorList<Scalar>& list) {
    std::visit([&](auto& mixer) { mixer.AppendTensors(prefix, list); }, mixer_);
  }
  void Forward(const lm::Matrix<Scalar>& x, lm::Window window, lm::Matrix<Scalar>& y,
               Workspace& workspace, State* state) const {
    std::visit([&](const auto& mixer) { mixer.Forward(x, window, y, workspace, state); }, mixer_);
  }
  void Backward(const lm::Matrix<Scalar>& x, const lm::Matrix<Scalar>& dy, lm::Window window,
                Workspace& workspace, lm::Matrix<Scalar>& dx, StepSizeMixer& gradient) const {
    std::visit(
        [&]<class M>(const M& mixer) {
          mixer.Backward(x, dy, window, workspace, dx, std::get<M>(gradient.mixer_));
        },
        mixer_);
  }
  State MakeState(std::int64_t batch) const {
    return std::visit([&](const auto& mixer) { return mixer.MakeState(batch); }, mixer_);
  }
  void Step(const lm::Matrix<Scalar>& x, State& state, lm::Matrix<Scalar>& y) const {
    std::visit([&](const auto& mixer) { mixer.Step(x, state, y); }, mixer_);
  }

 private:
  using Any = std::variant<Of<kla::Kla>, Of<kla::RelaxedKaczmarz>, Of<kla::Kaczmarz>, Of<kla::Gdn>,
                           Of<kla::Longhorn>, Of<kla::PlainDelta>>;

  static Any Make(const Config& config, std::int64_t model_dim) {
    const std::string& name = config.step_size;
    const lm::KlaMixerConfig heads{.num_heads = config.num_heads};
    if (name == "kla") return Of<kla::Kla>(heads, model_dim);
    if (name == "relaxed-kaczmarz") return Of<kla::RelaxedKaczmarz>(heads, model_dim);
    if (name == "kaczmarz") return Of<kla::Kaczmarz>(heads, model_dim);
    if (name == "gdn") return Of<kla::Gdn>(heads, model_dim);
    if (name == "longhorn") return Of<kla::Longhorn>(heads, model_dim);
    if (name == "plain-delta") return Of<kla::PlainDelta>(heads, model_dim);
    throw std::invalid_argument("no mixer is called '" + name + "'");
  }

  Any mixer_;
};

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_STEP_SIZE_MIXER_H_
