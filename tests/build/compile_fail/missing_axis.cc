// SPDX-License-Identifier: Apache-2.0
// compile_fail: a view is asked for an axis that it does not have.
// EXPECT: kla: this view has no such axis
// EXPECT: kla::ValueHead
#include <kla/core/view.h>

kla::Index Heads(const kla::KeyView<const float>& k) {
#ifndef KLA_CORRECTED
  return k.extent<kla::ValueHead>();
#else
  return k.extent<kla::KeyHead>();
#endif
}
