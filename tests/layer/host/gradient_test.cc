// SPDX-License-Identifier: Apache-2.0
// tests/layer: the gradient of x and of every parameter, against automatic differentiation of the
// naive layer and against finite differences.
#include <Eigen/Core>
#include <cstdint>
#include <unsupported/Eigen/AutoDiff>
#include <vector>

#include "gtest/gtest.h"
#include "layer/layer_support.h"

namespace kla::test {
namespace {

using AutoDiff = Eigen::AutoDiffScalar<Eigen::VectorXd>;

// sum(y dy) and the weights dy that make it a scalar.
template <class Layer>
struct Loss {
  const Layer& layer;
  ModelView<const double> x, dy;
  ForwardOptions<typename Layer::State> options = {};

  double operator()() const {
    LayerWorkspace<double> workspace;
    auto inference = options;
    inference.keep_for_backward = false;
    const auto y = Values(layer.Forward(x, workspace, inference));
    const auto weights = Values(dy);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * weights[i];
    return sum;
  }
};

// ---- Automatic differentiation, element by element, for every step size
// --------------------------

template <class C>
class LayerAutoDiffTest : public ::testing::Test {};

using K3V2 = Shape<3, 2>;
using AutoDiffConfigs =
    ::testing::Types<LayerConfig<Reference, double, K3V2, Kla>,
                     LayerConfig<Reference, double, K3V2, RelaxedKaczmarz>,
                     LayerConfig<Reference, double, K3V2, Kaczmarz>,
                     LayerConfig<Reference, double, K3V2, Gdn>,
                     LayerConfig<Reference, double, K3V2, Longhorn>,
                     LayerConfig<Reference, double, K3V2, PlainDelta>,
                     LayerConfig<Simd, double, K3V2, Kla>, LayerConfig<Simd, double, K3V2, Gdn>>;
TYPED_TEST_SUITE(LayerAutoDiffTest, AutoDiffConfigs, LayerConfigName);

TYPED_TEST(LayerAutoDiffTest, EveryGradient) {
  using StepSize = typename TypeParam::StepSize;
  constexpr Index kTokens = 7, kModel = 5;
  const KlaLayerConfig config = {.model_dim = kModel, .num_heads = 1, .num_value_heads = 2};
  const auto layer = MakeLayer<typename TypeParam::Layer>(config);
  const auto x = RandomModel<double>(1, kTokens, kModel);
  const auto dy = RandomModel<double>(1, kTokens, kModel, 3);

  LayerWorkspace<double> workspace;
  auto gradients = layer.MakeGradients();
  layer.Forward(x.view(), workspace);
  const auto dx = Values(layer.Backward(dy.view(), workspace, gradients));

  // One variable for each parameter, in the order of values(), then one for each element of x.
  const auto parameter_count = static_cast<Eigen::Index>(layer.parameters().values().size());
  const Eigen::Index count = parameter_count + kTokens * kModel;
  auto variables = NaiveLayer<StepSize, AutoDiff>::Copy(layer.parameters());
  Eigen::Index next = 0;
  for (const auto& [name, shape, values] : layer.parameters().tensors()) {
    for (AutoDiff& variable : variables.at(name)) {
      variable.derivatives() = Eigen::VectorXd::Unit(count, next++);
    }
  }
  ASSERT_EQ(next, parameter_count);
  auto rows = NaiveRows<AutoDiff>(x.view(), 0, 0, kTokens);
  for (auto& row : rows) {
    for (AutoDiff& variable : row) variable.derivatives() = Eigen::VectorXd::Unit(count, next++);
  }
  const NaiveLayer<StepSize, AutoDiff> naive(config, layer.sizes(), variables);
  const auto y = naive.Forward(rows);
  Eigen::VectorXd expected = Eigen::VectorXd::Zero(count);
  for (Index t = 0; t < kTokens; ++t) {
    for (Index c = 0; c < kModel; ++c) {
      expected += dy.view()(0, t, c) *
                  y[static_cast<std::size_t>(t)][static_cast<std::size_t>(c)].derivatives();
    }
  }

  // Both sum some 10^3 products of numbers up to 10^2: roundoff stays below 1e-10 of the largest.
  const auto expect_equal = [&](const std::string& name, const double* actual, Eigen::Index begin,
                                Eigen::Index size) {
    const Eigen::VectorXd reference = expected.segment(begin, size);
    const Eigen::Map<const Eigen::VectorXd> given(actual, size);
    if (name != "b_proj.weight" && name != "b_proj.bias") {
      EXPECT_GT(reference.norm(), 0) << name;
    } else if (std::is_same_v<StepSize, Kaczmarz>) {
      EXPECT_EQ(given.norm(), 0) << "the Kaczmarz step does not depend on eta";
    }
    EXPECT_LE((given - reference).norm(), 1e-10 * (1 + reference.norm())) << name;
  };
  next = 0;
  for (const auto& [name, shape, values] : gradients.tensors()) {
    const auto size = static_cast<Eigen::Index>(values.size());
    expect_equal(name, values.data(), next, size);
    next += size;
  }
  expect_equal("x", dx.data(), next, kTokens * kModel);
}

// ---- The layer itself with a scalar that carries derivatives
// -------------------------------------

TEST(LayerScalarTest, ForwardAndStepCarryDerivatives) {
  using Plain = KlaLayer<Reference, K3V2, Kla, double>;
  using Carrying = KlaLayer<Reference, K3V2, Kla, AutoDiff>;
  const KlaLayerConfig config = {.model_dim = 4, .num_heads = 1};
  const auto plain = MakeLayer<Plain>(config);
  Carrying carrying(config);
  const auto count = static_cast<Eigen::Index>(plain.parameters().values().size());
  for (Eigen::Index i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    carrying.parameters().values()[at] =
        AutoDiff(plain.parameters().values()[at], Eigen::VectorXd::Unit(count, i));
  }
  const auto x = RandomModel<double>(1, 6, 4);
  const std::vector<double> flat = Values(x.view());
  const std::vector<AutoDiff> constants(flat.begin(), flat.end());
  const ModelView<const AutoDiff> input(constants.data(), {1, 6, 4});

  LayerWorkspace<AutoDiff> workspace;
  const auto y = carrying.Forward(input, workspace, {.keep_for_backward = false});
  auto state = carrying.MakeState(1);
  std::vector<AutoDiff> stepped(flat.size());
  for (Index t = 0; t < 6; ++t) {
    carrying.Step(ModelView<const AutoDiff>(constants.data() + t * 4, {1, 1, 4}), state,
                  ModelView<AutoDiff>(stepped.data() + t * 4, {1, 1, 4}));
  }

  LayerWorkspace<double> plain_workspace;
  auto gradients = plain.MakeGradients();
  const auto plain_y = Values(plain.Forward(x.view(), plain_workspace));
  const std::vector<double> ones(flat.size(), 1.0);
  plain.Backward(ModelView<const double>(ones.data(), {1, 6, 4}), plain_workspace, gradients);
  const Eigen::Map<const Eigen::VectorXd> expected(gradients.values().data(), count);
  Eigen::VectorXd forward = Eigen::VectorXd::Zero(count), steps = forward;
  for (std::size_t i = 0; i < flat.size(); ++i) {
    EXPECT_NEAR(y.data()[i].value(), plain_y[i], 1e-12);
    EXPECT_NEAR(stepped[i].value(), plain_y[i], 1e-12);
    forward += y.data()[i].derivatives();
    steps += stepped[i].derivatives();
  }
  EXPECT_LE((forward - expected).norm(), 1e-10 * expected.norm());
  EXPECT_LE((steps - expected).norm(), 1e-10 * expected.norm());
}

// ---- Finite differences, along random directions, on everything that Forward can be asked for
// ----

template <class C>
class LayerGradientTest : public ::testing::Test {
 public:
  using Layer = typename C::Layer;

  // d loss along a direction, in memory that loss reads, by central differences.
  static void ExpectSlope(const std::string& name, const Loss<Layer>& loss, std::span<double> at,
                          std::span<const double> gradient) {
    std::mt19937_64 random(7);
    std::normal_distribution<double> normal;
    const std::vector<double> start(at.begin(), at.end());
    double slope = 0, length2 = 0;
    std::vector<double> direction(at.size());
    for (std::size_t i = 0; i < at.size(); ++i) {
      direction[i] = normal(random);
      slope += direction[i] * gradient[i];
      length2 += direction[i] * direction[i];
    }
    // Fourth-order differences: the remainder is O(h^4), roundoff u |loss| / h.
    const double h = 2e-4 / std::sqrt(length2);
    const auto moved = [&](double steps) {
      for (std::size_t i = 0; i < at.size(); ++i) at[i] = start[i] + steps * h * direction[i];
      return loss();
    };
    const double difference = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h);
    std::copy(start.begin(), start.end(), at.begin());
    const double scale = std::abs(slope) + std::sqrt(length2);
    EXPECT_NEAR(difference, slope, 1e-7 * scale) << name;
  }

  static void ExpectGradients(Layer& layer, const Loss<Layer>& loss, std::span<double> x) {
    LayerWorkspace<double> workspace;
    auto gradients = layer.MakeGradients();
    layer.Forward(loss.x, workspace, loss.options);
    const auto dx = Values(layer.Backward(loss.dy, workspace, gradients));
    ExpectSlope("x", loss, x, dx);
    auto tensors = layer.parameters().tensors();
    for (auto& [name, shape, values] : tensors) {
      ExpectSlope(name, loss, values, gradients.at(name).values);
    }
  }
};

using GradientConfigs = ::testing::Types<LayerConfig<Reference, double, Shape<6, 10>>,
                                         LayerConfig<Reference, double, DynamicShape, Longhorn>,
                                         LayerConfig<Reference, double, Shape<6, 10>, Gdn>,
                                         LayerConfig<Simd, double, Shape<6, 10>>>;
TYPED_TEST_SUITE(LayerGradientTest, GradientConfigs, LayerConfigName);

TYPED_TEST(LayerGradientTest, Batches) {
  auto layer = MakeLayer<typename TypeParam::Layer>(
      {.model_dim = 9, .num_heads = 2, .key_dim = 6, .value_dim = 10, .scale = 0.5});
  auto x = RandomModel<double>(3, 5, 9), dy = RandomModel<double>(3, 5, 9, 3);
  TestFixture::ExpectGradients(layer, {layer, x.view(), dy.view()}, {x.view().data(), 3 * 5 * 9});
}

TYPED_TEST(LayerGradientTest, MoreThanOneChunkAndTiledHeads) {
  auto layer = MakeLayer<typename TypeParam::Layer>({.model_dim = 9,
                                                     .num_heads = 2,
                                                     .num_value_heads = 4,
                                                     .key_dim = 6,
                                                     .value_dim = 10,
                                                     .grouping = HeadGrouping::kTiled});
  auto x = RandomModel<double>(1, 70, 9), dy = RandomModel<double>(1, 70, 9, 3);
  TestFixture::ExpectGradients(layer, {layer, x.view(), dy.view()}, {x.view().data(), 70 * 9});
}

TYPED_TEST(LayerGradientTest, PackedSequencesThatContinue) {
  auto layer = MakeLayer<typename TypeParam::Layer>(
      {.model_dim = 9, .num_heads = 1, .num_value_heads = 2, .key_dim = 6, .value_dim = 10});
  auto x = RandomModel<double>(1, 70, 9), dy = RandomModel<double>(1, 70, 9, 3);
  const std::vector<std::int64_t> offsets = {0, 1, 1, 3, 64, 70}, slots = {1, 2, -1, 0, 3};
  auto state = layer.MakeState(4);
  const auto before = RandomModel<double>(4, 9, 9, 4);
  layer.Step(before.view(), state, ModelView<double>(before.view()));
  TestFixture::ExpectGradients(layer,
                               {layer,
                                x.view(),
                                dy.view(),
                                {.cu_seqlens = offsets, .initial_state = &state, .slots = slots}},
                               {x.view().data(), 70 * 9});
}

// ---- What Backward does with what it is given
// ----------------------------------------------------

TEST(LayerBackwardTest, AccumulatesOrOverwrites) {
  using Layer = KlaLayer<Reference, Shape<4, 6>, Kla, double>;
  const auto layer = MakeLayer<Layer>({.model_dim = 8, .num_heads = 2});
  const auto x = RandomModel<double>(2, 70, 8), dy = RandomModel<double>(2, 70, 8, 3);
  LayerWorkspace<double> workspace;
  layer.Forward(x.view(), workspace);
  auto once = layer.MakeGradients(), overwritten = layer.MakeGradients();
  auto summed = layer.MakeGradients();
  const auto dx = Values(layer.Backward(dy.view(), workspace, once));
  for (double& value : overwritten.values()) value = 1e6;
  for (double& value : summed.values()) value = 3;
  EXPECT_EQ(Values(layer.Backward(dy.view(), workspace, overwritten)), dx);
  layer.Backward(dy.view(), workspace, summed, GradientMode::kAccumulate);
  for (std::size_t i = 0; i < once.values().size(); ++i) {
    EXPECT_EQ(overwritten.values()[i], once.values()[i]);
    EXPECT_NEAR(summed.values()[i], 3 + once.values()[i], 1e-12 * (3 + std::abs(once.values()[i])));
  }
  // No tokens, no gradient.
  layer.Forward(ModelView<const double>(nullptr, {2, 0, 8}), workspace);
  layer.Backward(ModelView<const double>(nullptr, {2, 0, 8}), workspace, overwritten);
  for (const double value : overwritten.values()) EXPECT_EQ(value, 0);
  layer.Backward(ModelView<const double>(nullptr, {2, 0, 8}), workspace, once,
                 GradientMode::kAccumulate);
  EXPECT_NE(once.values()[0], 0);
}

// Batch rows that are not evenly spaced, and x not contiguous: the same results.
TEST(LayerBackwardTest, StridedViewsGiveTheSame) {
  using Layer = KlaLayer<Reference, Shape<4, 6>, Kla, double>;
  const auto layer = MakeLayer<Layer>({.model_dim = 8, .num_heads = 2});
  const auto run = [&](Placement placement) {
    const auto x = RandomModel<double>(3, 11, 8, 2, placement);
    const auto dy = RandomModel<double>(3, 11, 8, 3, placement);
    LayerWorkspace<double> workspace;
    auto gradients = layer.MakeGradients();
    auto all = Values(layer.Forward(x.view(), workspace));
    for (const double value : Values(layer.Backward(dy.view(), workspace, gradients))) {
      all.push_back(value);
    }
    all.insert(all.end(), gradients.values().begin(), gradients.values().end());
    return all;
  };
  const auto contiguous = run(Placement::kContiguous), strided = run(Placement::kStrided);
  ASSERT_EQ(contiguous.size(), strided.size());
  for (std::size_t i = 0; i < contiguous.size(); ++i) {
    EXPECT_NEAR(contiguous[i], strided[i], 1e-12 * (1 + std::abs(contiguous[i])));
  }
}

}  // namespace
}  // namespace kla::test
