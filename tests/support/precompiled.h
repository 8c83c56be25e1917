// SPDX-License-Identifier: Apache-2.0
// tests/support: what most test programs include, parsed once (tests/CMakeLists.txt). Every program
// still includes what it needs.
#ifndef KLA_TESTS_SUPPORT_PRECOMPILED_H_
#define KLA_TESTS_SUPPORT_PRECOMPILED_H_

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kla/kla.h"
#include "support/oracle.h"
#include "support/run.h"
#include "support/tolerance.h"

#endif  // KLA_TESTS_SUPPORT_PRECOMPILED_H_
