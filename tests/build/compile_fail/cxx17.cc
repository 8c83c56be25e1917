// SPDX-License-Identifier: Apache-2.0
// compile_fail: an older standard.
// MISTAKE: -std=c++17
// EXPECT: kla needs C++20: compile with -std=c++20
#include <kla/kla.h>
