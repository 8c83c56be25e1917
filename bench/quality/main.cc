// SPDX-License-Identifier: Apache-2.0
// Quality benchmark, program: trains small models that differ in their mixer alone, on recall
// tasks and on text, and appends what they reach to a CSV file that bench/plot.py draws.
//
//   quality run --task mqar --mixer kla --seed 1 --out results.csv         one run
//   quality run --task mqar,sniah --mixer all --seed 1,2,3 --out ...       a table; what the file
//                                                                          holds is not run again
//   quality show --preset paper                                            sizes, without running
//
// An interrupted run (Ctrl-C, or killed: at most a minute is lost) goes on when the same command is
// given again, and ends in the same rows. presets.cc has the sizes, tasks.h the tasks.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bench/quality/models.h"
#include "bench/quality/results.h"
#include "bench/quality/run.h"
#include "bench/quality/settings.h"
#include "kla/core/executor.h"

namespace {

#if defined(_OPENMP)
using Threads = kla::OpenMp;
#else
using Threads = kla::Serial;
#endif

struct Command {
  std::vector<std::string> tasks = {"mqar"};
  std::vector<std::string> mixers = {"all"};
  std::vector<std::uint64_t> seeds = {1, 2, 3};
  std::string preset = "small";
  std::string out = "results.csv";
  std::string text = KLA_LM_DEFAULT_TEXT;
  // Instead of the preset's.
  std::optional<double> learning_rate;
  std::optional<std::int64_t> steps, batch, model_dim, vocabulary, pairs, time;
};

// "all", or some of `known`.
std::vector<std::string> Resolve(const std::vector<std::string>& names,
                                 const std::vector<std::string>& known) {
  return names == std::vector<std::string>{"all"} ? known : names;
}

quality::RunSettings MakeSettings(const Command& command, const std::string& task,
                                  const std::string& mixer, std::uint64_t seed) {
  quality::RunSettings settings = quality::Preset(command.preset, task);
  settings.mixer = mixer;
  settings.seed = seed;
  if (command.learning_rate) settings.learning_rate = *command.learning_rate;
  if (command.batch) settings.batch = *command.batch;
  if (command.model_dim) settings.model_dim = *command.model_dim;
  if (command.vocabulary) settings.vocabulary = *command.vocabulary;
  if (command.pairs) settings.pairs = *command.pairs;
  if (command.time) {
    for (std::int64_t& length : settings.test_lengths) {
      length = std::max<std::int64_t>(1, length * *command.time / settings.time);
    }
    settings.time = *command.time;
  }
  if (command.steps) {
    settings.warmup = settings.warmup * *command.steps / settings.steps;
    settings.steps = *command.steps;
  }
  settings.Check();
  return settings;
}

// False: interrupted.
bool RunOne(const quality::RunSettings& settings, const Command& command) {
  const std::filesystem::path csv = command.out;
  if (quality::HasRun(csv, settings)) {
    fmt::print("{} {} seed {}: in {} already\n", settings.task, settings.mixer, settings.seed,
               command.out);
    return true;
  }
  const quality::RunFiles files{
      .csv = csv,
      .checkpoint = fmt::format("{}.{}-{}-{}-{}.safetensors", command.out, settings.preset,
                                settings.task, settings.mixer, settings.seed),
      .text = command.text};
  return quality::WithModel(settings, [&](auto model) {
    fmt::print("{} {} seed {}: {} parameters, {} steps\n", settings.task, settings.mixer,
               settings.seed, lm::CountElements(model.Tensors()), settings.steps);
    std::fflush(stdout);
    return quality::Run(model, settings, files, Threads()).Execute();
  });
}

int RunTable(const Command& command) {
  std::signal(SIGINT, lm::RequestInterrupt);
  for (const std::string& task : Resolve(command.tasks, quality::kTasks)) {
    for (const std::uint64_t seed : command.seeds) {
      for (const std::string& mixer : Resolve(command.mixers, quality::kMixers)) {
        if (RunOne(MakeSettings(command, task, mixer, seed), command)) continue;
        fmt::print("interrupted and saved; the same command goes on\n");
        return 130;
      }
    }
  }
  return 0;
}

int Show(const Command& command) {
  for (const std::string& task : quality::kTasks) {
    const quality::RunSettings s = MakeSettings(command, task, "kla", 1);
    std::string lengths;
    for (const std::int64_t length : s.test_lengths) lengths += fmt::format(" {}", length);
    fmt::print(
        "{:<11} vocabulary {}, pairs or stacks {}, trained at {} tokens, tested at{}\n"
        "            {} layers, width {}, {} heads, feed-forward {}; {} steps of {} sequences, "
        "learning rate {}\n            parameters:",
        task, s.vocabulary, s.pairs, s.time, lengths, s.layers, s.model_dim, s.heads(),
        s.hidden_dim, s.steps, s.batch, s.learning_rate);
    for (const char* mixer : {"kla", "attention"}) {
      const auto settings = MakeSettings(command, task, mixer, 1);
      quality::WithModel(settings, [&](auto model) {
        fmt::print("  {} {}", mixer, lm::CountElements(model.Tensors()));
      });
    }
    fmt::print("\n");
  }
  return 0;
}

void AddSizes(CLI::App* app, Command& command) {
  app->add_option("--preset", command.preset, "paper, small (minutes a run) or smoke (seconds)")
      ->check(CLI::IsMember(quality::kPresets))
      ->capture_default_str();
  const char* group = "Instead of the preset's, for every mixer alike";
  app->add_option("--lr", command.learning_rate, "largest learning rate")->group(group);
  app->add_option("--steps", command.steps, "training steps")->group(group);
  app->add_option("--batch", command.batch, "sequences a step")->group(group);
  app->add_option("--time", command.time, "tokens of a training sequence; tests scale with it")
      ->group(group);
  app->add_option("--vocabulary", command.vocabulary, "number of tokens")->group(group);
  app->add_option("--pairs", command.pairs, "key-value pairs, or stacks")->group(group);
  app->add_option("--dim", command.model_dim, "width, a multiple of 64")->group(group);
}

void AddRun(CLI::App* app, Command& command) {
  const auto names = [](std::vector<std::string> known) {
    known.push_back("all");
    return known;
  };
  app->add_option("--task", command.tasks, "mqar, sniah, palindrome, stack, text; or all")
      ->delimiter(',')
      ->check(CLI::IsMember(names(quality::kTasks)))
      ->capture_default_str();
  app->add_option("--mixer", command.mixers,
                  "kla, gdn, relaxed-kaczmarz, kaczmarz, longhorn, plain-delta, attention; or all")
      ->delimiter(',')
      ->check(CLI::IsMember(names(quality::kMixers)))
      ->capture_default_str();
  app->add_option("--seed", command.seeds, "seeds of weights and data")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--out", command.out, "CSV file that results are appended to")
      ->capture_default_str();
  app->add_option("--text", command.text, "text file or folder for the task text")
      ->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Compares Kaczmarz Linear Attention with its rivals at equal parameters and budget");
  app.require_subcommand(1);
  Command command;
  CLI::App* run = app.add_subcommand("run", "train, test, append to the CSV; may be interrupted");
  AddRun(run, command);
  AddSizes(run, command);
  CLI::App* show = app.add_subcommand("show", "print the sizes of a preset");
  AddSizes(show, command);
  CLI11_PARSE(app, argc, argv);
  try {
    return *run ? RunTable(command) : Show(command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
  }
  return 1;
}
