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
//   template <class StepSize, class T, class State, class Shape>
//   struct Kernel<ChunkForwardOp<StepSize, T, State>, MyBackend, Shape> {
//     template <class Executor>
//     static void Run(const ChunkForwardArgs<T, State>& args, const Executor& executor);
//   };
//
// The operation has checked the arguments before Run is called: shapes agree, pointers are set,
// outputs overlap nothing that is read. Run must not throw on account of them.
template <class Op, class Backend, class Shape>
struct Kernel {
  static_assert(internal::kAlwaysFalse<Kernel>,
                "kla: no kernel for this (Op, Backend, Shape); include kla/backend/<name>/ "
                "or specialise kla::Kernel (core/kernel.h)");
};

}  // namespace kla

#endif  // KLA_CORE_KERNEL_H_
