// SPDX-License-Identifier: Apache-2.0
// tests/support: the double-precision oracle and gradients, compiled once for all suites.
#include "support/exact.h"

#include "support/oracle.h"

namespace kla::test {

template Gradients<double, double> ExactGradients<Kla>(const Case&, const Tensors<double>&);
template Gradients<double, double> ExactGradients<RelaxedKaczmarz>(const Case&,
                                                                   const Tensors<double>&);
template Gradients<double, double> ExactGradients<Kaczmarz>(const Case&, const Tensors<double>&);
template Gradients<double, double> ExactGradients<Gdn>(const Case&, const Tensors<double>&);
template Gradients<double, double> ExactGradients<Longhorn>(const Case&, const Tensors<double>&);
template Gradients<double, double> ExactGradients<PlainDelta>(const Case&, const Tensors<double>&);

template OracleResult RunOracle<Kla>(const Case&, const Tensors<double>&, double);
template OracleResult RunOracle<RelaxedKaczmarz>(const Case&, const Tensors<double>&, double);
template OracleResult RunOracle<Kaczmarz>(const Case&, const Tensors<double>&, double);
template OracleResult RunOracle<Gdn>(const Case&, const Tensors<double>&, double);
template OracleResult RunOracle<Longhorn>(const Case&, const Tensors<double>&, double);
template OracleResult RunOracle<PlainDelta>(const Case&, const Tensors<double>&, double);

}  // namespace kla::test
