// SPDX-License-Identifier: Apache-2.0
// Language-model example, output: one line that follows a training run.
#ifndef KLA_EXAMPLES_LM_PROGRESS_H_
#define KLA_EXAMPLES_LM_PROGRESS_H_

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

namespace lm {

inline std::string FormatDuration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::lround(std::max(0.0, seconds)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

// On a terminal the line is redrawn in place, at most ten times a second; elsewhere (a file, a
// pipe, CI) it becomes a plain line every `quiet_interval` seconds and one at the end. Without an
// output it only keeps count.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress(std::int64_t first_step, std::int64_t steps, std::int64_t tokens_per_step,
           std::FILE* out, double quiet_interval = 15.0, std::string unit = "byte")
      : first_step_(first_step),
        steps_(steps),
        tokens_per_step_(tokens_per_step),
        terminal_(out != nullptr && ::isatty(::fileno(out)) != 0),
        interval_(terminal_ ? 0.1 : quiet_interval),
        out_(out),
        unit_(std::move(unit)),
        start_(Clock::now()),
        last_drawn_(start_) {}

  // After `done` of all steps; `nats` is that step's loss per token, shown as a running mean.
  void Update(std::int64_t done, double nats) {
    mean_ = std::isnan(mean_) ? nats : mean_ + (nats - mean_) * kBlend;
    if (out_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    const bool last = done == steps_;
    if (!last && std::chrono::duration<double>(now - last_drawn_).count() < interval_) return;
    last_drawn_ = now;
    fmt::print(out_, "{}{}{}", terminal_ ? "\r\x1b[2K" : "", Line(done),
               terminal_ && !last ? "" : "\n");
    std::fflush(out_);
  }

  // Ends a line that an interruption would leave open.
  void Close() {
    if (terminal_ && !std::isnan(mean_)) fmt::print(out_, "\n");
  }

  void set_steps(std::int64_t steps) { steps_ = steps; }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double tokens_per_second(std::int64_t done) const {
    return static_cast<double>((done - first_step_) * tokens_per_step_) / seconds();
  }
  double mean_nats() const { return mean_; }

  std::string Line(std::int64_t done) const {
    const double share = static_cast<double>(done) / static_cast<double>(steps_);
    const double per_step =
        seconds() / static_cast<double>(std::max<std::int64_t>(1, done - first_step_));
    const auto filled = static_cast<std::size_t>(share * kWidth);
    return fmt::format("[{}{}] {}/{}  loss {:.4f}  {:.3f} bits/{}  {:.0f} tokens/s  {} left",
                       std::string(filled, '#'), std::string(kWidth - filled, '.'), done, steps_,
                       mean_, mean_ / std::log(2.0), unit_, tokens_per_second(done),
                       FormatDuration(per_step * static_cast<double>(steps_ - done)));
  }

 private:
  static constexpr std::size_t kWidth = 24;
  static constexpr double kBlend = 0.05;  // running mean over about twenty steps

  std::int64_t first_step_, steps_, tokens_per_step_;
  bool terminal_;
  double interval_;
  std::FILE* out_;
  std::string unit_;  // what one label stands for
  Clock::time_point start_, last_drawn_;
  double mean_ = std::nan("");
};

}  // namespace lm

#endif  // KLA_EXAMPLES_LM_PROGRESS_H_
