// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: a training run on text, with saving and resuming.
#ifndef KLA_EXAMPLES_LM_TRAIN_H_
#define KLA_EXAMPLES_LM_TRAIN_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "examples/lm/checkpoint.h"
#include "examples/lm/progress.h"
#include "examples/lm/settings.h"
#include "examples/lm/text_corpus.h"
#include "examples/lm/trainer.h"

namespace lm {

struct TrainOptions {
  double minutes = 2.25;  // decides settings.steps where that is 0
  std::int64_t save_every = 0;
  std::filesystem::path run_file;               // where checkpoints go; empty: nowhere
  std::optional<std::filesystem::path> resume;  // start from this run file
  std::int64_t stop_after = 0;                  // steps to make before stopping early; 0: none
  std::FILE* progress = stdout;                 // null: silent
};

struct TrainOutcome {
  bool interrupted = false;
  std::int64_t steps = 0;
  bool steps_fit_minutes = false;  // their number came from the time, not from the settings
  bool steps_are_fewest = false;   // the time would have allowed fewer than a schedule takes
  double seconds = 0.0;
  double tokens_per_second = 0.0;
  double train_nats = 0.0;  // running mean of the last steps
};

// Set by Ctrl-C. The step under way is finished and saved.
inline std::atomic<bool> interrupt_requested{false};

inline void RequestInterrupt(int) {
  interrupt_requested = true;
  std::signal(SIGINT, SIG_DFL);  // a second Ctrl-C ends the program at once
}

// How many steps fill `minutes`, from the time that kTimedSteps took. The learning rate of those
// steps belongs to the warm-up, which does not depend on the answer: a run whose steps were found
// this way is the same, bit by bit, as one that was given the number.
inline constexpr std::int64_t kTimedSteps = 50;

inline std::int64_t FewestSteps(std::int64_t warmup) { return std::max(2 * warmup, kTimedSteps); }

inline std::int64_t StepsThatFit(double minutes, double seconds_per_step, std::int64_t warmup) {
  const auto fitting = static_cast<std::int64_t>(minutes * 60.0 / seconds_per_step);
  return std::max(fitting, FewestSteps(warmup));
}

template <class Model, class Executor>
TrainOutcome Train(Model& model, Settings& settings, const TextCorpus& corpus,
                   const TrainOptions& options, Executor executor) {
  using Clock = std::chrono::steady_clock;
  WindowSampler sampler(corpus.train, {.batch = settings.batch, .time = settings.time},
                        settings.seed);
  const std::string fingerprint = Fingerprint(corpus.train);
  std::mt19937_64 random(settings.seed);
  model.Initialize(random);
  Trainer<Model, Executor> trainer(model, settings.trainer(), executor);
  if (options.resume) LoadRun(*options.resume, trainer.optimizer(), fingerprint);
  const auto save = [&] {
    if (!options.run_file.empty()) {
      SaveRun(options.run_file, trainer.optimizer(), settings, fingerprint);
    }
  };

  const bool finds_steps = settings.steps == 0;
  if (finds_steps) {
    settings.warmup = std::max(settings.warmup, kTimedSteps);
    settings.steps = StepsThatFit(options.minutes, 1.0, settings.warmup);  // until it is known
    trainer.set_schedule(settings.trainer().schedule);
  }
  std::signal(SIGINT, RequestInterrupt);
  const std::int64_t first = trainer.step();
  Progress progress(first, settings.steps, settings.batch * settings.time, options.progress);
  TrainOutcome outcome;
  Clock::time_point timing_start;
  for (std::int64_t step = first; step < settings.steps; ++step) {
    const StepReport report = trainer.Step(sampler.At(step));
    const std::int64_t done = step + 1;
    const bool timed = !finds_steps || done >= kTimedSteps;
    if (finds_steps && done == 2) timing_start = Clock::now();  // memory is in place by now
    if (finds_steps && done == kTimedSteps) {
      const double spent = std::chrono::duration<double>(Clock::now() - timing_start).count();
      const double left = options.minutes - progress.seconds() / 60.0;
      const std::int64_t more = StepsThatFit(left, spent / (kTimedSteps - 2), settings.warmup);
      settings.steps = done + more / 10 * 10;
      outcome.steps_are_fewest = more == FewestSteps(settings.warmup);
      trainer.set_schedule(settings.trainer().schedule);
      progress.set_steps(settings.steps);
    }
    if (timed) progress.Update(done, report.loss.nats_per_row());
    if (options.save_every > 0 && timed && done % options.save_every == 0) save();
    const bool stop = interrupt_requested || (options.stop_after > 0 && done == options.stop_after);
    if (stop && timed && done < settings.steps) {
      outcome.interrupted = true;
      progress.Close();
      break;
    }
  }
  std::signal(SIGINT, SIG_DFL);
  save();
  outcome.steps = trainer.step();
  outcome.steps_fit_minutes = finds_steps;
  outcome.seconds = progress.seconds();
  outcome.tokens_per_second = progress.tokens_per_second(outcome.steps);
  outcome.train_nats = progress.mean_nats();
  return outcome;
}

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_TRAIN_H_
