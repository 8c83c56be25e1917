// SPDX-License-Identifier: Apache-2.0
// compile_fail: cu_seqlens of a vector that is gone before the call reads it.
// EXPECT: kla: this list of indices is a temporary, which may be gone before it is read; keep it in
// a
#include <kla/kla.h>

#include <vector>

void Run(const kla::ChunkForwardArgs<float>& inputs) {
  kla::ChunkForwardArgs<float> args = inputs;
#ifndef KLA_CORRECTED
  args.cu_seqlens = std::vector<int>{0, 3, 7};
#else
  const std::vector<int> offsets = {0, 3, 7};
  args.cu_seqlens = offsets;
#endif
  kla::ChunkForward<kla::Reference, kla::Shape<64, 64>>(args);
}
