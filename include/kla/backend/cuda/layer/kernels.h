// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: what a prefill on a device does between its products and the recurrence, as
// kernel bodies (backend/cuda/block/block.h): the same code on a device and, under the tests, on a
// CPU. Elementwise passes, bound by memory: each reads its input once.
#ifndef KLA_BACKEND_CUDA_LAYER_KERNELS_H_
#define KLA_BACKEND_CUDA_LAYER_KERNELS_H_

#include <cmath>
#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/block/index_list.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/layer/step_kernel.h"
#include "kla/core/scalar.h"
#include "kla/math/activation.h"
#include "kla/math/convolution.h"
#include "kla/math/gated_norm.h"
#include "kla/math/gates.h"

namespace kla::internal::device {

inline constexpr int kPast = static_cast<int>(kConvWidth) - 1;

// Rows of the tokens of N sequences: of equal length, or packed.
struct SequenceRows {
  const Index* offsets;  // [N + 1] or null
  Index length;          // of each, without offsets
  Index count;           // N

  KLA_BLOCK_FUNCTION Index Begin(Index n) const {
    return offsets == nullptr ? n * length : offsets[n];
  }
  // The sequence that a row belongs to.
  KLA_BLOCK_FUNCTION Index At(Index row) const {
    if (offsets == nullptr) return row / length;
    return SearchStarts(offsets, count, row);
  }
};

// The convolution of math/convolution.h for the channels of q, k and v. A thread walks kRows tokens
// of one channel, and asks for kAhead of them before it uses any.
template <class T>
struct ConvolveBody {
  static constexpr int kThreads = 128, kBlocksPerSm = 8, kRows = 32, kAhead = 8;
  struct Shared {};

  const T* x;  // [rows, channels], rows of x_stride
  T* y;        // [rows, channels]
  Index x_stride, rows;
  const float* taps;  // [channels, 4]
  const T* windows;   // [N, 3, channels] or null
  Index channels;
  SequenceRows sequences;

  Index Blocks() const {
    return (rows + kRows - 1) / kRows * ((channels + kThreads - 1) / kThreads);
  }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const auto across = static_cast<std::uint32_t>((channels + kThreads - 1) / kThreads);
    const Index first = Index{index / across} * kRows;
    const Index end = first + kRows < rows ? first + kRows : rows;
    block.ForEachThread([&](int thread) {
      const Index c = Index{index % across} * kThreads + thread;
      if (c >= channels) return;
      float w[kPast + 1], past[kPast];  // past: x_{t-3}, x_{t-2}, x_{t-1}
      LoadVector(taps + 4 * c, w);
      Index n = sequences.At(first), next = sequences.Begin(n + 1);
      KLA_UNROLL
      for (int j = 0; j < kPast; ++j) past[j] = Past(n, first - sequences.Begin(n) - kPast + j, c);
      KLA_NO_UNROLL
      for (Index begin = first; begin < end; begin += kAhead) {
        float now[kAhead];
        KLA_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          if (begin + i < end) now[i] = static_cast<float>(x[(begin + i) * x_stride + c]);
        }
        KLA_UNROLL
        for (int i = 0; i < kAhead; ++i) {
          const Index row = begin + i;
          if (row >= end) continue;
          if (row >= next) {
            while (row >= next) next = sequences.Begin(++n + 1);
            KLA_UNROLL
            for (int j = 0; j < kPast; ++j) past[j] = Past(n, j - kPast, c);
          }
          const float sum = Convolve(w, past, now[i]);
          y[row * channels + c] = static_cast<T>(sum * Sigmoid(sum));
          past[0] = past[1];
          past[1] = past[2];
          past[2] = now[i];
        }
      }
    });
  }

  // Token t >= -3 of sequence n.
  KLA_BLOCK_FUNCTION float Past(Index n, Index t, Index c) const {
    if (t >= 0) return static_cast<float>(x[(sequences.Begin(n) + t) * x_stride + c]);
    return windows == nullptr ? 0.0f
                              : static_cast<float>(windows[(n * kPast + t + kPast) * channels + c]);
  }
};

// The gates of math/gates.h for every token and value head.
template <class T>
struct TokenGatesBody {
  static constexpr int kThreads = 128, kBlocksPerSm = 8;
  struct Shared {};

  const T* a;  // [rows, HV], rows of `stride`; b lies HV elements behind
  Index stride, rows, heads;
  const float* a_log;
  const float* dt_bias;
  const float* step_bias;  // [HV]
  float* g;
  float* eta;  // [rows, HV]

  Index Blocks() const { return (rows * heads + kThreads - 1) / kThreads; }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    block.ForEachThread([&](int thread) {
      const Index i = Index{index} * kThreads + thread;
      if (i >= rows * heads) return;
      const Index row = i / heads, head = i % heads;
      const auto decay = static_cast<float>(a[row * stride + head]);
      const auto step = static_cast<float>(a[row * stride + heads + head]);
      g[i] = LogDecayOf(std::exp(a_log[head]), decay + dt_bias[head]);
      eta[i] = Sigmoid(step + step_bias[head]);
    });
  }
};

// The norm of math/gated_norm.h for every token and value head, a warp each. z may be o.
template <class T>
struct GatedNormBody {
  static constexpr int kThreads = 128, kBlocksPerSm = 8, kWarps = kThreads / 32;
  struct Shared {};

  const T* o;  // [rows, HV V]
  T* z;        // [rows, HV V]
  const T* u;  // [rows, HV V], rows of u_stride
  Index u_stride, rows, heads, value_dim;
  const float* weight;  // [V]
  float epsilon;

  Index Blocks() const { return (rows * heads + kWarps - 1) / kWarps; }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    auto sums = block.template MakePrivate<Sums<float, 1>>();
    block.ForEachThread([&](int thread) {
      const Index i = Index{index} * kWarps + thread / 32;
      float sum = 0;
      if (i < rows * heads) {
        for (Index j = thread % 32; j < value_dim; j += 32) {
          const auto value = static_cast<float>(o[i * value_dim + j]);
          sum += value * value;
        }
      }
      sums[thread].value[0] = sum;
    });
    block.template GroupSum<32>(sums);
    block.ForEachThread([&](int thread) {
      const Index i = Index{index} * kWarps + thread / 32;
      if (i >= rows * heads) return;
      const T* gate = u + i / heads * u_stride + i % heads * value_dim;
      const float r = InverseRms(sums[thread].value[0] / static_cast<float>(value_dim), epsilon);
      // Four elements are read before the first is written: z may be o or not, and the compiler
      // would wait for each store before the next load.
      constexpr int kAhead = 4;
      for (Index begin = thread % 32; begin < value_dim; begin += kAhead * 32) {
        float scaled[kAhead], gated[kAhead];
        KLA_UNROLL
        for (int n = 0; n < kAhead; ++n) {
          const Index j = begin + n * 32;
          scaled[n] = j < value_dim ? static_cast<float>(o[i * value_dim + j]) * r * weight[j] : 0;
          gated[n] = j < value_dim ? static_cast<float>(gate[j]) : 0;
        }
        KLA_UNROLL
        for (int n = 0; n < kAhead; ++n) {
          const Index j = begin + n * 32;
          if (j >= value_dim) break;
          z[i * value_dim + j] = static_cast<T>(scaled[n] * gated[n] * Sigmoid(gated[n]));
        }
      }
    });
  }
};

// Copies the windows of the slots of N sequences from the rings of a PooledLayerState into
// [N, 3, channels], oldest first; zeros for slot -1. A block is a sequence.
template <class T, class Sequences>
struct GatherWindowsBody {
  static constexpr int kThreads = 256, kBlocksPerSm = 1;
  struct Shared {};

  const T* rings;  // [slots, kWindowRows, channels]
  const std::int32_t* positions;
  T* windows;
  Index channels, value_heads;
  Sequences sequences;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const Index slot = sequences.At(index).slot;
    T* to = windows + (sequences.first + index) * kPast * channels;
    const int position = slot < 0 ? 0 : positions[slot * value_heads];
    block.ForEachThread([&](int thread) {
      for (Index c = thread; c < channels; c += kThreads) {
        for (int j = 0; j < kPast; ++j) {
          const Index row = slot * kWindowRows + (position + 1 + j) % kWindowRows;
          to[j * channels + c] = slot < 0 ? static_cast<T>(0.0f) : rings[row * channels + c];
        }
      }
    });
  }
};

// The reverse, from the last three inputs of each sequence, which may reach into its window.
template <class T, class Sequences>
struct SaveWindowsBody {
  static constexpr int kThreads = 256, kBlocksPerSm = 1;
  struct Shared {};

  ConvolveBody<T> input;
  T* rings;
  std::int32_t* positions;
  Index value_heads;
  Sequences sequences;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const Index slot = sequences.At(index).slot, n = sequences.first + index;
    if (slot < 0) return;
    const Index length = input.sequences.Begin(n + 1) - input.sequences.Begin(n);
    T* ring = rings + slot * kWindowRows * input.channels;
    block.ForEachThread([&](int thread) {
      for (Index c = thread; c < input.channels; c += kThreads) {
        for (int j = 0; j < kPast; ++j) {
          ring[(j + 1) * input.channels + c] = static_cast<T>(input.Past(n, length - kPast + j, c));
        }
      }
      for (Index h = thread; h < value_heads; h += kThreads) positions[slot * value_heads + h] = 0;
    });
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_KERNELS_H_
