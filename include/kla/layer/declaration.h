// SPDX-License-Identifier: Apache-2.0
// layer: what KlaLayer is called on every backend. It is defined in host/kla_layer.h for backends
// whose arrays lie in host memory, and in device/cuda_layer.cuh for Cuda.
#ifndef KLA_LAYER_DECLARATION_H_
#define KLA_LAYER_DECLARATION_H_

#include "kla/core/concepts.h"
#include "kla/core/kernel.h"
#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/shape.h"
#include "kla/math/step_size.h"

namespace kla {

// State is the layer's State.
template <class State>
struct ForwardOptions {
  // Packs N sequences into one batch row; neither recurrence nor convolution sees across.
  IndexList cu_seqlens = {};
  const State* initial_state = nullptr;  // sequences continue from it; left out: they start
  State* final_state = nullptr;          // receives where they end; may be initial_state
  // [N]: the slot of sequence n in both; -1: starts from zero, its end is not stored. Left out:
  // slot n.
  IndexList slots = {};
  bool keep_for_backward = true;  // false: less memory and time, and no Backward
};

// What Backward does with the gradients that it is given.
enum class GradientMode { kOverwrite, kAccumulate };

// T is the type of activations and of linear weights; StateElement is the storage type of the
// recurrent states.
template <class Backend, HeadShape Shape, StepSizePolicy StepSize = Kla, class T = float,
          class StateElement = Accumulator<T>>
class KlaLayer {
  static_assert(internal::kAlwaysFalse<KlaLayer>,
                "kla: for KlaLayer include kla/layer.h (needs Eigen) or, for Cuda, kla/cuda.cuh "
                "(nvcc and cuBLAS)");
};

}  // namespace kla

#endif  // KLA_LAYER_DECLARATION_H_
