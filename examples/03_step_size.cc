// SPDX-License-Identifier: Apache-2.0
// Your own step size, and your own backend, without touching a file of the library. Exit status 0
// if the gradient of the new step size is right and the new backend returns what the old one does.
#include <kla/kla.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <tuple>
#include <vector>

// A step size is a struct: beta = eta / |k|, between the plain delta rule (eta) and Kaczmarz
// (eta / |k|^2). Everything, backward pass included, is compiled for it: no virtual call.
struct InverseLength {
  static constexpr std::string_view kName = "InverseLength";
  static constexpr bool kNormalizeQuery = true;  // q / |q| first
  static constexpr bool kNormalizeKey = false;
  template <class R>
  static R Beta(R eta, R norm2, R epsilon) {
    return eta / std::sqrt(norm2 + epsilon);
  }
  template <class R>  // with respect to eta and to norm2
  static kla::StepDerivatives<R> Derivatives(R eta, R norm2, R epsilon) {
    const R r = 1 / std::sqrt(norm2 + epsilon);
    return {r, -eta * r * r * r / 2};
  }
};
static_assert(kla::StepSizePolicy<InverseLength>);

// A backend is a tag and specialisations of kla::Kernel. This one measures another: a place to
// begin with before writing loops of one's own.
struct Timed {
  static constexpr std::string_view kName = "Timed";
};
template <class StepSize, class T, class State, class S>
struct kla::Kernel<kla::ChunkForwardOp<StepSize, T, State>, Timed, S> {
  template <class Executor>  // the arguments have been checked by now
  static void Run(const ChunkForwardArgs<T, State>& args, const Executor& executor) {
    const auto begin = std::chrono::steady_clock::now();
    Kernel<ChunkForwardOp<StepSize, T, State>, DefaultBackend, S>::Run(args, executor);
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    std::printf("ChunkForward with %s: %.0f microseconds\n", StepSize::kName.data(), time.count());
  }
};

constexpr kla::Index kTokens = 100, kDim = 16;
using Head = kla::Shape<kDim, kDim>;

struct Sequence {
  std::vector<double> q, k, v, g, eta, weights;
  kla::KeyView<const double> Keys(const std::vector<double>& x) const {
    return {x.data(), {1, kTokens, 1, kDim}};
  }
  kla::ValueView<const double> Values(const std::vector<double>& x) const {
    return {x.data(), {1, kTokens, 1, kDim}};
  }
  kla::GateView<const double> Gates(const std::vector<double>& x) const {
    return {x.data(), {1, kTokens, 1}};
  }
};

template <class Backend>
std::vector<double> Forward(const Sequence& s) {
  std::vector<double> o(s.v.size());
  kla::ChunkForward<Backend, Head, InverseLength>(
      kla::ChunkForwardArgs<double>{.q = s.Keys(s.q),
                                    .k = s.Keys(s.k),
                                    .v = s.Values(s.v),
                                    .g = s.Gates(s.g),
                                    .eta = s.Gates(s.eta),
                                    .o = {o.data(), {1, kTokens, 1, kDim}}});
  return o;
}

double Loss(const Sequence& s) {
  const std::vector<double> o = Forward<kla::Reference>(s);
  double loss = 0;
  for (std::size_t i = 0; i < o.size(); ++i) loss += s.weights[i] * o[i];
  return loss;
}

int main() {
  Sequence s;
  double angle = 0;  // any numbers will do
  for (auto* x : {&s.q, &s.k, &s.v, &s.weights}) {
    for (kla::Index i = 0; i < kTokens * kDim; ++i) x->push_back(std::sin(angle += 1.7));
  }
  s.g.assign(kTokens, -0.05);
  s.eta.assign(kTokens, 0.4);

  // d loss / d eta, by the library and by differences.
  std::vector<double> dq(s.q.size()), dk(s.q.size()), dv(s.v.size()), dg(kTokens), deta(kTokens);
  kla::ChunkBackward<kla::Reference, Head, InverseLength>(
      kla::ChunkBackwardArgs<double>{.q = s.Keys(s.q),
                                     .k = s.Keys(s.k),
                                     .v = s.Values(s.v),
                                     .g = s.Gates(s.g),
                                     .eta = s.Gates(s.eta),
                                     .d_o = s.Values(s.weights),
                                     .dq = {dq.data(), {1, kTokens, 1, kDim}},
                                     .dk = {dk.data(), {1, kTokens, 1, kDim}},
                                     .dv = {dv.data(), {1, kTokens, 1, kDim}},
                                     .dg = {dg.data(), {1, kTokens, 1}},
                                     .deta = {deta.data(), {1, kTokens, 1}}});
  double worst = 0;
  for (const auto& [values, gradient, at] :
       {std::tuple(&s.eta, &deta, 10), {&s.eta, &deta, 70}, {&s.k, &dk, 55}, {&s.k, &dk, 800}}) {
    const auto i = static_cast<std::size_t>(at);
    const double step = 1e-5, kept = (*values)[i];
    (*values)[i] = kept + step;
    const double above = Loss(s);
    (*values)[i] = kept - step;
    const double below = Loss(s);
    (*values)[i] = kept;
    const double difference = (above - below) / (2 * step);
    worst = std::fmax(worst, std::fabs((*gradient)[i] - difference) / std::fabs(difference));
  }
  std::printf("gradient of the new step size, relative error: %.1e\n", worst);

  const bool same = Forward<Timed>(s) == Forward<kla::DefaultBackend>(s);
  std::printf("the new backend returns %s\n", same ? "the same bits" : "SOMETHING ELSE");
  return worst < 1e-6 && same ? 0 : 1;
}
