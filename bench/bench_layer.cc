// SPDX-License-Identifier: Apache-2.0
// bench: KlaLayer, training and generation, beside the parts that it cannot do without.
//   LayerForward/Simd/f32/D<D>/K<K>/V<V>/heads:<H>/tokens:<T>[/threads:<P>]     keeps for Backward
//   LayerBackward/...                                                           of that Forward
//   LayerPrefill/...                                                            keeps nothing
//   LayerStep/Simd/f32/D<D>/K<K>/V<V>/heads:<H>/sequences:<N>                    a token for each
//   LayerProducts/..., LayerProductsBackward/..., LayerProductsStep/...         matrix products
//   alone LayerRecurrence/..., LayerRecurrenceBackward/..., LayerRecurrenceStep/...   the operation
//   alone
// Time outside products and recurrence (convolution, gates, norm) is the difference.
// tokens/s: of all sequences together; FLOP/s: of the matrix products.
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "bench_main.h"
#include "kla/layer.h"

namespace kla::bench {
namespace {

using internal::MatrixRef;
using internal::Operand;
using internal::Result;

AlignedVector<float> RandomVector(Index size) {
  AlignedVector<float> values(static_cast<std::size_t>(size));
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (float& value : values) value = uniform(random);
  return values;
}

// make() builds the data and returns what is timed.
void RegisterTokens(const std::string& name, Index tokens, double flops,
                    const std::function<std::function<void()>()>& make) {
  RegisterBody(name, make, [=](benchmark::State& state) {
    constexpr auto kRate = benchmark::Counter::kIsIterationInvariantRate;
    state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), kRate);
    if (flops > 0) state.counters["FLOP/s"] = benchmark::Counter(flops, kRate);
  });
}

template <class Head, class Exec = Serial>
class LayerBench {
 public:
  using Layer = KlaLayer<Simd, Head>;

  LayerBench(Index model_dim, Index heads, const Exec& executor = {})
      : config_{.model_dim = model_dim, .num_heads = heads}, executor_(executor) {}

  void RegisterTraining(Index tokens) const {
    const auto name = [&](const std::string& what) {
      return Name(what) + "/tokens:" + std::to_string(tokens) + Threads();
    };
    const double flops = ProductFlops(tokens);
    RegisterTokens(name("LayerForward"), tokens, flops, [=, *this] {
      auto data = std::make_shared<Data>(config_, tokens);
      return [=, *this] { data->layer.Forward(data->input(), data->workspace, {}, executor_); };
    });
    RegisterTokens(name("LayerPrefill"), tokens, flops, [=, *this] {
      auto data = std::make_shared<Data>(config_, tokens);
      return [=, *this] {
        data->layer.Forward(data->input(), data->workspace, {.keep_for_backward = false},
                            executor_);
      };
    });
    RegisterTokens(name("LayerBackward"), tokens, 2 * flops, [=, *this] {
      auto data = std::make_shared<Data>(config_, tokens);
      data->layer.Forward(data->input(), data->workspace, {}, executor_);
      return [=, *this] {
        data->layer.Backward(data->input(), data->workspace, data->gradients,
                             GradientMode::kOverwrite, executor_);
      };
    });
    RegisterTokens(name("LayerProducts"), tokens, flops, Products(tokens));
    RegisterTokens(name("LayerProductsBackward"), tokens, 2 * flops, ProductsBackward(tokens));
    RegisterTokens(name("LayerRecurrence"), tokens, 0, Recurrence(tokens));
    RegisterTokens(name("LayerRecurrenceBackward"), tokens, 0, RecurrenceBackward(tokens));
  }

  void RegisterGeneration(Index sequences) const {
    const auto name = [&](const std::string& what) {
      return Name(what) + "/sequences:" + std::to_string(sequences) + Threads();
    };
    const double flops = ProductFlops(sequences);
    RegisterTokens(name("LayerStep"), sequences, flops, [=, *this] {
      auto data = std::make_shared<Data>(config_, sequences);
      auto state = std::make_shared<typename Layer::State>(data->layer.MakeState(sequences));
      auto y = std::make_shared<AlignedVector<float>>(data->x.size());
      const Index width = config_.model_dim;
      return [=, *this] {
        data->layer.Step(ModelView<const float>(data->x.data(), {sequences, 1, width}), *state,
                         ModelView<float>(y->data(), {sequences, 1, width}), {}, executor_);
      };
    });
    RegisterTokens(name("LayerProductsStep"), sequences, flops, Products(sequences));
    RegisterTokens(name("LayerRecurrenceStep"), sequences, 0, [=, *this] {
      auto in = std::make_shared<In>(Index{1}, config_.num_heads, Head::kKeyDim, Head::kValueDim,
                                     sequences);
      auto state = std::make_shared<DecodeState<Simd, Head>>(sequences, config_.num_heads);
      return [=, *this] {
        DecodeStep<Simd, Head>(DecodeStepArgs<float>{.q = {in->q.data(), in->extents_k},
                                                     .k = {in->k.data(), in->extents_k},
                                                     .v = {in->v.data(), in->extents_v},
                                                     .g = {in->g.data(), in->extents_g},
                                                     .eta = {in->eta.data(), in->extents_g},
                                                     .o = {in->o.data(), in->extents_v}},
                               *state, executor_);
      };
    });
  }

 private:
  using In = Inputs<float>;

  struct Data {
    Data(const KlaLayerConfig& config, Index tokens)
        : layer(config),
          gradients(layer.MakeGradients()),
          x(RandomVector(tokens * config.model_dim)),
          token_count(tokens) {
      std::mt19937_64 random(1);
      layer.Initialize(random);
    }
    ModelView<const float> input() const {
      return {x.data(), {1, token_count, layer.config().model_dim}};
    }
    Layer layer;
    typename Layer::Parameters gradients;
    LayerWorkspace<float> workspace;
    AlignedVector<float> x;
    Index token_count;
  };

  // What the layer multiplies: x [rows, D], projected [rows, P], normed [rows, HV V].
  struct Matrices {
    Matrices(const LayerSizes& sizes, Index rows)
        : in(RandomVector(sizes.projected_width() * sizes.model_dim)),
          out(RandomVector(sizes.value_width() * sizes.model_dim)),
          x(RandomVector(rows * sizes.model_dim)),
          projected(RandomVector(rows * sizes.projected_width())),
          normed(RandomVector(rows * sizes.value_width())) {}
    AlignedVector<float> in, out, x, projected, normed;
  };

  struct MatrixRefs {
    MatrixRef<float> x, projected, normed, in, out;
  };

  static MatrixRef<float> Ref(AlignedVector<float>& memory, Index rows) {
    const Index columns = static_cast<Index>(memory.size()) / rows;
    return {memory.data(), rows, columns, columns};
  }

  LayerSizes Sizes() const { return ResolveSizes<Head>(config_); }

  double ProductFlops(Index rows) const {
    const LayerSizes sizes = Sizes();
    return 2.0 * static_cast<double>(rows) * static_cast<double>(sizes.model_dim) *
           static_cast<double>(sizes.projected_width() + sizes.value_width());
  }

  // multiply(matrices, executor), once an iteration.
  template <class F>
  auto OnMatrices(Index rows, const F& multiply) const {
    return [=, *this]() -> std::function<void()> {
      const LayerSizes sizes = Sizes();
      auto m = std::make_shared<Matrices>(sizes, rows);
      return [=, *this] {
        multiply(MatrixRefs{.x = Ref(m->x, rows),
                            .projected = Ref(m->projected, rows),
                            .normed = Ref(m->normed, rows),
                            .in = Ref(m->in, sizes.projected_width()),
                            .out = Ref(m->out, sizes.model_dim)},
                 executor_);
      };
    };
  }

  auto Products(Index rows) const {
    return OnMatrices(rows, [](const MatrixRefs& m, const Exec& executor) {
      using enum Operand;
      internal::Multiply<kAsIs, kTransposed>(m.x, m.in, m.projected, Result::kOverwrite, executor);
      internal::Multiply<kAsIs, kTransposed>(m.normed, m.out, m.x, Result::kOverwrite, executor);
    });
  }

  auto ProductsBackward(Index rows) const {
    return OnMatrices(rows, [](const MatrixRefs& m, const Exec& executor) {
      using enum Operand;
      internal::Multiply<kTransposed, kAsIs>(m.x, m.normed, m.out, Result::kOverwrite, executor);
      internal::Multiply<kAsIs, kAsIs>(m.x, m.out, m.normed, Result::kOverwrite, executor);
      internal::Multiply<kTransposed, kAsIs>(m.projected, m.x, m.in, Result::kOverwrite, executor);
      internal::Multiply<kAsIs, kAsIs>(m.projected, m.in, m.x, Result::kOverwrite, executor);
    });
  }

  auto Recurrence(Index tokens) const {
    return [=, *this]() -> std::function<void()> {
      auto in = std::make_shared<In>(tokens, config_.num_heads, Head::kKeyDim, Head::kValueDim);
      return [=, *this] { ChunkForward<Simd, Head>(ForwardArgs(*in), executor_); };
    };
  }

  auto RecurrenceBackward(Index tokens) const {
    return [=, *this]() -> std::function<void()> {
      auto in = std::make_shared<In>(tokens, config_.num_heads, Head::kKeyDim, Head::kValueDim);
      auto d = std::make_shared<In>(*in);
      const Index chunks = ChunkCount({}, 1, tokens, kChunkLength<Simd, Head, float>);
      auto memory = std::make_shared<AlignedVector<float>>(
          RandomVector(chunks * config_.num_heads * Head::kKeyDim * Head::kValueDim));
      const ChunkStateView<float> states(
          memory->data(), {chunks, config_.num_heads, Head::kKeyDim, Head::kValueDim});
      auto forward = ForwardArgs(*in);
      forward.chunk_states = states;
      ChunkForward<Simd, Head>(forward);
      return [=, *this] {
        static_cast<void>(memory);
        ChunkBackward<Simd, Head>(ChunkBackwardArgs<float>{.q = {in->q.data(), in->extents_k},
                                                           .k = {in->k.data(), in->extents_k},
                                                           .v = {in->v.data(), in->extents_v},
                                                           .g = {in->g.data(), in->extents_g},
                                                           .eta = {in->eta.data(), in->extents_g},
                                                           .d_o = {in->o.data(), in->extents_v},
                                                           .dq = {d->q.data(), in->extents_k},
                                                           .dk = {d->k.data(), in->extents_k},
                                                           .dv = {d->v.data(), in->extents_v},
                                                           .dg = {d->g.data(), in->extents_g},
                                                           .deta = {d->eta.data(), in->extents_g},
                                                           .chunk_states = states},
                                  executor_);
      };
    };
  }

  static ChunkForwardArgs<float> ForwardArgs(In& in) {
    return {.q = {in.q.data(), in.extents_k},
            .k = {in.k.data(), in.extents_k},
            .v = {in.v.data(), in.extents_v},
            .g = {in.g.data(), in.extents_g},
            .eta = {in.eta.data(), in.extents_g},
            .o = {in.o.data(), in.extents_v}};
  }

  std::string Name(const std::string& what) const {
    return what + "/Simd/f32/D" + std::to_string(config_.model_dim) + "/" +
           DimName(Head::kKeyDim, Head::kValueDim) + "/heads:" + std::to_string(config_.num_heads);
  }
  std::string Threads() const {
    const Index threads = executor_.Concurrency();
    return threads > 1 ? "/threads:" + std::to_string(threads) : "";
  }

  KlaLayerConfig config_;
  Exec executor_;
};

// The paper's 0.4B model, and its MQAR model.
const bool kRegistered = [] {
  const LayerBench<Shape<96, 192>> large(1536, 12);
  const LayerBench<Shape<48, 96>> small(256, 4);
  large.RegisterTraining(512);
  small.RegisterTraining(2048);
  for (const Index sequences : {1, 8, 64}) {
    large.RegisterGeneration(sequences);
    small.RegisterGeneration(sequences);
  }
#if defined(_OPENMP)
  LayerBench<Shape<96, 192>, OpenMp>(1536, 12, OpenMp{2}).RegisterTraining(512);
  LayerBench<Shape<48, 96>, OpenMp>(256, 4, OpenMp{2}).RegisterTraining(2048);
#endif
  return true;
}();

}  // namespace
}  // namespace kla::bench
