// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: what a run gives, and the CSV file it is appended to.
#ifndef KLA_BENCH_QUALITY_RESULTS_H_
#define KLA_BENCH_QUALITY_RESULTS_H_

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/quality/settings.h"
#include "examples/lm/cross_entropy.h"

namespace quality {

// One measurement. curve: the mean over the training steps since the previous one, each batch seen
// before it is learnt from. test: over the held-out sequences of one length, after training.
struct Measurement {
  std::string kind;
  std::int64_t step = 0;    // steps made
  std::int64_t length = 0;  // tokens a sequence; text: bytes of context
  std::int64_t labels = 0;
  double accuracy = 0.0;
  double nats = 0.0;  // mean loss; perplexity = exp(nats)
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Measurement, kind, step, length, labels, accuracy, nats)

inline Measurement Measure(const std::string& kind, std::int64_t step, std::int64_t length,
                           const lm::LossSum& loss) {
  return {kind,
          step,
          length,
          loss.count,
          static_cast<double>(loss.correct) / static_cast<double>(loss.count),
          loss.nats_per_row()};
}

inline constexpr const char* kCsvHeader =
    "preset,task,mixer,seed,learning_rate,steps,batch,time,vocabulary,pairs,model_dim,layers,"
    "hidden_dim,parameters,tokens_per_second,commit,kind,step,length,labels,accuracy,nats";

// Of the source, when the build was configured; "unknown" outside git.
const char* Commit();

// The first columns: they tell one run from another.
inline std::string RunColumns(const RunSettings& s) {
  return fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},", s.preset, s.task, s.mixer, s.seed,
                     s.learning_rate, s.steps, s.batch, s.time, s.vocabulary, s.pairs, s.model_dim,
                     s.layers);
}

// Throws where the file is something else, so that nothing is appended to it.
inline bool HasRun(const std::filesystem::path& csv, const RunSettings& settings) {
  std::ifstream in(csv);
  std::string line;
  if (!in || !std::getline(in, line)) return false;
  if (line != kCsvHeader) {
    throw std::runtime_error(csv.string() + ": not a file of results; its first line should be " +
                             kCsvHeader);
  }
  const std::string wanted = RunColumns(settings);
  while (std::getline(in, line)) {
    if (line.starts_with(wanted)) return true;
  }
  return false;
}

// All of a run's measurements at once, when it is finished: a run is in the file whole or not.
inline void AppendRun(const std::filesystem::path& csv, const RunSettings& settings,
                      std::int64_t hidden_dim, std::int64_t parameters, double tokens_per_second,
                      const std::vector<Measurement>& measurements) {
  std::error_code none;
  const bool fresh = !std::filesystem::exists(csv) || std::filesystem::file_size(csv, none) == 0;
  std::string text = fresh ? std::string(kCsvHeader) + "\n" : std::string();
  for (const Measurement& m : measurements) {
    text += RunColumns(settings);
    text += fmt::format("{},{},{:.0f},{},{},{},{},{},{:.4f},{:.4f}\n", hidden_dim, parameters,
                        tokens_per_second, Commit(), m.kind, m.step, m.length, m.labels, m.accuracy,
                        m.nats);
  }
  std::ofstream out(csv, std::ios::app | std::ios::binary);
  out << text << std::flush;
  if (!out) throw std::runtime_error(csv.string() + ": cannot write");
}

}  // namespace quality

#endif  // KLA_BENCH_QUALITY_RESULTS_H_
