// SPDX-License-Identifier: Apache-2.0
// backend/cuda/block: lists of indices in device memory: how they are written and searched.
#ifndef KLA_BACKEND_CUDA_BLOCK_INDEX_LIST_H_
#define KLA_BACKEND_CUDA_BLOCK_INDEX_LIST_H_

#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/core/scalar.h"

namespace kla::internal::device {

// Writes a piece of a list that travels as the kernel's argument: cu_seqlens reach the device
// without a copy that would tie the caller's memory to the stream. A body for both kinds of block,
// that of block/block.h and that of tile/tile.h.
struct WriteIndices {
  static constexpr int kGroups = 1, kThreads = 128, kBlocksPerSm = 1, kCapacity = 480;
  struct Shared {};
  Index* to;
  int count;
  Index values[kCapacity];

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& /*shared*/,
                                     std::uint32_t /*index*/) const {
    block.ForEachThread([&](int thread) {
      for (int i = thread; i < count; i += kThreads) to[i] = values[i];
    });
  }
  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& /*shared*/) const {
    block.ForEach(count, [&](int i) { to[i] = values[i]; });
  }
};

// list(0), list(1), ..., list(count - 1), asked for in this order, to device memory.
template <class Launcher, class F>
void WriteIndexList(const char* step, const Launcher& launcher, Index* to, Index count,
                    const F& list) {
  for (Index first = 0; first < count; first += WriteIndices::kCapacity) {
    WriteIndices write{to + first, 0, {}};
    for (; write.count < WriteIndices::kCapacity && first + write.count < count; ++write.count) {
      write.values[write.count] = list(first + write.count);
    }
    launcher.Launch(step, write, 1);
  }
}

// The n < count with starts[n] <= at < starts[n + 1], starts [count + 1] not decreasing.
KLA_HOST_DEVICE inline Index SearchStarts(const Index* starts, Index count, Index at) {
  Index low = 0, high = count;  // starts[low] <= at < starts[high]
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (starts[middle] <= at ? low : high) = middle;
  }
  return low;
}

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_BLOCK_INDEX_LIST_H_
