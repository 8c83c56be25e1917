// SPDX-License-Identifier: Apache-2.0
// One step. The state of a head is a small associative memory: a matrix S that should answer a key
// k with its value v. A token moves S along k so that it does,
//   S <- S + eta / (|k|^2 + eps) k (v - S^T k)^T,
// and with eta = 1 and eps = 0 the move is Kaczmarz' projection: afterwards S^T k is v, whatever
// was stored there before. Exit status 0 if that is what happens.
#include <kla/kla.h>

#include <cmath>
#include <cstdio>
#include <vector>

constexpr kla::Index kKeyDim = 4, kValueDim = 3;
using Head = kla::Shape<kKeyDim, kValueDim>;

// One token of one sequence with one head: writes (key, value) with strength eta, then asks the
// state for `query`. Views point at the caller's memory and copy nothing.
std::vector<float> Step(kla::DecodeState<kla::DefaultBackend, Head>& state,
                        const std::vector<float>& query, const std::vector<float>& key,
                        const std::vector<float>& value, float eta) {
  const float no_decay = 0;  // g = log(1)
  std::vector<float> answer(kValueDim);
  // RelaxedKaczmarz is kla::Kla without the normalised query, so the answer is S^T q itself.
  kla::DecodeStep<kla::DefaultBackend, Head, kla::RelaxedKaczmarz>(
      kla::DecodeStepArgs<float>{.q = {query.data(), {1, 1, 1, kKeyDim}},     // [B, T, H, K]
                                 .k = {key.data(), {1, 1, 1, kKeyDim}},       // [B, T, H, K]
                                 .v = {value.data(), {1, 1, 1, kValueDim}},   // [B, T, HV, V]
                                 .g = {&no_decay, {1, 1, 1}},                 // [B, T, HV]
                                 .eta = {&eta, {1, 1, 1}},                    // [B, T, HV]
                                 .o = {answer.data(), {1, 1, 1, kValueDim}},  // [B, T, HV, V]
                                 .scale = 1.0,
                                 .epsilon = 0.0},
      state);
  return answer;
}

bool Report(const char* what, const std::vector<float>& answer, const std::vector<float>& wanted) {
  double error = 0;
  std::printf("%-34s [", what);
  for (std::size_t i = 0; i < answer.size(); ++i) {
    std::printf(" %6.3f", static_cast<double>(answer[i]));
    error = std::fmax(error, std::fabs(static_cast<double>(answer[i] - wanted[i])));
  }
  std::printf(" ]   error %.1e\n", error);
  return error < 1e-5;
}

int main() {
  std::printf("backend %s\n", kla::BackendName().c_str());
  kla::DecodeState<kla::DefaultBackend, Head> state(/*slots=*/1, /*value_heads=*/1);

  const std::vector<float> paris = {1, 2, 0, -1}, tokyo = {0, 1, 3, 2};  // orthogonal keys
  const std::vector<float> river = {5, 6, 7}, tower = {-1, 0, 1}, nothing(kValueDim);

  bool right =
      Report("empty memory, asked for paris", Step(state, paris, paris, nothing, 0), nothing);
  right &= Report("store paris -> river, ask paris", Step(state, paris, paris, river, 1), river);
  right &= Report("store tokyo -> tower, ask paris", Step(state, paris, tokyo, tower, 1), river);
  right &= Report("store paris -> tower, ask paris", Step(state, paris, paris, tower, 1), tower);
  // Half a step goes half the way: from tower to nothing.
  right &= Report("half-forget paris, ask paris", Step(state, paris, paris, nothing, 0.5f),
                  {-0.5f, 0, 0.5f});
  std::printf(right ? "as it should be\n" : "WRONG\n");
  return right ? 0 : 1;
}
