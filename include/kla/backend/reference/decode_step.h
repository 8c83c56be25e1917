// SPDX-License-Identifier: Apache-2.0
// backend/reference: DecodeStep by math/recurrence.h, token by token.
#ifndef KLA_BACKEND_REFERENCE_DECODE_STEP_H_
#define KLA_BACKEND_REFERENCE_DECODE_STEP_H_

#include <vector>

#include "kla/backend/reference/scaled_rows.h"
#include "kla/core/backend.h"
#include "kla/math/recurrence.h"
#include "kla/op/decode_step.h"

namespace kla {

template <class StepSize, class T, class State, class Shape>
struct Kernel<DecodeStepOp<StepSize, T, State>, Reference, Shape> {
  using R = Accumulator<T>;
  using W = Wide<T>;
  using Pool = DecodeState<Reference, Shape, State>;

  template <class Executor>
  static void Run(const DecodeStepArgs<T>& args, Pool& pool, const Executor& executor) {
    const Problem problem = MakeProblem(args);
    executor.ParallelFor(problem.sequences * problem.value_heads, [&](Index task) {
      const Index n = task / problem.value_heads;
      const Index slot = args.slots.is_null() ? n : args.slots[n];
      if (slot != -1) RunHead(args, problem, n, task % problem.value_heads, slot, pool);
    });
  }

 private:
  static void RunHead(const DecodeStepArgs<T>& args, const Problem& problem, Index n, Index head,
                      Index slot, Pool& pool) {
    const auto [batch, begin, length] = SequenceAt(args.cu_seqlens, problem.tokens, n);
    if (length == 0) return;
    const internal::reference::ScaledRows<StepSize, T> rows(args, W(problem.epsilon), batch, begin,
                                                            length, problem.KeyHeadOf(head), head);
    // Arithmetic in R whatever the storage; rounded to it once, at the end.
    State* packed = pool.Head(slot, head);
    internal::reference::Matrix<R> s(problem.key_dim, problem.value_dim);
    for (std::size_t i = 0; i < s.data.size(); ++i) s.data[i] = static_cast<R>(packed[i]);
    const internal::StateMatrix<R> state{s.data.data(), s.rows, s.columns, s.columns, 1};
    std::vector<R> o(static_cast<std::size_t>(problem.value_dim), R(0));
    for (Index i = 0; i < length; ++i) {
      internal::RecurrenceStep(state, rows.q.Row(i), rows.k.Row(i), rows.v.Row(i),
                               args.g(batch, begin + i, head), rows.b[static_cast<std::size_t>(i)],
                               R(problem.scale), o.data());
      T* out = args.o.Row(batch, begin + i, head);
      for (std::size_t j = 0; j < o.size(); ++j) out[j] = static_cast<T>(o[j]);
    }
    for (std::size_t i = 0; i < s.data.size(); ++i)
      packed[i] = internal::ConvertElement<State>(s.data[i]);
  }
};

}  // namespace kla

#endif  // KLA_BACKEND_REFERENCE_DECODE_STEP_H_
