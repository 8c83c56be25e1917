// SPDX-License-Identifier: Apache-2.0
// layer/host: decay and step size of each token and value head (math/gates.h), token by token.
#ifndef KLA_LAYER_HOST_TOKEN_GATES_H_
#define KLA_LAYER_HOST_TOKEN_GATES_H_

#include <cmath>

#include "kla/core/scalar.h"
#include "kla/math/activation.h"
#include "kla/math/gates.h"

namespace kla::internal {

template <class T>
struct TokenGates {
  Index heads;         // HV
  const T* a_log;      // [HV]
  const T* dt_bias;    // [HV]
  const T* step_bias;  // [HV]
  T* decay_rate;       // [HV] exp(A_log), set by Prepare

  void Prepare() const {
    using std::exp;
    for (Index h = 0; h < heads; ++h) decay_rate[h] = exp(a_log[h]);
  }

  // One token: a, b, g, eta [HV].
  void Forward(const T* a, const T* b, T* g, T* eta) const {
    for (Index h = 0; h < heads; ++h) {
      g[h] = LogDecayOf(decay_rate[h], T(a[h] + dt_bias[h]));
      eta[h] = Sigmoid(T(b[h] + step_bias[h]));
    }
  }

  // One token: da, db [HV] are written; the gradients of the parameters, [HV] each, added to.
  void Backward(const T* a, const T* g, const T* eta, const T* dg, const T* deta, T* da, T* db,
                T* d_a_log, T* d_dt_bias, T* d_step_bias) const {
    for (Index h = 0; h < heads; ++h) {
      da[h] = LogDecayBackward(dg[h], decay_rate[h], T(a[h] + dt_bias[h]));
      db[h] = SigmoidBackward(deta[h], eta[h]);
      d_a_log[h] += dg[h] * g[h];
      d_dt_bias[h] += da[h];
      d_step_bias[h] += db[h];
    }
  }
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_TOKEN_GATES_H_
