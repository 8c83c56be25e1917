// SPDX-License-Identifier: Apache-2.0
// core: the one extension point. A backend is a tag and a set of specialisations of Kernel.
#ifndef KLA_CORE_KERNEL_H_
#define KLA_CORE_KERNEL_H_

namespace kla {

namespace internal {
template <class>
inline constexpr bool kAlwaysFalse = false;
}

// Kernel<Op, Backend, Shape> computes the operation Op (op/*.h) on a backend, for one head shape:
//
//   template <class StepSize, class T, class State, class S>
//   struct kla::Kernel<kla::ChunkForwardOp<StepSize, T, State>, MyBackend, S> {
//     template <class Exec>
//     static void Run(const kla::ChunkForwardArgs<T, State>& args, const Exec& executor);
//   };
//
// (S, not Shape: in a specialisation written outside namespace kla, clang takes the name Shape for
// kla::Shape.) ChunkBackwardOp has the same Run; that of DecodeStepOp takes the pool as well:
// Run(const kla::DecodeStepArgs<T>&, kla::DecodeState<MyBackend, S, State>&, const Exec&), and that
// of LayerStepOp its kla::LayerState<MyBackend, S, T, State>. The operation has checked the
// arguments before Run is called: shapes agree, pointers are set, outputs overlap nothing that is
// read, except that final_state may be initial_state and d_initial_state may be d_final_state. Run
// must not throw on account of them.
template <class Op, class Backend, class Shape>
struct Kernel {
  static_assert(internal::kAlwaysFalse<Kernel>,
                "kla: no kernel for this (Op, Backend, Shape); include kla/backend/<name>/ "
                "(for Cuda kla/cuda.cuh, in a source that nvcc compiles) "
                "or specialise kla::Kernel (core/kernel.h)");
};

}  // namespace kla

#endif  // KLA_CORE_KERNEL_H_
