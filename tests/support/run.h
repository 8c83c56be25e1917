// SPDX-License-Identifier: Apache-2.0
// tests/support: runs an operation of a Config on the tensors of a Case.
#ifndef KLA_TESTS_SUPPORT_RUN_H_
#define KLA_TESTS_SUPPORT_RUN_H_

#include "support/array.h"
#include "support/cases.h"
#include "support/configs.h"
#include "support/kla.h"

namespace kla::test {

// The state arrays of a Case in the direction it asks for: [N, HV, K, V] or [N, HV, V, K].
template <class State>
struct StateArray {
  StateArray() = default;
  StateArray(const Case& c, Index key_dim, Index value_dim)
      : transposed(c.transposed_state),
        key_rows({c.sequences(), c.value_heads, key_dim, value_dim}, c.placement),
        value_rows({c.sequences(), c.value_heads, value_dim, key_dim}, c.placement) {}
  // With the elements of an array in [N, HV, K, V].
  StateArray(const Case& c, const Array<StateView<State>>& source)
      : StateArray(c, source.extents()[2], source.extents()[3]) {
    const auto from = source.view();
    for (Index n = 0; n < source.extents()[0]; ++n) {
      for (Index h = 0; h < source.extents()[1]; ++h) {
        for (Index i = 0; i < source.extents()[2]; ++i) {
          for (Index j = 0; j < source.extents()[3]; ++j) {
            key_rows.view()(n, h, i, j) = from(n, h, i, j);
            value_rows.view()(n, h, j, i) = from(n, h, i, j);
          }
        }
      }
    }
  }

  StateRef<State> ref() {
    if (transposed) return StateRef<State>(value_rows.view());
    return StateRef<State>(key_rows.view());
  }
  // In [N, HV, K, V] order whatever the direction.
  std::vector<double> Values() const {
    if (!transposed) return key_rows.Values();
    const auto view = value_rows.view();
    std::vector<double> values;
    for (Index n = 0; n < view.template extent<Sequence>(); ++n) {
      for (Index h = 0; h < view.template extent<ValueHead>(); ++h) {
        for (Index i = 0; i < view.template extent<Key>(); ++i) {
          for (Index j = 0; j < view.template extent<Value>(); ++j) {
            values.push_back(static_cast<double>(view(n, h, j, i)));
          }
        }
      }
    }
    return values;
  }
  bool PaddingIsIntact() const {
    return key_rows.PaddingIsIntact() && value_rows.PaddingIsIntact();
  }

  bool transposed = false;
  Array<StateView<State>> key_rows;
  Array<TransposedStateView<State>> value_rows;
};

template <class C>
struct ForwardOutputs {
  ForwardOutputs(const Case& c)  // NOLINT(google-explicit-constructor)
      : o({c.batch, c.tokens, c.value_heads, C::kValueDim}, c.placement),
        final_state(c, C::kKeyDim, C::kValueDim) {}
  Array<ValueView<typename C::T>> o;
  StateArray<typename C::State> final_state;
};

template <class C, class StepSize = Kla, class Exec = Serial>
ForwardOutputs<C> RunForward(const Case& c, const Tensors<typename C::T, typename C::State>& given,
                             const Exec& executor = {},
                             ChunkStateView<Accumulator<typename C::T>> chunk_states = {}) {
  ForwardOutputs<C> out(c);
  StateArray<typename C::State> initial(c, given.initial_state);
  ChunkForwardArgs<typename C::T, typename C::State> args{.q = given.q.view(),
                                                          .k = given.k.view(),
                                                          .v = given.v.view(),
                                                          .g = given.g.view(),
                                                          .eta = given.eta.view(),
                                                          .o = out.o.view(),
                                                          .final_state = out.final_state.ref(),
                                                          .chunk_states = chunk_states,
                                                          .cu_seqlens = c.offsets(),
                                                          .scale = c.scale,
                                                          .grouping = c.grouping};
  if (c.state_in_place) out.final_state = initial;
  if (c.initial_state) args.initial_state = (c.state_in_place ? out.final_state : initial).ref();
  ChunkForward<typename C::Backend, typename C::Shape, StepSize>(args, executor);
  return out;
}

// What ChunkBackward writes.
template <class T, class State>
struct Gradients {
  using G = Accumulator<T>;
  Gradients(const Case& c, Index key_dim, Index value_dim)
      : dq({c.batch, c.tokens, c.key_heads, key_dim}, c.placement),
        dk({c.batch, c.tokens, c.key_heads, key_dim}, c.placement),
        dv({c.batch, c.tokens, c.value_heads, value_dim}, c.placement),
        dg({c.batch, c.tokens, c.value_heads}, c.placement),
        deta({c.batch, c.tokens, c.value_heads}, c.placement),
        d_initial_state(c, key_dim, value_dim) {}
  Array<KeyView<T>> dq, dk;
  Array<ValueView<T>> dv;
  Array<GateView<G>> dg, deta;
  StateArray<State> d_initial_state;
};

template <class Backend, class Shape, class StepSize, class T, class State, class Exec = Serial>
Gradients<T, State> RunGradients(const Case& c, const Tensors<T, State>& given,
                                 const Exec& executor = {},
                                 ChunkStateView<const Accumulator<T>> chunk_states = {}) {
  Gradients<T, State> out(c, given.q.extents()[3], given.v.extents()[3]);
  StateArray<State> initial(c, given.initial_state), d_final(c, given.d_final_state);
  ChunkBackwardArgs<T, State> args{.q = given.q.view(),
                                   .k = given.k.view(),
                                   .v = given.v.view(),
                                   .g = given.g.view(),
                                   .eta = given.eta.view(),
                                   .d_o = given.d_o.view(),
                                   .dq = out.dq.view(),
                                   .dk = out.dk.view(),
                                   .dv = out.dv.view(),
                                   .dg = out.dg.view(),
                                   .deta = out.deta.view(),
                                   .chunk_states = chunk_states,
                                   .cu_seqlens = c.offsets(),
                                   .scale = c.scale,
                                   .grouping = c.grouping};
  if (c.initial_state) {
    args.initial_state = initial.ref();
    if (c.state_in_place) out.d_initial_state = d_final;
    args.d_final_state = (c.state_in_place ? out.d_initial_state : d_final).ref();
    args.d_initial_state = out.d_initial_state.ref();
  }
  ChunkBackward<Backend, Shape, StepSize>(args, executor);
  return out;
}

template <class C, class StepSize = Kla, class Exec = Serial>
auto RunBackward(const Case& c, const Tensors<typename C::T, typename C::State>& given,
                 const Exec& executor = {},
                 ChunkStateView<const Accumulator<typename C::T>> chunk_states = {}) {
  return RunGradients<typename C::Backend, typename C::Shape, StepSize>(c, given, executor,
                                                                        chunk_states);
}

// A case, its tensors in the types of a Config, and the same numbers in double.
template <class C>
struct Given {
  Given(const Case& the_case, std::uint64_t seed)
      : c(the_case), tensors(the_case, C::kKeyDim, C::kValueDim, seed) {
    exact_case = c;
    exact_case.placement = Placement::kContiguous;
    exact_case.transposed_state = false;
    exact.q = ToDouble<KeyView>(tensors.q);
    exact.k = ToDouble<KeyView>(tensors.k);
    exact.v = ToDouble<ValueView>(tensors.v);
    exact.d_o = ToDouble<ValueView>(tensors.d_o);
    exact.g = ToDouble<GateView>(tensors.g);
    exact.eta = ToDouble<GateView>(tensors.eta);
    exact.initial_state = ToDouble<StateView>(tensors.initial_state);
    exact.d_final_state = ToDouble<StateView>(tensors.d_final_state);
  }
  Case c, exact_case;
  Tensors<typename C::T, typename C::State> tensors;
  Tensors<double> exact;
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_RUN_H_
