// SPDX-License-Identifier: Apache-2.0
// layer: what each pass reads and writes, and the order of the passes of Forward, Backward and
// Step.
//
// A pass is a function of a machine's Passes (host/passes.h, device/passes.h) that is given one of
// these structs and nothing else of the arrays: pointers and views to const are what it reads, the
// others what it writes. Besides, Passes know the parameters, the sizes and scratch of their own.
// Arrays have the shapes that LayerArrays says.
#ifndef KLA_LAYER_PASSES_H_
#define KLA_LAYER_PASSES_H_

#include "kla/core/layout.h"
#include "kla/core/scalar.h"
#include "kla/core/view.h"
#include "kla/layer/arrays.h"
#include "kla/layer/declaration.h"

namespace kla::internal {

// ---- Forward ------------------------------------------------------------------------------------

// slots of a state -> initial_state, windows; zero for slot -1
template <class T, class State>
struct LoadStatesPass {
  const State* from;
  IndexList slots;
  Accumulator<T>* initial_state;
  T* windows;
};

// x -> projected = x W_in^T: [rows, D] [D, projected_width]
template <class T>
struct ProjectPass {
  ModelView<const T> x;
  T* projected;
};

// projected, windows -> mixed, g, eta: convolution, decay and step size
template <class T>
struct PrepareTokensPass {
  const T* projected;
  const T* windows;
  T* mixed;
  Accumulator<T>* g;
  Accumulator<T>* eta;
};

// final_state, the last inputs of the convolution -> slots of a state
template <class T, class State>
struct StoreStatesPass {
  const T* projected;
  const T* windows;
  const Accumulator<T>* final_state;
  State* to;
  IndexList slots;
};

// o, the gate's columns of projected -> z, inverse_rms; z may be o
template <class T>
struct NormalizePass {
  const T* o;
  const T* projected;
  T* z;
  Accumulator<T>* inverse_rms;
};

// z -> y = z W_o^T: [rows, HV V] [HV V, D]; y of a sequence whose slot is -1 is left as it is
template <class T>
struct ProjectOutputPass {
  const T* z;
  ModelView<T> y;
  IndexList slots = {};
  bool overlaps = false;
};

// ---- Step ---------------------------------------------------------------------------------------

// projected, slots of a state -> z, the same slots: LayerStep, token after token. A machine that
// takes several kernels for it writes mixed, g, eta, o and inverse_rms on the way.
template <class T, class State>
struct StepTokensPass {
  const T* projected;
  State& state;
  IndexList slots;
  T* mixed;
  Accumulator<T>* g;
  Accumulator<T>* eta;
  T* o;
  Accumulator<T>* inverse_rms;
  T* z;
  bool overlaps;
};

// ---- Backward -----------------------------------------------------------------------------------

// dy, z -> d_z = dy W_o, d_weight (+)= dy^T z
template <class T>
struct BackwardOutputPass {
  ModelView<const T> dy;
  const T* z;
  T* d_z;
  Accumulator<T>* d_weight;
  bool accumulate;
};

// d_z -> d_o in its place, the gate's columns of d_projected, norm_parts
template <class T>
struct BackwardNormalizePass {
  const T* o;
  const T* projected;
  const Accumulator<T>* inverse_rms;
  T* d_z;
  T* d_projected;
  Accumulator<T>* norm_parts;
};

// d_mixed, dg, deta -> the other columns of d_projected, small_parts
template <class T>
struct BackwardTokensPass {
  const T* projected;
  const T* windows;
  const Accumulator<T>* g;
  const Accumulator<T>* eta;
  const T* d_mixed;
  const Accumulator<T>* dg;
  const Accumulator<T>* deta;
  T* d_projected;
  Accumulator<T>* small_parts;
};

// the parts, in order -> d_small, d_norm (+)= their sums
template <class T>
struct SumPartsPass {
  const Accumulator<T>* small_parts;
  const Accumulator<T>* norm_parts;
  Accumulator<T>* d_small;
  Accumulator<T>* d_norm;
  bool accumulate;
};

// d_projected, x -> dx = d_projected W_in, d_weight (+)= d_projected^T x
template <class T>
struct BackwardProjectPass {
  const T* d_projected;
  ModelView<const T> x;
  ModelView<T> dx;
  Accumulator<T>* d_weight;
  bool accumulate;
};

// ---- The order ----------------------------------------------------------------------------------

template <class T, class Passes, class State>
void RunForward(const Passes& passes, const LayerViews& views, const LayerArrays<T>& a,
                const ModelView<const T>& x, const ForwardOptions<State>& options) {
  passes.Begin();
  if (options.initial_state != nullptr) {
    passes.LoadStates(LoadStatesPass<T, State>{.from = options.initial_state,
                                               .slots = options.slots,
                                               .initial_state = a.initial_state,
                                               .windows = a.windows});
  }
  passes.Project(ProjectPass<T>{.x = x, .projected = a.projected});
  passes.PrepareTokens(PrepareTokensPass<T>{
      .projected = a.projected, .windows = a.windows, .mixed = a.mixed, .g = a.g, .eta = a.eta});
  passes.RunChunks(views.ForwardArgs(a));
  if (options.final_state != nullptr) {
    passes.StoreStates(StoreStatesPass<T, State>{.projected = a.projected,
                                                 .windows = a.windows,
                                                 .final_state = a.final_state,
                                                 .to = options.final_state,
                                                 .slots = options.slots});
  }
  passes.Normalize(
      NormalizePass<T>{.o = a.o, .projected = a.projected, .z = a.z, .inverse_rms = a.inverse_rms});
  passes.ProjectOutput(ProjectOutputPass<T>{.z = a.z, .y = views.Model(a.y)});
}

// What is said to overlap may begin before the pass ahead of it has ended, on a machine that can.
template <class T, class Passes, class State>
void RunStep(const Passes& passes, const LayerArrays<T>& a, const ModelView<const T>& x,
             State& state, const ModelView<T>& y, const IndexList& slots) {
  const bool overlaps = passes.Project(ProjectPass<T>{.x = x, .projected = a.projected});
  passes.StepTokens(StepTokensPass<T, State>{.projected = a.projected,
                                             .state = state,
                                             .slots = slots,
                                             .mixed = a.mixed,
                                             .g = a.g,
                                             .eta = a.eta,
                                             .o = a.o,
                                             .inverse_rms = a.inverse_rms,
                                             .z = a.z,
                                             .overlaps = overlaps});
  passes.ProjectOutput(
      ProjectOutputPass<T>{.z = a.z, .y = y, .slots = slots, .overlaps = overlaps});
}

template <class T, class Passes, class Gradients>
void RunBackward(const Passes& passes, const LayerViews& views, const LayerArrays<T>& a,
                 const ModelView<const T>& x, const ModelView<const T>& dy, Gradients& gradients,
                 bool accumulate) {
  passes.BackwardOutput(BackwardOutputPass<T>{.dy = dy,
                                              .z = a.z,
                                              .d_z = a.d_z,
                                              .d_weight = gradients.output_weight(),
                                              .accumulate = accumulate});
  passes.BackwardNormalize(BackwardNormalizePass<T>{.o = a.o,
                                                    .projected = a.projected,
                                                    .inverse_rms = a.inverse_rms,
                                                    .d_z = a.d_z,
                                                    .d_projected = a.d_projected,
                                                    .norm_parts = a.norm_parts});
  passes.BackwardChunks(views.BackwardArgs(a));
  passes.BackwardTokens(BackwardTokensPass<T>{.projected = a.projected,
                                              .windows = a.windows,
                                              .g = a.g,
                                              .eta = a.eta,
                                              .d_mixed = a.d_mixed,
                                              .dg = a.dg,
                                              .deta = a.deta,
                                              .d_projected = a.d_projected,
                                              .small_parts = a.small_parts});
  passes.SumParts(SumPartsPass<T>{.small_parts = a.small_parts,
                                  .norm_parts = a.norm_parts,
                                  .d_small = gradients.small_weights(),
                                  .d_norm = gradients.norm_weight(),
                                  .accumulate = accumulate});
  passes.BackwardProject(BackwardProjectPass<T>{.d_projected = a.d_projected,
                                                .x = x,
                                                .dx = views.Model(a.dx),
                                                .d_weight = gradients.input_weight(),
                                                .accumulate = accumulate});
}

}  // namespace kla::internal

#endif  // KLA_LAYER_PASSES_H_
