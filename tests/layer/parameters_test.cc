// SPDX-License-Identifier: Apache-2.0
// tests/layer: names, shapes, order and initial values of the parameters.
#include "kla/layer/parameters.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace kla::test {
namespace {

constexpr LayerSizes kSizes = {
    .model_dim = 32, .key_heads = 2, .value_heads = 4, .key_dim = 6, .value_dim = 10};

TEST(ParametersTest, NamesAndShapes) {
  KlaParameters<float> parameters(kSizes);
  const std::vector<std::pair<std::string, std::vector<Index>>> expected = {
      {"q_proj.weight", {12, 32}},
      {"k_proj.weight", {12, 32}},
      {"v_proj.weight", {40, 32}},
      {"g_proj.weight", {40, 32}},
      {"a_proj.weight", {4, 32}},
      {"b_proj.weight", {4, 32}},
      {"b_proj.bias", {4}},
      {"A_log", {4}},
      {"dt_bias", {4}},
      {"q_conv1d.weight", {12, 1, 4}},
      {"k_conv1d.weight", {12, 1, 4}},
      {"v_conv1d.weight", {40, 1, 4}},
      {"o_norm.weight", {10}},
      {"o_proj.weight", {32, 40}}};
  const auto tensors = parameters.tensors();
  ASSERT_EQ(tensors.size(), expected.size());
  const float* next = parameters.values().data();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].name, expected[i].first);
    EXPECT_EQ(tensors[i].shape, expected[i].second);
    std::size_t size = 1;
    for (const Index extent : tensors[i].shape) size *= static_cast<std::size_t>(extent);
    EXPECT_EQ(tensors[i].values.size(), size);
    EXPECT_EQ(tensors[i].values.data(), next);  // one after the other, nothing between
    next += size;
  }
  EXPECT_EQ(next, parameters.values().data() + parameters.values().size());
}

TEST(ParametersTest, AtFindsByName) {
  KlaParameters<double> parameters(kSizes);
  parameters.at("dt_bias").values[2] = 7;
  const auto& constant = parameters;
  EXPECT_EQ(constant.at("dt_bias").values[2], 7);
  EXPECT_EQ(constant.at("o_proj.weight").shape, (std::vector<Index>{32, 40}));
  try {
    parameters.at("o_proj.bias");
    ADD_FAILURE();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "kla::KlaParameters: argument 'name': expected the name of a parameter, given "
                 "'o_proj.bias'");
  }
}

TEST(ParametersTest, CopiesAreIndependent) {
  KlaParameters<float> one(kSizes);
  KlaParameters<float> two = one;
  two.at("A_log").values[0] = 1;
  EXPECT_EQ(one.at("A_log").values[0], 0);
}

TEST(ParametersTest, InitialValues) {
  // Many heads, so that the range of every distribution is seen.
  const LayerSizes sizes = {
      .model_dim = 64, .key_heads = 400, .value_heads = 400, .key_dim = 2, .value_dim = 2};
  KlaParameters<float> parameters(sizes);
  std::mt19937_64 random(3);
  parameters.Initialize(random);
  const auto range = [&](const std::string& name) {
    const auto values = parameters.at(name).values;
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return std::pair<double, double>(*low, *high);
  };
  const auto expect_fills = [](std::pair<double, double> given, double low, double high) {
    const double slack = 0.05 * (high - low);
    EXPECT_GE(given.first, low);
    EXPECT_LE(given.first, low + slack);
    EXPECT_LE(given.second, high);
    EXPECT_GE(given.second, high - slack);
  };
  for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "g_proj.weight",
                           "a_proj.weight", "b_proj.weight"}) {
    expect_fills(range(name), -0.125, 0.125);
  }
  expect_fills(range("o_proj.weight"), -1 / std::sqrt(800.0), 1 / std::sqrt(800.0));
  expect_fills(range("q_conv1d.weight"), -0.5, 0.5);
  EXPECT_EQ(range("b_proj.bias"), std::make_pair(0.0, 0.0));
  EXPECT_EQ(range("o_norm.weight"), std::make_pair(1.0, 1.0));
  const auto a_log = range("A_log");
  expect_fills({std::exp(a_log.first), std::exp(a_log.second)}, 0, 16);
  const auto dt_bias = range("dt_bias");  // softplus gives dt back
  const auto log_dt = [](double bias) { return std::log(std::log1p(std::exp(bias))); };
  expect_fills({log_dt(dt_bias.first), log_dt(dt_bias.second)}, std::log(1e-3) - 1e-5,
               std::log(0.1) + 1e-5);
}

TEST(ParametersTest, ASeedMeansTheSameNumbersEverywhere) {
  KlaParameters<double> parameters(kSizes);
  std::mt19937_64 random(1);
  parameters.Initialize(random);
  // mt19937_64 with seed 1 begins with 2469588189546311528: W_q[0][0] follows from its top 53 bits.
  const double unit = static_cast<double>(2469588189546311528ull >> 11) * 0x1p-53;
  EXPECT_EQ(parameters.at("q_proj.weight").values[0], (2 * unit - 1) / std::sqrt(32.0));
}

}  // namespace
}  // namespace kla::test
