// SPDX-License-Identifier: Apache-2.0
// backend/cuda/layer: the body of LayerStep: all of a layer between its two projections, for one
// token.
#ifndef KLA_BACKEND_CUDA_LAYER_STEP_KERNEL_H_
#define KLA_BACKEND_CUDA_LAYER_STEP_KERNEL_H_

#include <cmath>
#include <cstdint>

#include "kla/backend/cuda/block/block.h"
#include "kla/backend/cuda/decode/pool.h"
#include "kla/backend/cuda/decode/state_tile.h"
#include "kla/core/heads.h"
#include "kla/core/scalar.h"
#include "kla/math/activation.h"
#include "kla/math/convolution.h"
#include "kla/math/decay.h"
#include "kla/math/gated_norm.h"
#include "kla/math/gates.h"
#include "kla/math/unit_key.h"

namespace kla::internal::device {

// Rows of the convolution's window: a ring, so that a step writes one row and moves none.
inline constexpr int kWindowRows = static_cast<int>(kConvWidth);

// The arguments of LayerStep, device pointers; columns as in kla::LayerStepArgs.
template <class T>
struct LayerStepInputs {
  const T* projected;  // [N, 2 H K + 2 HV V + 2 HV] rows of `projected_stride`
  T* o;                // [N, HV V] rows of `o_stride`
  Index projected_stride, o_stride;
  const float* conv;  // [2 H K + HV V, 4]
  const float* a_log;
  const float* dt_bias;
  const float* step_bias;
  const float* norm;        // [V]
  T* windows;               // [slots, kWindowRows, 2 H K + HV V]
  std::int32_t* positions;  // [slots, HV] tokens so far: the ring's place
  HeadGroups<std::int32_t> groups;
  float scale, norm_epsilon;
  double epsilon;
};

// One token of one sequence and value head:
//   q, k, v: the causal convolution of x                                 (math/convolution.h)
//   g, eta from a, b                                                     (math/gates.h)
//   S <- exp(g) S + b~ k~ (v~ - exp(g) S^T k~)^T,   o = scale S^T q^     (math/unit_key.h)
//   z: the norm of o, gated by u                                         (math/gated_norm.h)
// A head is one thread block, since the norm sums over V; the state is in flight while the
// convolution and the norms run. Key channels that several value heads read are convolved by each;
// the first of them keeps the window. With kOverlaps it may overlap the kernel ahead of it, which
// may write the row, but neither states nor windows; waiting costs 6 % at batch 256, where there is
// nothing to gain.
// Bytes: 2 KV of state; the rest is less than a tenth at K = 96, V = 192.
//
// One H200, bf16, 12 heads of 96/192 (a layer of D = 1536), replayed graph. Batch 1: 6.3 us, every
// load at once and first, all rows of the ring whatever its place. Batch 256: 145 us, 76 % of copy
// bandwidth and 1.24 x DecodeStep alone, by two blocks of 256 threads on a multiprocessor, which
// hide each other's waiting; one of 512 threads takes 187 us.
template <class StepSize, Index kKeyDim, Index kValueDim, class Sequences, class T, class State,
          bool kOverlaps = false, int kBlockThreads = 512>
struct LayerStepBody {
  using Tiling = ColumnTiling<kKeyDim, State>;
  static constexpr int kKey = static_cast<int>(kKeyDim), kValue = static_cast<int>(kValueDim);
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kBlocksPerSm = 512 / kThreads;  // bounds the registers to 128
  static constexpr int kGroups = kThreads / Tiling::kLanes;
  static constexpr int kNeeded = (kValue + kGroups - 1) / kGroups;
  static constexpr int kColumns = kNeeded < 4 ? kNeeded : 4;  // of each group at a time
  static constexpr int kPassColumns = kGroups * kColumns;
  static constexpr int kPasses = (kValue + kPassColumns - 1) / kPassColumns;
  using Tile = StateTile<Tiling, kColumns, State>;
  static_assert(kColumns <= Tiling::kLanes, "kla: each lane writes at most one column of o");

  struct Shared {
    alignas(16) float q[Tiling::kPaddedKey];
    alignas(16) float k[Tiling::kPaddedKey];
    float v[kValue], o[kValue];
    float g, eta, decay, step, value_scale, query_key;
  };

  LayerStepInputs<T> in;
  PoolView<State> pool;
  Sequences sequences;

  template <class Block>
  KLA_BLOCK_FUNCTION void operator()(const Block& block, Shared& shared,
                                     std::uint32_t index) const {
    const auto heads = static_cast<std::uint32_t>(pool.value_heads);
    const std::uint32_t n = index / heads;
    const auto head = static_cast<int>(index % heads);
    const SequenceEntry at = sequences.At(n);
    if (at.slot < 0 || at.slot >= pool.slots) {
      // Whoever waits for this kernel has waited for the one ahead of it, too.
      if constexpr (kOverlaps) block.WaitForPrevious();
      return;
    }
    const T* row = in.projected + (sequences.first + n) * in.projected_stride;
    T* out = in.o + (sequences.first + n) * in.o_stride + Index{head} * kValue;
    const Index pool_head = pool.HeadAt(at.slot, head);
    State* state = pool.states + pool_head * kValue * Tiling::kPaddedKey;

    // The loads of the token go ahead of those of the state, and all that nothing depends on go
    // first: the convolution and the norms run while the state is in flight.
    auto tile = block.template MakePrivate<Tile>();
    auto token = block.template MakePrivate<Token>();
    if constexpr (kOverlaps) block.LetNextBegin();
    const std::int32_t position = in.positions[pool_head];
    block.ForEachThread([&](int thread) {
      LoadWindow(at.slot, head, thread, token[thread]);
      if constexpr (kOverlaps) block.WaitForPrevious();
      LoadToken(row, head, thread, token[thread]);
      LoadTile(state, 0, thread, tile[thread]);
    });
    Convolve(block, at.slot, head, position, token, shared);
    block.ForEachThread([&](int thread) {
      if (thread == kThreads - 1) Gates(row, head, shared);
      for (int key = kKey + thread; key < Tiling::kPaddedKey; key += kThreads) {
        shared.q[key] = shared.k[key] = 0.0f;
      }
    });
    block.Barrier();  // also: every thread has read the position
    Normalize(block, shared);
    block.Barrier();
    KLA_NO_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass > 0) {
        block.ForEachThread(
            [&](int thread) { LoadTile(state, pass * kPassColumns, thread, tile[thread]); });
      }
      Recur(block, state, pass * kPassColumns, shared, tile);
    }
    block.Barrier();
    GateOutput(block, token, shared, out);
    block.ForEachThread([&](int thread) {
      if (thread == 0) in.positions[pool_head] = (position + 1) % kWindowRows;
    });
  }

 private:
  KLA_HOST_DEVICE Index KeyWidth() const { return Index{in.groups.key_heads} * kKey; }
  KLA_HOST_DEVICE Index ConvChannels() const {
    return 2 * KeyWidth() + Index{pool.value_heads} * kValue;
  }

  KLA_BLOCK_FUNCTION static void LoadTile(const State* state, int first, int thread, Tile& tile) {
    tile.Load(state, first + thread / Tiling::kLanes * kColumns, kValue, thread % Tiling::kLanes);
  }

  // The channels of a head: q [K], k [K], v [V].
  static constexpr int kChannels = 2 * kKey + kValue;
  static constexpr int kOwnChannels = (kChannels + kThreads - 1) / kThreads;
  static constexpr int kOwnValues = (kValue + kThreads - 1) / kThreads;

  // What a thread loads of the token: for its channels (i = thread, thread + kThreads, ...) the
  // input, all rows of the window and the taps; for its values the gate and the norm's weight.
  struct Token {
    float x[kOwnChannels];
    float window[kOwnChannels][kWindowRows], taps[kOwnChannels][4];
    float gate[kOwnValues], norm[kOwnValues];
  };

  // Where channel i of a head lies among all channels.
  KLA_HOST_DEVICE Index ChannelOf(int i, int head) const {
    if (i >= 2 * kKey) return 2 * KeyWidth() + Index{head} * kValue + (i - 2 * kKey);
    const Index key = Index{in.groups.KeyHeadOf(head)} * kKey;
    return i >= kKey ? KeyWidth() + key + (i - kKey) : key + i;
  }

  // What is there before the token is: the window and the weights.
  KLA_BLOCK_FUNCTION void LoadWindow(Index slot, int head, int thread, Token& token) const {
    const T* window = in.windows + slot * kWindowRows * ConvChannels();
    KLA_UNROLL
    for (int own = 0; own < kOwnChannels; ++own) {
      const int i = thread + own * kThreads;
      if (i >= kChannels) continue;
      const Index channel = ChannelOf(i, head);
      KLA_UNROLL
      for (int r = 0; r < kWindowRows; ++r) {
        token.window[own][r] = static_cast<float>(window[r * ConvChannels() + channel]);
      }
      LoadVector(in.conv + 4 * channel, token.taps[own]);
    }
    KLA_UNROLL
    for (int own = 0; own < kOwnValues; ++own) {
      const int j = thread + own * kThreads;
      if (j < kValue) token.norm[own] = in.norm[j];
    }
  }

  KLA_BLOCK_FUNCTION void LoadToken(const T* row, int head, int thread, Token& token) const {
    KLA_UNROLL
    for (int own = 0; own < kOwnChannels; ++own) {
      const int i = thread + own * kThreads;
      if (i < kChannels) token.x[own] = static_cast<float>(row[ChannelOf(i, head)]);
    }
    const T* gate = row + ConvChannels() + Index{head} * kValue;
    KLA_UNROLL
    for (int own = 0; own < kOwnValues; ++own) {
      const int j = thread + own * kThreads;
      if (j < kValue) token.gate[own] = static_cast<float>(gate[j]);
    }
  }

  // q, k and v of this head, activated, into shared memory; the token's channels into the window.
  template <class Block, class Tokens>
  KLA_BLOCK_FUNCTION void Convolve(const Block& block, Index slot, int head, int position,
                                   Tokens& token, Shared& shared) const {
    const bool keeps_keys = in.groups.PlaceOf(head) == 0;
    T* window = in.windows + (slot * kWindowRows + position) * ConvChannels();
    block.ForEachThread([&](int thread) {
      KLA_UNROLL
      for (int own = 0; own < kOwnChannels; ++own) {
        const int i = thread + own * kThreads;
        if (i >= kChannels) continue;
        const Token& mine = token[thread];
        float sum = mine.taps[own][3] * mine.x[own];
        KLA_UNROLL
        for (int j = 0; j < kWindowRows - 1; ++j) {  // from the oldest, wherever the ring is
          const int r = (position + 1 + j) % kWindowRows;
          const float* rows = mine.window[own];
          const float x = r == 0 ? rows[0] : r == 1 ? rows[1] : r == 2 ? rows[2] : rows[3];
          sum += mine.taps[own][j] * x;
        }
        if (i >= 2 * kKey || keeps_keys) window[ChannelOf(i, head)] = static_cast<T>(mine.x[own]);
        float* to = i >= 2 * kKey ? &shared.v[i - 2 * kKey]
                    : i >= kKey   ? &shared.k[i - kKey]
                                  : &shared.q[i];
        *to = sum * Sigmoid(sum);
      }
    });
  }

  KLA_BLOCK_FUNCTION void Gates(const T* row, int head, Shared& shared) const {
    const T* a = row + ConvChannels() + Index{pool.value_heads} * kValue;
    const auto decay = static_cast<float>(a[head]);
    const auto step = static_cast<float>(a[pool.value_heads + head]);
    shared.g = LogDecayOf(std::exp(in.a_log[head]), decay + in.dt_bias[head]);
    shared.eta = Sigmoid(step + in.step_bias[head]);
  }

  // q^ and k~ in place and the scalars of the token, by the first warp.
  template <class Block>
  KLA_BLOCK_FUNCTION void Normalize(const Block& block, Shared& shared) const {
    auto sums = block.template MakePrivate<Sums<double, 3>>();  // |q|^2, |k|^2, q . k
    block.ForEachThread([&](int thread) {
      for (double& sum : sums[thread].value) sum = 0;
      if (thread >= 32) return;
      for (int key = thread; key < kKey; key += 32) {
        const auto q = static_cast<double>(shared.q[key]), k = static_cast<double>(shared.k[key]);
        sums[thread].value[0] += q * q;
        sums[thread].value[1] += k * k;
        sums[thread].value[2] += q * k;
      }
    });
    block.template GroupSum<32>(sums);
    block.ForEachThread([&](int thread) {
      if (thread >= 32) return;
      const double* sum = sums[thread].value;
      const auto scales = UnitKey<StepSize>(static_cast<double>(shared.eta), sum[1], in.epsilon);
      const double query = StepSize::kNormalizeQuery ? InverseNorm(sum[0], in.epsilon) : 1.0;
      for (int key = thread; key < kKey; key += 32) {
        shared.q[key] = static_cast<float>(query * static_cast<double>(shared.q[key]));
        shared.k[key] = static_cast<float>(scales.key * static_cast<double>(shared.k[key]));
      }
      if (thread == 0) {
        shared.decay = Decay(shared.g);
        shared.step = static_cast<float>(scales.step);
        shared.value_scale = static_cast<float>(scales.value);
        shared.query_key = static_cast<float>(query * scales.key * sum[2]);
      }
    });
  }

  // The recurrence of columns [first, first + kPassColumns), and their state back to memory.
  template <class Block, class Tiles>
  KLA_BLOCK_FUNCTION void Recur(const Block& block, State* state, int first, Shared& shared,
                                Tiles& tile) const {
    auto sums = block.template MakePrivate<Sums<float, 2 * kColumns>>();
    block.ForEachThread([&](int thread) {
      tile[thread].Recall(shared.k, shared.q, thread % Tiling::kLanes, sums[thread]);
    });
    block.template GroupSum<Tiling::kLanes>(sums);
    block.ForEachThread([&](int thread) {
      const int lane = thread % Tiling::kLanes;
      const int column = first + thread / Tiling::kLanes * kColumns;
      const float* recalled = sums[thread].value;  // S^T k~, then S^T q^
      float delta[kColumns];
      KLA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const float v = column + c < kValue ? shared.v[column + c] : 0.0f;
        delta[c] = shared.step * (shared.value_scale * v - shared.decay * recalled[c]);
        const float read =
            in.scale * (shared.decay * recalled[kColumns + c] + shared.query_key * delta[c]);
        if (lane == c && column + c < kValue) shared.o[column + c] = read;
      }
      tile[thread].Update(shared.decay, shared.k, delta, lane);
      tile[thread].Store(state, column, kValue, lane);
    });
  }

  // Every warp sums o^2 for itself.
  template <class Block, class Tokens>
  KLA_BLOCK_FUNCTION void GateOutput(const Block& block, Tokens& token, const Shared& shared,
                                     T* out) const {
    auto sums = block.template MakePrivate<Sums<float, 1>>();
    block.ForEachThread([&](int thread) {
      float sum = 0;
      for (int j = thread % 32; j < kValue; j += 32) sum += shared.o[j] * shared.o[j];
      sums[thread].value[0] = sum;
    });
    block.template GroupSum<32>(sums);
    block.ForEachThread([&](int thread) {
      const float mean = sums[thread].value[0] / static_cast<float>(kValue);
      const float r = InverseRms(mean, in.norm_epsilon);
      KLA_UNROLL
      for (int own = 0; own < kOwnValues; ++own) {
        const int j = thread + own * kThreads;
        if (j >= kValue) continue;
        const float u = token[thread].gate[own];
        out[j] = static_cast<T>(shared.o[j] * r * token[thread].norm[own] * u * Sigmoid(u));
      }
    });
  }
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_LAYER_STEP_KERNEL_H_
