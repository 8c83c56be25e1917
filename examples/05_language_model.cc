// SPDX-License-Identifier: Apache-2.0
// Language-model example, program: trains a byte-level language model on text, measures it, and
// generates from it.
//
//   05_language_model train --text DIR        train, compare, sample, save
//   05_language_model train --resume RUN      go on with an interrupted run
//   05_language_model generate --model FILE   sample from a saved model
//
// What happens is in train.h (the run), report.h (the comparison) and generate.h (decoding).

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "examples/lm/checkpoint.h"
#include "examples/lm/evaluate.h"
#include "examples/lm/generate.h"
#include "examples/lm/mixers.h"
#include "examples/lm/report.h"
#include "examples/lm/settings.h"
#include "examples/lm/text_corpus.h"
#include "examples/lm/train.h"
#include "kla/core/executor.h"

namespace {

#if defined(_OPENMP)
using Threads = kla::OpenMp;
#else
using Threads = kla::Serial;
#endif

struct SampleOptions {
  std::string prompt = "template <typename ";
  std::int64_t bytes = 400;
  double temperature = 0.5;  // readable after a minute of training; above 0.6 words fall apart
  std::uint64_t seed = 1;
};

struct TrainCommand {
  lm::Settings settings;
  lm::TrainOptions options;
  SampleOptions sample;
  std::string text = KLA_LM_DEFAULT_TEXT;
  std::string out = "language_model";
  std::string resume;
  std::int64_t evaluation_context = -1;
  double decode_seconds = 0.5;
};

template <class Model>
std::string Sample(const Model& model, const SampleOptions& sample) {
  return lm::GenerateBytes(model, sample.prompt, sample.bytes, sample.temperature, sample.seed);
}

void PrintSample(const SampleOptions& sample, const std::string& bytes) {
  fmt::print("sample, temperature {}, seed {}, after the prompt {:?}\n{}\n", sample.temperature,
             sample.seed, sample.prompt, lm::Printable(bytes));
}

// Recurrent mixers read a document as one stream. Attention is good for the length it was trained
// on and its cost grows with the square of the context, so it starts afresh after that.
template <class Model>
lm::LossSum Validate(const Model& model, const lm::TextCorpus& corpus, const TrainCommand& command,
                     const Threads& threads) {
  const bool recurrent = command.settings.mixer != "attention";
  const std::int64_t natural = recurrent ? 0 : command.settings.time;
  const std::int64_t context =
      command.evaluation_context >= 0 ? command.evaluation_context : natural;
  constexpr std::int64_t kWindow = 1024;
  return lm::EvaluateDocuments(model, corpus.validation,
                               context > 0 ? std::min(context, kWindow) : kWindow, context,
                               threads);
}

template <class Model>
int TrainAndReport(Model model, TrainCommand& command, const lm::TextCorpus& corpus) {
  namespace fs = std::filesystem;
  lm::Settings& settings = command.settings;
  fs::create_directories(command.out);
  const fs::path model_file = fs::path(command.out) / "model.safetensors";
  command.options.run_file = fs::path(command.out) / "run.safetensors";
  if (!command.resume.empty()) command.options.resume = command.resume;

  fmt::print("text       {}\n", command.text);
  fmt::print("           {} files, {} bytes to train; {} files, {} bytes to validate\n",
             corpus.train.size(), lm::CountBytes(corpus.train), corpus.validation.size(),
             lm::CountBytes(corpus.validation));
  fmt::print("model      {} x {}, width {}, {} heads, feed-forward {}: {} parameters\n",
             settings.layers, settings.mixer, settings.model_dim, settings.heads(),
             settings.hidden_dim, lm::CountElements(model.Tensors()));
  const Threads threads;
  fmt::print("training   {} windows of {} bytes a step, {} threads, AdamW {}\n", settings.batch,
             settings.time, threads.Concurrency(), settings.learning_rate);
  std::fflush(stdout);

  const lm::TrainOutcome outcome = lm::Train(model, settings, corpus, command.options, threads);
  if (outcome.interrupted) {
    fmt::print("interrupted after {} of {} steps; go on with\n  train --text '{}' --resume '{}'\n",
               outcome.steps, settings.steps, command.text, command.options.run_file.string());
    return 130;
  }
  lm::SaveModel(model_file, model, settings);

  const lm::LossSum loss = Validate(model, corpus, command, threads);
  const lm::BitsTable bits = lm::CompareBits(corpus, loss);
  const std::string sample = Sample(model, command.sample);
  const std::vector<lm::DecodeRow> decode =
      lm::CompareDecoding(model, settings, corpus.validation.front().bytes, command.decode_seconds);

  fmt::print("\n");
  PrintSample(command.sample, sample);
  fmt::print("\n");
  lm::Print(decode, settings.mixer);
  fmt::print("\n");
  lm::Print(bits, settings.mixer);
  fmt::print("\ntrained    {} steps in {}, {:.0f} tokens/s, {} threads; repeat with --steps {}\n",
             outcome.steps, lm::FormatDuration(outcome.seconds), outcome.tokens_per_second,
             threads.Concurrency(), settings.steps);
  fmt::print("saved      {}\n", model_file.string());
  fmt::print("{}", lm::Verdict(bits, lm::TrainingSentence(outcome, command.options.minutes)));

  nlohmann::ordered_json json = lm::ToJson(bits, decode);
  json["settings"] = nlohmann::json(settings);
  json["train_bits_per_byte"] = outcome.train_nats / std::log(2.0);
  json["train_seconds"] = outcome.seconds;
  json["train_tokens_per_second"] = outcome.tokens_per_second;
  std::ofstream(fs::path(command.out) / "result.json") << json.dump(2) << "\n";
  return 0;
}

int RunTrain(TrainCommand& command) {
  if (!command.resume.empty()) {
    command.settings = lm::ReadSettings(command.resume, lm::kRunFormat);
  }
  lm::Settings& settings = command.settings;
  if (settings.steps > 0) settings.warmup = std::min(settings.warmup, settings.steps / 2);
  settings.Check();
  const lm::TextCorpus corpus = lm::LoadTextCorpus(command.text, settings.validation_share);
  return lm::WithModel(
      settings, [&](auto model) { return TrainAndReport(std::move(model), command, corpus); });
}

int RunGenerate(const std::string& file, const SampleOptions& sample, bool raw) {
  const lm::Settings settings = lm::ReadSettings(file, lm::kModelFormat);
  return lm::WithModel(settings, [&](auto model) {
    lm::LoadModel(file, model);
    const std::string bytes = Sample(model, sample);
    if (raw) {
      std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    } else {
      PrintSample(sample, bytes);
    }
    return 0;
  });
}

void AddSampleOptions(CLI::App* app, SampleOptions& sample) {
  app->add_option("--prompt", sample.prompt, "bytes the sample follows")->capture_default_str();
  app->add_option("--bytes", sample.bytes, "length of the sample")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--temperature", sample.temperature, "0: always the likeliest byte")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--sample-seed", sample.seed, "seed of the sample")->capture_default_str();
}

void AddTrainOptions(CLI::App* app, TrainCommand& command) {
  app->option_defaults()->always_capture_default()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);
  lm::Settings& s = command.settings;
  app->add_option("--text", command.text, "text file or folder; split by file");
  app->add_option("--out", command.out, "folder for model, run and result");
  CLI::Option* resume =
      app->add_option("--resume", command.resume,
                      "go on with this run.safetensors; its settings replace those below");
  const auto setting = [&](const char* name, auto& value, const char* help) {
    app->add_option(name, value, help)->excludes(resume)->group("Settings");
  };
  setting("--mixer", s.mixer, "kla, gdn or attention");
  setting("--dim", s.model_dim, "width, a multiple of 64");
  setting("--layers", s.layers, "number of blocks");
  setting("--hidden", s.hidden_dim, "width of the feed-forward network");
  setting("--batch", s.batch, "windows a step");
  setting("--time", s.time, "bytes a window");
  setting("--steps", s.steps, "0: as many as fit in --minutes");
  setting("--warmup", s.warmup, "steps of linear warm-up");
  setting("--lr", s.learning_rate, "largest learning rate");
  setting("--final-lr", s.final_rate, "learning rate at the end, relative to --lr");
  setting("--weight-decay", s.weight_decay, "of matrices");
  setting("--beta2", s.beta2, "AdamW's second decay");
  setting("--clip", s.clip_norm, "largest norm of the gradient; 0: no limit");
  setting("--shards", s.shards, "parts of a batch with a gradient each; limits the threads");
  setting("--seed", s.seed, "weights and order of the data");
  setting("--validation-share", s.validation_share, "of the bytes");
  app->add_option("--minutes", command.options.minutes, "training time where --steps is 0")
      ->check(CLI::PositiveNumber);
  app->add_option("--save-every", command.options.save_every, "steps between checkpoints; 0: end")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--evaluation-context", command.evaluation_context,
                  "bytes after which validation starts afresh; 0: whole documents; -1: 0 for "
                  "recurrent mixers, --time for attention");
  app->add_option("--decode-seconds", command.decode_seconds, "per entry of the decoding table")
      ->check(CLI::PositiveNumber);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A byte-level language model on Kaczmarz Linear Attention");
  app.require_subcommand(1);
  TrainCommand train;
  CLI::App* train_app = app.add_subcommand("train", "train, compare, sample, save");
  AddTrainOptions(train_app, train);
  AddSampleOptions(train_app, train.sample);
  std::string model_file;
  SampleOptions sample;
  bool raw = false;
  CLI::App* generate_app = app.add_subcommand("generate", "sample from a saved model");
  generate_app->add_option("--model", model_file, "model.safetensors of a run")->required();
  generate_app->add_flag("--raw", raw, "print the sampled bytes and nothing else");
  AddSampleOptions(generate_app, sample);
  CLI11_PARSE(app, argc, argv);
  try {
    return *train_app ? RunTrain(train) : RunGenerate(model_file, sample, raw);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: not enough memory for a model or batch of this size\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
  }
  return 1;
}
