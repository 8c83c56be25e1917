// SPDX-License-Identifier: Apache-2.0
// tests: reading, splitting and sampling text, and the byte models it is compared with.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/lm/byte_models.h"
#include "examples/lm/compressor.h"
#include "examples/lm/text_corpus.h"
#include "tests/examples/lm/scratch_folder.h"

namespace lm::testing {
namespace {

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(TextCorpusTest, ReadsTextFilesByNameAndNothingElse) {
  ScratchFolder folder;
  WriteFile(folder.path() / "b" / "x.txt", "second");
  WriteFile(folder.path() / "a.txt", "first\xff");
  WriteFile(folder.path() / "empty.txt", "");
  WriteFile(folder.path() / "binary", std::string("a\0b", 3));
  std::filesystem::create_symlink(folder.path() / "a.txt", folder.path() / "link");
  const std::vector<Document> documents = ReadDocuments(folder.path());
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].name, "a.txt");
  EXPECT_EQ(documents[0].bytes, "first\xff");
  EXPECT_EQ(documents[1].name, "b/x.txt");
  EXPECT_THROW(ReadDocuments(folder.path() / "absent"), std::runtime_error);
}

TEST(TextCorpusTest, SplitsByFileAndLosesNothing) {
  ScratchFolder folder;
  for (int i = 0; i < 40; ++i) {
    WriteFile(folder.path() / std::to_string(i), std::string(100, static_cast<char>('a' + i % 26)));
  }
  const TextCorpus corpus = LoadTextCorpus(folder.path(), 0.1);
  EXPECT_EQ(corpus.validation.size(), 4u);
  EXPECT_EQ(corpus.train.size(), 36u);
  std::set<std::string> names;
  for (const Document& d : corpus.train) names.insert(d.name);
  for (const Document& d : corpus.validation) names.insert(d.name);
  EXPECT_EQ(names.size(), 40u);
  const TextCorpus again = LoadTextCorpus(folder.path(), 0.1);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(corpus.validation[i].name, again.validation[i].name);
  }
}

TEST(TextCorpusTest, CutsALoneFile) {
  ScratchFolder folder;
  WriteFile(folder.path() / "only", "0123456789");
  const TextCorpus corpus = LoadTextCorpus(folder.path() / "only", 0.3);
  EXPECT_EQ(corpus.train[0].bytes, "0123456");
  EXPECT_EQ(corpus.validation[0].bytes, "789");
}

std::vector<Document> SomeDocuments() {
  std::mt19937_64 random(3);
  std::vector<Document> documents;
  for (const std::size_t size : {301u, 1u, 500u, 77u}) {
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(1 + random() % 255);
    documents.push_back({"", bytes});
  }
  return documents;
}

TEST(WindowSamplerTest, LabelsAreTheFollowingBytes) {
  const std::vector<Document> documents = SomeDocuments();
  std::string stream;
  for (const Document& d : documents) stream += std::string(1, '\0') + d.bytes;
  WindowSampler sampler(documents, {.batch = 3, .time = 16}, 5);
  for (std::int64_t step = 0; step < 2 * sampler.steps_per_epoch(); ++step) {
    const Batch batch = sampler.At(step);
    ASSERT_EQ(batch.tokens.size(), 48u);
    for (std::size_t b = 0; b < 3; ++b) {
      std::string window;
      for (std::size_t t = 0; t < 16; ++t) {
        window += static_cast<char>(batch.tokens[b * 16 + t]);
        if (t > 0) {
          EXPECT_EQ(batch.tokens[b * 16 + t], batch.labels[b * 16 + t - 1]);
        }
      }
      window += static_cast<char>(batch.labels[b * 16 + 15]);
      EXPECT_NE(stream.find(window), std::string::npos);
    }
  }
}

TEST(WindowSamplerTest, AnEpochSeesEachWindowOnceAndOrderDependsOnStepAlone) {
  const std::vector<Document> documents = SomeDocuments();
  const Window window{.batch = 2, .time = 20};
  WindowSampler sampler(documents, window, 9), other(documents, window, 9);
  WindowSampler other_seed(documents, window, 10);
  std::multiset<std::vector<std::int32_t>> seen;
  for (std::int64_t step = 0; step < sampler.steps_per_epoch(); ++step) {
    const Batch batch = sampler.At(step);
    for (std::int64_t b = 0; b < 2; ++b) {
      seen.insert({batch.tokens.begin() + b * 20, batch.tokens.begin() + (b + 1) * 20});
    }
  }
  EXPECT_EQ(std::set<std::vector<std::int32_t>>(seen.begin(), seen.end()).size(), seen.size());
  const std::int64_t later = sampler.steps_per_epoch() + 3;
  const Batch skipped_to = other.At(later);
  EXPECT_EQ(skipped_to.tokens, sampler.At(later).tokens);
  EXPECT_NE(skipped_to.tokens, sampler.At(3).tokens);
  EXPECT_NE(other_seed.At(0).tokens, sampler.At(0).tokens);
  EXPECT_THROW(WindowSampler(documents, {.batch = 100, .time = 20}, 1), std::runtime_error);
}

// Whatever has been counted, the probabilities of the 256 bytes add up to one.
TEST(ByteCountModelTest, ProbabilitiesSumToOne) {
  ByteCountModel<2> model;
  const auto expect_one = [&](std::size_t history) {
    double sum = 0.0;
    for (int c = 0; c < 256; ++c) sum += model.Probability(history, static_cast<char>(c));
    EXPECT_NEAR(sum, 1.0, 1e-12);
  };
  expect_one('a');
  model.Train({{"", "abracadabra abracadabra"}});
  expect_one(0);
  expect_one('a' << 8 | 'b');
  expect_one('z' << 8 | 'a');
  expect_one('a' << 8 | 'z');
}

TEST(ByteCountModelTest, WittenBellByHand) {
  ByteCountModel<1> model;
  model.Train({{"", "aab"}});
  // Order 0: a twice, b once, two kinds. Order 1 after a: a once, b once, two kinds.
  const double a0 = (2.0 + 2.0 / 256.0) / 5.0;
  EXPECT_DOUBLE_EQ(model.Probability('b', 'a'), a0);  // b has no successor yet
  EXPECT_DOUBLE_EQ(model.Probability('a', 'a'), (1.0 + 2.0 * a0) / 4.0);
  EXPECT_DOUBLE_EQ(model.Probability('a', 'z'), 2.0 * (2.0 / 256.0 / 5.0) / 4.0);
}

TEST(ByteCountModelTest, FindsTheEntropyOfItsSource) {
  // A fair coin of 'x' and 'y' costs one bit a byte; after an 'x' of order 1 nothing is left to say
  // about strictly alternating text.
  std::mt19937_64 random(4);
  std::string coin, alternating;
  for (int i = 0; i < 20000; ++i) {
    coin += random() % 2 ? 'x' : 'y';
    alternating += i % 2 ? 'x' : 'y';
  }
  ByteCountModel<0> order0;
  order0.Train({{"", coin}});
  EXPECT_NEAR(order0.BitsPerByte({{"", coin}}), 1.0, 0.01);
  ByteCountModel<1> order1;
  order1.Train({{"", alternating}});
  EXPECT_LT(order1.BitsPerByte({{"", alternating}}), 0.001);
}

TEST(CompressorTest, KnowsRepetitionFromNoise) {
  const std::vector<Document> repeated{{"", std::string(100000, 'a')}};
  const auto size = CompressedBytes({&repeated});
  if (!size) GTEST_SKIP() << "xz is not installed";
  EXPECT_LT(*size, 1000);
  std::mt19937_64 random(5);
  std::string noise(10000, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  const std::vector<Document> noisy{{"", noise}};
  EXPECT_GT(CompressedBytes({&noisy}).value(), 10000);
  // Noise that has been read before costs next to nothing.
  EXPECT_LT(CompressedBytes({&noisy, &noisy}).value(), 10500);
}

}  // namespace
}  // namespace lm::testing
