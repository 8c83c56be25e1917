// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: what a Backward on a device does between its products and the recurrence, as
// kernel bodies (see kernels.h). Gradients of parameters are sums over all tokens: each part of the
// rows sums its own in a fixed order, in float, and SumPartsBody adds up the parts, so that results
// have the same bits on every run.
#ifndef KLA_BACKEND_CUDA_LAYER_GRADIENT_KERNELS_H_
#define KLA_BACKEND_CUDA_LAYER_GRADIENT_KERNELS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/block/vector.h"
#include "kla/backend/cuda/layer/kernels.h"
#include "kla/core/scalar.h"
#include "kla/math/activation.h"
#include "kla/math/gated_norm.h"
#include "kla/math/gates.h"

namespace kla::internal::device {

// The rows, B T of them, in parts of `each`, of which only the last may be shorter. Few parts leave
// few sums to add up, many fill a card; the cut depends on the number of rows alone.
struct RowParts {
  static constexpr Index kLeastRows = 32, kMostParts = 128;

  static RowParts Of(Index rows) {
    return {rows, std::max(kLeastRows, (rows + kMostParts - 1) / kMostParts)};
  }
  Index Count() const { return (rows + each - 1) / each; }
  KLA_BLOCK_FUNCTION Index Begin(Index part) const { return part * each; }
  KLA_BLOCK_FUNCTION Index End(Index part) const {
    return Begin(part) + each < rows ? Begin(part) + each : rows;
  }

  Index rows, each;
};

// The small gradients of a part, in the order of DeviceParameters: conv [channels, 4], A_log [HV],
// dt_bias [HV], b_proj.bias [HV]. Those of o_norm.weight, of which there are more parts, follow
// apart.
struct SmallGradients {
  Index channels, heads;
  KLA_HOST_DEVICE Index Gates() const { return kConvWidth * channels; }
  KLA_HOST_DEVICE Index Size() const { return Gates() + 3 * heads; }
  // Of a part: 16-byte aligned.
  KLA_HOST_DEVICE Index Stride() const { return (Size() + 3) / 4 * 4; }
};

// The convolution of math/convolution.h, from dy; x, taps, windows and sequences are those of the
// forward body.
// A thread walks the rows of a part in one channel, and the three rows behind them, of which it
// takes dp alone.
template <class T>
struct ConvolveBackwardBody {
  static constexpr int kThreads = 128, kBlocksPerSm = 8, kAhead = 8;
  struct Shared {};

  ConvolveBody<T> forward;
  RowParts parts;
  SmallGradients small;
  const T* dy;  // [rows, channels]
  T* dx;        // [rows, channels], rows of dx_stride
  Index dx_stride;
  float* sums;  // [parts, small]

  Index Blocks() const { return parts.Count() * ((small.channels + kThreads - 1) / kThreads); }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared&, std::uint32_t index) const {
    const auto across = static_cast<std::uint32_t>((small.channels + kThreads - 1) / kThreads);
    const Index part = index / across;
    block.ForEachThread([&](int thread) {
      const Index c = Index{index % across} * kThreads + thread;
      if (c < small.channels) Walk(part, c);
    });
  }

 private:
  // Of the rows [row - 3, row): what the tokens up to row - 1 give to their dx.
  struct Pending {
    float dx[kPast];
  };

  KLA_BLOCK_FUNCTION void Walk(Index part, Index c) const {
    const SequenceRows& sequences = forward.sequences;
    const Index first = parts.Begin(part), end = parts.End(part);
    Index last = end + kPast < parts.rows ? end + kPast : parts.rows;
    float w[kPast + 1], past[kPast], dw[kPast + 1] = {};  // past: x_{t-3}, x_{t-2}, x_{t-1}
    LoadVector(forward.taps + 4 * c, w);
    Index n = sequences.At(first), next = sequences.Begin(n + 1), own = first;
    KLA_UNROLL
    for (int j = 0; j < kPast; ++j) {
      past[j] = forward.Past(n, first - sequences.Begin(n) - kPast + j, c);
    }
    Pending pending = {};
    KLA_NO_UNROLL
    for (Index begin = first; begin < last; begin += kAhead) {
      float x[kAhead], d[kAhead];
      KLA_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i >= last) continue;
        x[i] = static_cast<float>(forward.x[(begin + i) * forward.x_stride + c]);
        d[i] = static_cast<float>(dy[(begin + i) * small.channels + c]);
      }
      KLA_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const Index row = begin + i;
        if (row >= last) continue;
        if (row >= next) {  // another sequence
          if (row >= end) {
            last = row;
            continue;
          }
          Flush(pending, own, row, end, c);
          while (row >= next) next = sequences.Begin(++n + 1);
          KLA_UNROLL
          for (int j = 0; j < kPast; ++j) past[j] = forward.Past(n, j - kPast, c);
          pending = {};
          own = row;
        }
        const float p = Convolve(w, past, x[i]);
        const float dp = d[i] * SiluSlope(p, Sigmoid(p));
        if (row < end) {
          KLA_UNROLL
          for (int j = 0; j < kPast; ++j) dw[j] += dp * past[j];
          dw[kPast] += dp * x[i];
        }
        if (row - kPast >= own) Store(row - kPast, c, pending.dx[0] + w[0] * dp);
        pending = {{pending.dx[1] + w[1] * dp, pending.dx[2] + w[2] * dp, w[3] * dp}};
        past[0] = past[1];
        past[1] = past[2];
        past[2] = x[i];
      }
    }
    Flush(pending, own, last, end, c);
    StoreGlobalVector(dw, sums + part * small.Stride() + 4 * c);
  }

  // The rows in front of `row` that have met all tokens of their sequence, as far as they are the
  // walk's: in [own, end).
  KLA_BLOCK_FUNCTION void Flush(const Pending& pending, Index own, Index row, Index end,
                                Index c) const {
    KLA_UNROLL
    for (int j = 0; j < kPast; ++j) {
      const Index at = row - kPast + j;
      if (at >= own && at < end) Store(at, c, pending.dx[j]);
    }
  }
  KLA_BLOCK_FUNCTION void Store(Index row, Index c, float value) const {
    dx[row * dx_stride + c] = static_cast<T>(value);
  }
};

// The gates of math/gates.h for every token and value head, from dg and deta.
// A block takes the rows of a part for 32 heads, a warp every kWarps-th of them.
template <class T>
struct TokenGatesBackwardBody {
  static constexpr int kThreads = 256, kBlocksPerSm = 4, kWarps = kThreads / 32;
  struct Shared {
    float sums[3][kWarps][32];
  };

  TokenGatesBody<T> forward;
  RowParts parts;
  SmallGradients small;
  const float* g;
  const float* eta;  // [rows, HV], what the forward body wrote
  const float* dg;
  const float* deta;
  T* da;  // [rows, HV], rows of da_stride; db lies HV elements behind
  Index da_stride;
  float* sums;  // [parts, small]

  Index Blocks() const { return parts.Count() * ((small.heads + 31) / 32); }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    const auto across = static_cast<std::uint32_t>((small.heads + 31) / 32);
    const Index part = index / across, first_head = Index{index % across} * 32;
    block.ForEachThread([&](int thread) {
      const Index head = first_head + thread % 32, heads = small.heads;
      float d_a_log = 0, d_dt_bias = 0, d_step_bias = 0;
      if (head < heads) {
        const float rate = std::exp(forward.a_log[head]), bias = forward.dt_bias[head];
        const Index end = parts.End(part);
        for (Index row = parts.Begin(part) + thread / 32; row < end; row += kWarps) {
          const Index i = row * heads + head;
          const auto a = static_cast<float>(forward.a[row * forward.stride + head]);
          const float to_a = LogDecayBackward(dg[i], rate, a + bias);
          const float to_b = SigmoidBackward(deta[i], eta[i]);
          da[row * da_stride + head] = static_cast<T>(to_a);
          da[row * da_stride + heads + head] = static_cast<T>(to_b);
          d_a_log += dg[i] * g[i];
          d_dt_bias += to_a;
          d_step_bias += to_b;
        }
      }
      shared.sums[0][thread / 32][thread % 32] = d_a_log;
      shared.sums[1][thread / 32][thread % 32] = d_dt_bias;
      shared.sums[2][thread / 32][thread % 32] = d_step_bias;
    });
    block.Barrier();
    block.ForEachThread([&](int thread) {
      const int which = thread / 32, lane = thread % 32;
      if (which >= 3 || first_head + lane >= small.heads) return;
      float sum = 0;
      KLA_UNROLL
      for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[which][warp][lane];
      sums[part * small.Stride() + small.Gates() + which * small.heads + first_head + lane] = sum;
    });
  }
};

// The norm of math/gated_norm.h, from dz.
// A block takes the rows of a part for one value head, a warp every kWarps-th of them, and a lane
// every 32nd of the V columns.
template <class T, Index kValueDim>
struct GatedNormBackwardBody {
  static constexpr int kThreads = 128, kBlocksPerSm = 6, kWarps = kThreads / 32;
  static constexpr int kValue = static_cast<int>(kValueDim), kPerLane = (kValue + 31) / 32;
  struct Shared {
    float sums[kWarps][kValue];
  };

  GatedNormBody<T> forward;
  RowParts parts;
  T* dz;  // [rows, HV V], becomes do
  T* du;  // [rows, HV V], rows of du_stride
  Index du_stride;
  float* sums;  // [parts, HV, V]

  Index Blocks() const { return parts.Count() * forward.heads; }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    struct Columns {  // of a lane; dz SiLU(u) and dz SiLU'(u) behind o
      float o[kPerLane], silu[kPerLane], slope[kPerLane];
    };
    struct Weights {
      float w[kPerLane], dw[kPerLane];
    };
    const auto heads = static_cast<std::uint32_t>(forward.heads);
    const Index part = index / heads, head = index % heads, end = parts.End(part);
    auto columns = block.template MakePrivate<Columns>();
    auto weights = block.template MakePrivate<Weights>();
    auto row_sums = block.template MakePrivate<Sums<float, 2>>();  // of o^2 and of dh o
    block.ForEachThread([&](int thread) {
      ForEachColumn(thread, [&](int i, int j) {
        weights[thread].w[i] = forward.weight[j];
        weights[thread].dw[i] = 0;
      });
    });
    for (Index begin = parts.Begin(part); begin < end; begin += kWarps) {
      block.ForEachThread([&](int thread) {
        const Index row = begin + thread / 32;
        Sums<float, 2> sum = {};
        if (row < end) {
          Columns& at = columns[thread];
          const T* o = forward.o + OffsetOf(row, head);
          const T* u = forward.u + row * forward.u_stride + head * kValue;
          const T* d = dz + OffsetOf(row, head);
          ForEachColumn(thread, [&](int i, int j) {
            const auto gate = static_cast<float>(u[j]), given = static_cast<float>(d[j]);
            const float s = Sigmoid(gate);
            at.o[i] = static_cast<float>(o[j]);
            at.silu[i] = given * gate * s;
            at.slope[i] = given * SiluSlope(gate, s);
            sum.value[0] += at.o[i] * at.o[i];
            sum.value[1] += at.silu[i] * weights[thread].w[i] * at.o[i];
          });
        }
        row_sums[thread] = sum;
      });
      block.template GroupSum<32>(row_sums);
      block.ForEachThread([&](int thread) {
        const Index row = begin + thread / 32;
        if (row >= end) return;
        const Columns& at = columns[thread];
        const auto [square, product] = row_sums[thread].value;
        constexpr auto kWidth = static_cast<float>(kValue);
        const float r = InverseRms(square / kWidth, forward.epsilon);
        const float along = r * product / kWidth;  // mean(dh h)
        T* d = dz + OffsetOf(row, head);
        T* to_u = du + row * du_stride + head * kValue;
        ForEachColumn(thread, [&](int i, int j) {
          const float h = r * at.o[i], w = weights[thread].w[i];
          d[j] = static_cast<T>(r * (at.silu[i] * w - h * along));
          to_u[j] = static_cast<T>(h * w * at.slope[i]);
          weights[thread].dw[i] += h * at.silu[i];
        });
      });
    }
    block.ForEachThread([&](int thread) {
      ForEachColumn(thread,
                    [&](int i, int j) { shared.sums[thread / 32][j] = weights[thread].dw[i]; });
    });
    block.Barrier();
    block.ForEachThread([&](int thread) {
      for (int j = thread; j < kValue; j += kThreads) {
        float sum = 0;
        KLA_UNROLL
        for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[warp][j];
        sums[(part * forward.heads + head) * kValue + j] = sum;
      }
    });
  }

 private:
  KLA_BLOCK_FUNCTION Index OffsetOf(Index row, Index head) const {
    return (row * forward.heads + head) * kValue;
  }
  // f(i, j) for the columns j of a thread's lane, i counting them.
  template <class F>
  static KLA_BLOCK_FUNCTION void ForEachColumn(int thread, const F& f) {
    KLA_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const int j = thread % 32 + 32 * i;
      if (kValue % 32 == 0 || j < kValue) f(i, j);
    }
  }
};

// to [width] = the sum of the rows of parts [count, width], or to += it: a block takes 32 columns,
// and a warp every kWarps-th part.
struct SumPartsBody {
  static constexpr int kThreads = 1024, kBlocksPerSm = 1, kWarps = kThreads / 32;
  struct Shared {
    float sums[kWarps][32];
  };

  const float* parts;
  Index count, stride, width;
  float* to;
  bool accumulate;

  Index Blocks() const { return (width + 31) / 32; }

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    block.ForEachThread([&](int thread) {
      const Index column = Index{index} * 32 + thread % 32;
      float sum = 0;
      if (column < width) {
        for (Index p = thread / 32; p < count; p += kWarps) sum += parts[p * stride + column];
      }
      shared.sums[thread / 32][thread % 32] = sum;
    });
    block.Barrier();
    block.ForEachThread([&](int thread) {
      const Index column = Index{index} * 32 + thread;
      if (thread >= 32 || column >= width) return;
      float sum = accumulate ? to[column] : 0.0f;
      for (int warp = 0; warp < kWarps; ++warp) sum += shared.sums[warp][thread];
      to[column] = sum;
    });
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_GRADIENT_KERNELS_H_
