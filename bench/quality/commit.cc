// SPDX-License-Identifier: Apache-2.0
// Quality benchmark: the commit that the program was configured at.
#include "bench/quality/results.h"

const char* quality::Commit() { return KLA_COMMIT; }
