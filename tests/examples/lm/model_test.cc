// SPDX-License-Identifier: Apache-2.0
// tests: the whole model: gradients, decoding against training, labels, threads, files, resuming.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "examples/lm/attention_mixer.h"
#include "examples/lm/checkpoint.h"
#include "examples/lm/evaluate.h"
#include "examples/lm/generate.h"
#include "examples/lm/kla_mixer.h"
#include "examples/lm/language_model.h"
#include "examples/lm/train.h"
#include "kla/kla.h"
#include "tests/examples/lm/gradient_check.h"
#include "tests/examples/lm/scratch_folder.h"

namespace lm::testing {
namespace {

using kla::Serial;

// As many threads as tasks, in whatever order they come: results may not depend on it.
struct ManyThreads {
  template <class F>
  void ParallelFor(std::int64_t count, const F& task) const {
    std::vector<std::thread> threads;
    for (std::int64_t i = count; i-- > 0;) threads.emplace_back([&task, i] { task(i); });
    for (std::thread& thread : threads) thread.join();
  }
};

// A model of each kind, small enough for finite differences.
template <class T>
LanguageModel<AttentionMixer<T>> SmallModel(AttentionMixer<T>*) {
  return LanguageModel<AttentionMixer<T>>({.vocabulary = 256,
                                           .model_dim = 8,
                                           .layers = 2,
                                           .hidden_dim = 12,
                                           .mixer = {.num_heads = 2}});
}

template <class Backend, class Shape, class StepSize, class T>
auto SmallModel(KlaMixer<Backend, Shape, StepSize, T>*) {
  return LanguageModel<KlaMixer<Backend, Shape, StepSize, T>>({.vocabulary = 256,
                                                               .model_dim = 8,
                                                               .layers = 2,
                                                               .hidden_dim = 12,
                                                               .mixer = {.num_heads = 2}});
}

template <class M>
auto SmallModel() {
  return SmallModel(static_cast<M*>(nullptr));
}

std::vector<std::int32_t> RandomTokens(std::int64_t count, std::mt19937_64& random) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random() % 256));
  return tokens;
}

template <class M>
class ModelGradientTest : public ::testing::Test {};
using DoubleMixers = ::testing::Types<KlaMixer<kla::Reference, kla::Shape<4, 8>, kla::Kla, double>,
                                      KlaMixer<kla::Reference, kla::Shape<4, 8>, kla::Gdn, double>,
                                      AttentionMixer<double>>;
TYPED_TEST_SUITE(ModelGradientTest, DoubleMixers);

TYPED_TEST(ModelGradientTest, MatchesFiniteDifferences) {
  auto model = SmallModel<TypeParam>(), gradient = SmallModel<TypeParam>();
  using Model = decltype(model);
  std::mt19937_64 random(1);
  model.Initialize(random);
  for (TensorRef<double>& tensor : gradient.Tensors()) {
    std::fill(tensor.values.begin(), tensor.values.end(), 0.0);
  }
  const Window window{.batch = 2, .time = 7};
  const std::vector<std::int32_t> tokens = RandomTokens(14, random);
  std::vector<std::int32_t> labels = RandomTokens(14, random);
  labels[3] = labels[13] = Model::kNoLabel;
  typename Model::Workspace workspace;
  const LossSum loss = model.Forward(tokens, labels, window, workspace);
  EXPECT_EQ(loss.count, 12);
  model.Backward(tokens, window, 0.5, workspace, gradient);
  ExpectGradients(
      model.Tensors(), gradient.Tensors(),
      [&] { return 0.5 * model.Forward(tokens, labels, window, workspace).nats; }, 12);
}

TYPED_TEST(ModelGradientTest, StepsEqualForwardEqualContinuedForward) {
  auto model = SmallModel<TypeParam>();
  using Model = decltype(model);
  std::mt19937_64 random(2);
  model.Initialize(random);
  const std::int64_t time = 40;
  const std::vector<std::int32_t> tokens = RandomTokens(time, random);
  std::vector<std::int32_t> labels(tokens.begin() + 1, tokens.end());
  labels.push_back(7);
  typename Model::Workspace workspace;
  const double whole = model.Forward(tokens, labels, {.batch = 1, .time = time}, workspace).nats;

  typename Model::State state = model.MakeState(1);
  Matrix<double> logits;
  double stepped = 0.0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    model.Step(std::span(tokens).subspan(i, 1), state, logits);
    stepped += CrossEntropyInPlace<double>(std::span(labels).subspan(i, 1), logits).nats;
  }
  typename Model::State continued_state = model.MakeState(1);
  double continued = 0.0;
  for (std::size_t begin = 0; begin < tokens.size(); begin += 13) {
    const std::size_t count = std::min<std::size_t>(13, tokens.size() - begin);
    continued += model
                     .Forward(std::span(tokens).subspan(begin, count),
                              std::span(labels).subspan(begin, count),
                              {.batch = 1, .time = static_cast<std::int64_t>(count)}, workspace,
                              &continued_state)
                     .nats;
  }
  // 40 losses of about 5.5 nats in double precision: a relative error of 1e-12 is 5000 roundings.
  EXPECT_NEAR(stepped, whole, 1e-12 * whole);
  EXPECT_NEAR(continued, whole, 1e-12 * whole);
}

template <class M>
class ModelRunTest : public ::testing::Test {
 protected:
  using Model = decltype(SmallModel<M>());

  ModelRunTest() {
    settings_.batch = 6;
    settings_.time = 24;
    settings_.warmup = 3;
    settings_.steps = 12;
    settings_.seed = 77;
    std::mt19937_64 random(3);
    for (int i = 0; i < 4; ++i) {
      std::string bytes;
      for (int j = 0; j < 600; ++j) bytes += "the quick brown fox "[(j * (i + 1)) % 20];
      corpus_.train.push_back({std::to_string(i), bytes});
    }
    corpus_.validation.push_back({"v", corpus_.train[1].bytes.substr(0, 300)});
  }

  template <class Executor>
  Model Trained(Executor executor, TrainOptions options = {}) {
    options.progress = nullptr;
    Model model = SmallModel<M>();
    Settings settings = settings_;
    Train(model, settings, corpus_, options, executor);
    return model;
  }

  static void ExpectSameBits(Model& a, Model& b) {
    const auto x = a.Tensors(), y = b.Tensors();
    ASSERT_EQ(x.size(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(std::memcmp(x[i].values.data(), y[i].values.data(), x[i].values.size_bytes()), 0)
          << x[i].name;
    }
  }

  Settings settings_;
  TextCorpus corpus_;
  ScratchFolder folder_;
};
using FloatMixers =
    ::testing::Types<KlaMixer<kla::DefaultBackend, kla::Shape<4, 8>, kla::Kla, float>,
                     AttentionMixer<float>>;
TYPED_TEST_SUITE(ModelRunTest, FloatMixers);

TYPED_TEST(ModelRunTest, ThreadsDoNotChangeABit) {
  auto one = this->Trained(Serial{}), many = this->Trained(ManyThreads{});
  this->ExpectSameBits(one, many);
  this->corpus_.validation.push_back(this->corpus_.train[2]);
  EXPECT_EQ(EvaluateDocuments(one, this->corpus_.validation, 50, 0, Serial{}).nats,
            EvaluateDocuments(one, this->corpus_.validation, 50, 0, ManyThreads{}).nats);
}

// However a batch is cut, it is the same sum but for the order of its terms.
TYPED_TEST(ModelGradientTest, ShardsAddUpToTheBatch) {
  std::mt19937_64 random(4);
  Batch batch{.window = {.batch = 5, .time = 9}, .tokens = {}, .labels = {}};
  batch.tokens = RandomTokens(45, random);
  batch.labels = RandomTokens(45, random);
  batch.labels[7] = -1;
  const auto trained = [&](std::int64_t shards) {
    auto model = SmallModel<TypeParam>();
    std::mt19937_64 seed(5);
    model.Initialize(seed);
    Trainer<decltype(model), Serial> trainer(
        model, {.shards = shards, .optimizer = {}, .schedule = {.warmup = 0}}, Serial{});
    const StepReport report = trainer.Step(batch);
    EXPECT_EQ(report.loss.count, 44);
    EXPECT_LT(trainer.Evaluate(batch).nats, report.loss.nats);  // the step went downhill
    return std::pair(report.gradient_norm, report.loss.nats);
  };
  const auto [norm, nats] = trained(1);
  for (const std::int64_t shards : {2, 3, 5, 8}) {
    EXPECT_NEAR(trained(shards).first, norm, 1e-12 * norm);
    EXPECT_NEAR(trained(shards).second, nats, 1e-12 * nats);
  }
}

TYPED_TEST(ModelRunTest, ResumedRunEndsInTheSameBits) {
  const std::filesystem::path file = this->folder_.path() / "run.safetensors";
  auto uninterrupted = this->Trained(Serial{});
  TrainOptions first;
  first.run_file = file;
  first.stop_after = 5;  // as Ctrl-C does
  auto half = this->Trained(Serial{}, first);
  EXPECT_EQ(SafetensorsFile(file).Require("step"), "5");
  TrainOptions second;
  second.resume = file;
  auto resumed = this->Trained(Serial{}, second);
  this->ExpectSameBits(uninterrupted, resumed);
}

TYPED_TEST(ModelRunTest, RefusesToResumeOnAnotherText) {
  TrainOptions options;
  options.run_file = this->folder_.path() / "run.safetensors";
  this->Trained(Serial{}, options);
  this->corpus_.train[2].bytes[10] ^= 1;
  options.resume = options.run_file;
  EXPECT_THROW(this->Trained(Serial{}, options), FileError);
}

TYPED_TEST(ModelRunTest, SavedModelGeneratesTheSameBytes) {
  auto model = this->Trained(Serial{});
  const std::filesystem::path file = this->folder_.path() / "model.safetensors";
  SaveModel(file, model, this->settings_);
  EXPECT_EQ(ReadSettings(SafetensorsFile(file), file, kModelFormat).seed, 77u);
  // These settings speak of a width of 128, the model has 8: nobody is to build one from them.
  EXPECT_THROW(ReadSettings(file, kModelFormat), FileError);
  auto loaded = SmallModel<TypeParam>();
  LoadModel(file, loaded);
  this->ExpectSameBits(model, loaded);
  const std::string sample = GenerateBytes(model, "the ", 100, 0.9, 5);
  EXPECT_EQ(sample.size(), 100u);
  EXPECT_EQ(GenerateBytes(loaded, "the ", 100, 0.9, 5), sample);
  EXPECT_NE(GenerateBytes(loaded, "the ", 100, 0.9, 6), sample);
  EXPECT_EQ(GenerateBytes(loaded, "the ", 30, 0.0, 5), GenerateBytes(loaded, "the ", 30, 0.0, 6));
  EXPECT_THROW(ReadSettings(SafetensorsFile(file), file, kRunFormat), FileError);
}

TYPED_TEST(ModelRunTest, FilesWithBadMetadataAreErrors) {
  auto model = SmallModel<TypeParam>();
  const std::filesystem::path file = this->folder_.path() / "x.safetensors";
  Settings too_wide = this->settings_;
  too_wide.model_dim = std::int64_t{1} << 40;
  for (const std::string& settings :
       {std::string("{"), std::string("{}"), std::string("[1]"), std::string("{\"mixer\":3}"),
        nlohmann::json(too_wide).dump()}) {
    SaveSafetensors(file, model.Tensors(), {{"format", kModelFormat}, {"settings", settings}});
    EXPECT_THROW(LoadModel(file, model), FileError) << settings;
  }
  TrainOptions options;
  options.resume = file;
  for (const char* step : {"", "-1", "3x", "99999999999999999999"}) {
    SaveSafetensors(file, model.Tensors(),
                    {{"format", kRunFormat},
                     {"settings", nlohmann::json(this->settings_).dump()},
                     {"step", step},
                     {"text", Fingerprint(this->corpus_.train)}});
    EXPECT_THROW(this->Trained(Serial{}, options), FileError) << step;
  }
}

TYPED_TEST(ModelRunTest, TrainingLearnsAPeriodicText) {
  this->settings_.steps = 150;
  this->settings_.learning_rate = 1e-2;
  auto model = this->Trained(Serial{});
  // Untrained, a byte costs 8 bits; the order-0 entropy of these texts is above 3.
  EXPECT_LT(EvaluateDocuments(model, this->corpus_.validation, 24, 24, Serial{}).bits_per_row(),
            2.0);
}

}  // namespace
}  // namespace lm::testing
