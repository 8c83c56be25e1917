// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: one run, from initial weights, or from where it was interrupted, to its rows.
#ifndef KLA_BENCH_QUALITY_RUN_H_
#define KLA_BENCH_QUALITY_RUN_H_

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/quality/data.h"
#include "bench/quality/results.h"
#include "bench/quality/settings.h"
#include "examples/lm/checkpoint.h"
#include "examples/lm/progress.h"
#include "examples/lm/train.h"
#include "examples/lm/trainer.h"

namespace quality {

struct RunFiles {
  std::filesystem::path csv;
  std::filesystem::path checkpoint;  // exists while the run is unfinished
  std::string text;                  // file or folder, for the task "text"
  std::FILE* progress = stdout;
};

// Attention over more bytes than this costs minutes and, beyond the training length, says little.
inline constexpr std::int64_t kLongestAttentionText = 16384;

template <class Model, class Executor>
class Run {
 public:
  Run(Model& model, const RunSettings& settings, RunFiles files, Executor executor)
      : model_(model),
        settings_(settings),
        files_(std::move(files)),
        executor_(executor),
        data_(settings, files_.text),
        trainer_(model, settings.trainer(), executor) {}

  // False: interrupted, and saved.
  bool Execute() {
    std::mt19937_64 random(settings_.seed);
    model_.Initialize(random);
    if (std::filesystem::exists(files_.checkpoint)) Load();
    if (!Train()) return false;
    Test();
    AppendRun(files_.csv, settings_, model_.config().hidden_dim,
              lm::CountElements(model_.Tensors()), TokensPerSecond(), measurements_);
    std::filesystem::remove(files_.checkpoint);
    return true;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::int64_t kCurvePoints = 12;
  static constexpr double kSaveSeconds = 60.0;

  bool Train() {
    const std::int64_t first = trainer_.step();
    const double seconds_before = seconds_;
    lm::Progress progress(first, settings_.steps, settings_.batch * settings_.time, files_.progress,
                          30.0, settings_.task == "text" ? "byte" : "label");
    double saved = 0.0;
    for (std::int64_t step = first; step < settings_.steps; ++step) {
      const lm::StepReport report = trainer_.Step(data_.Train(step));
      since_curve_ += report.loss;
      seconds_ = seconds_before + progress.seconds();
      const std::int64_t done = step + 1;
      const bool diverged = !std::isfinite(report.loss.nats);
      if (diverged ||
          done * kCurvePoints / settings_.steps > step * kCurvePoints / settings_.steps) {
        measurements_.push_back(Measure("curve", done, settings_.time, since_curve_));
        since_curve_ = {};
      }
      if (diverged) {
        fmt::print("diverged after {} steps\n", done);
        return true;
      }
      progress.Update(done, report.loss.nats_per_row());
      if (lm::interrupt_requested && done < settings_.steps) {
        progress.Close();
        Save();
        return false;
      }
      if (progress.seconds() - saved > kSaveSeconds) {
        Save();
        saved = progress.seconds();
      }
    }
    return true;
  }

  void Test() {
    std::string line;
    for (const std::int64_t length : settings_.test_lengths) {
      if (settings_.task == "text" && settings_.mixer == "attention" &&
          length > kLongestAttentionText) {
        continue;
      }
      const lm::LossSum loss = data_.Test(length, trainer_, model_, executor_);
      measurements_.push_back(Measure("test", trainer_.step(), length, loss));
      const Measurement& m = measurements_.back();
      line += settings_.task == "text" ? fmt::format("  {}: {:.4f}", length, std::exp(m.nats))
                                       : fmt::format("  {}: {:.2f} %", length, 100.0 * m.accuracy);
    }
    fmt::print("{} by length{}   {:.0f} tokens/s\n",
               settings_.task == "text" ? "perplexity" : "accuracy", line, TokensPerSecond());
    std::fflush(stdout);
  }

  double TokensPerSecond() const {
    return static_cast<double>(trainer_.step() * settings_.batch * settings_.time) / seconds_;
  }

  void Save() {
    const nlohmann::json so_far = {{"measurements", measurements_},
                                   {"nats", since_curve_.nats},
                                   {"count", since_curve_.count},
                                   {"correct", since_curve_.correct},
                                   {"seconds", seconds_}};
    lm::SaveOptimizer(files_.checkpoint, trainer_.optimizer(),
                      {{"format", kFormat},
                       {"settings", nlohmann::json(settings_).dump()},
                       {"text", data_.fingerprint()},
                       {"so_far", so_far.dump()}});
  }

  void Load() {
    lm::SafetensorsFile file(files_.checkpoint);
    const auto require = [&](const char* entry, const std::string& expected) {
      if (file.Require(entry) == expected) return;
      throw lm::FileError(files_.checkpoint,
                          fmt::format("belongs to another run: its {} is {}, not "
                                      "{}; delete it to start anew",
                                      entry, file.Require(entry), expected));
    };
    require("format", kFormat);
    require("settings", nlohmann::json(settings_).dump());
    require("text", data_.fingerprint());
    lm::LoadOptimizer(file, files_.checkpoint, trainer_.optimizer());
    try {
      const nlohmann::json so_far = nlohmann::json::parse(file.Require("so_far"));
      measurements_ = so_far.at("measurements").get<std::vector<Measurement>>();
      since_curve_ = {so_far.at("nats"), so_far.at("count"), so_far.at("correct")};
      seconds_ = so_far.at("seconds");
    } catch (const nlohmann::json::exception& error) {
      throw lm::FileError(files_.checkpoint, error.what());
    }
    fmt::print("going on from step {}\n", trainer_.step());
  }

  static constexpr const char* kFormat = "kla-quality-run-1";

  Model& model_;
  RunSettings settings_;
  RunFiles files_;
  Executor executor_;
  Data data_;
  lm::Trainer<Model, Executor> trainer_;
  std::vector<Measurement> measurements_;
  lm::LossSum since_curve_;  // training loss since the last point of the curve
  double seconds_ = 0.0;     // of training, interruptions left out
};

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_RUN_H_
