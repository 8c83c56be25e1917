// SPDX-License-Identifier: Apache-2.0
// tests/support: the gradients that others are compared with: those of Reference in double, with
// sizes known at run time, so that every suite shares one kernel for each step size (exact.cc).
#ifndef KLA_TESTS_SUPPORT_EXACT_H_
#define KLA_TESTS_SUPPORT_EXACT_H_

#include "support/run.h"

namespace kla::test {

template <class StepSize>
Gradients<double, double> ExactGradients(const Case& c, const Tensors<double>& given) {
  return RunGradients<Reference, Shape<kDynamic, kDynamic>, StepSize>(c, given);
}

extern template Gradients<double, double> ExactGradients<Kla>(const Case&, const Tensors<double>&);
extern template Gradients<double, double> ExactGradients<RelaxedKaczmarz>(const Case&,
                                                                          const Tensors<double>&);
extern template Gradients<double, double> ExactGradients<Kaczmarz>(const Case&,
                                                                   const Tensors<double>&);
extern template Gradients<double, double> ExactGradients<Gdn>(const Case&, const Tensors<double>&);
extern template Gradients<double, double> ExactGradients<Longhorn>(const Case&,
                                                                   const Tensors<double>&);
extern template Gradients<double, double> ExactGradients<PlainDelta>(const Case&,
                                                                     const Tensors<double>&);

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_EXACT_H_
