// SPDX-License-Identifier: Apache-2.0
// compile_fail: no Highway on the include path.
// MISTAKE: -nostdinc
// EXPECT: kla/kla.h needs Google Highway: install libhwy-dev
#include <kla/kla.h>
