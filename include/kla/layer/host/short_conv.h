// SPDX-License-Identifier: Apache-2.0
// layer/host: the short causal convolution (math/convolution.h), rows of channels at a time.
#ifndef KLA_LAYER_HOST_SHORT_CONV_H_
#define KLA_LAYER_HOST_SHORT_CONV_H_

#include <algorithm>
#include <array>
#include <vector>

#include "kla/layer/config.h"
#include "kla/layer/host/buffer.h"
#include "kla/layer/host/token_rows.h"
#include "kla/math/convolution.h"

namespace kla::internal {

template <class T>
class ShortConv {
 public:
  static constexpr Index kPast = kConvWidth - 1;

  // x [rows, channels] with `stride` elements from row to row. windows[n] holds the kPast rows
  // before sequence n, [kPast, channels]. taps [kConvWidth, channels] is the weight, transposed.
  ShortConv(const TokenRows& tokens, Index channels, const T* x, Index stride, const T* taps,
            const std::vector<const T*>& windows)
      : tokens_(tokens),
        channels_(channels),
        x_(x),
        stride_(stride),
        taps_(taps),
        windows_(windows) {}

  // The weight [channels, 1, kConvWidth] to taps, so that neighbouring channels are neighbours.
  static void TransposeWeight(const T* weight, Index channels, T* taps) {
    for (Index c = 0; c < channels; ++c) {
      for (Index j = 0; j < kConvWidth; ++j) taps[j * channels + c] = weight[c * kConvWidth + j];
    }
  }

  // y of rows [begin, end), [rows, channels] contiguous.
  void Forward(Index begin, Index end, T* y) const {
    ForEachStrip(kForwardStrip, [&](Index first, Index width) {
      for (Index row = begin; row < end; ++row) {
        auto out = AsArray(y + row * channels_ + first, width);
        out = Filtered(InputsOf(row, first), first, width);
        out *= SigmoidOf(out);
      }
    });
  }

  // From dy, [rows, channels] contiguous: dx of rows [begin, end), with dx_stride elements from row
  // to row, and their part of the weight's gradient, [channels, 1, kConvWidth]. Reads the kPast
  // rows of dy behind them as well.
  void Backward(Index begin, Index end, const T* dy, T* dx, Index dx_stride, T* d_weight) const {
    using Strip = std::array<T, kBackwardStrip>;
    ForEachStrip(kBackwardStrip, [&](Index first, Index width) {
      alignas(64) Strip p_storage, s_storage, zeros;
      alignas(64) std::array<Strip, kConvWidth> dw;
      alignas(64) std::array<Strip, kConvWidth> dp;  // of row r in dp[r % kConvWidth]
      auto p = AsArray(p_storage.data(), width), s = AsArray(s_storage.data(), width);
      AsArray(zeros.data(), width).setZero();
      for (Strip& tap : dw) AsArray(tap.data(), width).setZero();
      const auto strip_of = [&](Index row) {
        return dp[static_cast<std::size_t>(row % kConvWidth)].data();
      };
      const auto set_dp = [&](Index row) {
        p = Filtered(InputsOf(row, first), first, width);
        s = SigmoidOf(p);
        AsArray(strip_of(row), width) =
            AsArray(dy + row * channels_ + first, width) * s * (T(1) + p * (T(1) - s));
      };
      for (Index row = begin; row < std::min(begin + kPast, tokens_.rows); ++row) set_dp(row);
      for (Index row = begin; row < end; ++row) {
        if (row + kPast < tokens_.rows) set_dp(row + kPast);
        const Index end_of_sequence = tokens_.EndOf(row);
        const Inputs x = InputsOf(row, first);
        Inputs later;  // dp_{t+3}, dp_{t+2}, dp_{t+1}, dp_t: what meets taps 0 to 3
        for (std::size_t j = 0; j < kConvWidth; ++j) {
          AsArray(dw[j].data(), width) += AsArray(strip_of(row), width) * AsArray(x[j], width);
          const Index at = row + kPast - static_cast<Index>(j);
          later[j] = at < end_of_sequence ? strip_of(at) : zeros.data();
        }
        AsArray(dx + row * dx_stride + first, width) = Filtered(later, first, width);
      }
      for (Index c = 0; c < width; ++c) {
        for (std::size_t j = 0; j < kConvWidth; ++j) {
          d_weight[(first + c) * kConvWidth + static_cast<Index>(j)] =
              dw[j][static_cast<std::size_t>(c)];
        }
      }
    });
  }

  // The last kPast inputs of sequence n, for the call that continues it. `window` [kPast, channels]
  // may be the one that the sequence began with.
  void SaveWindow(Index n, T* window) const {
    const auto [first, length] = tokens_.sequences[static_cast<std::size_t>(n)];
    for (Index i = 0; i < kPast; ++i) {
      const Index t = length - kPast + i;
      const T* from = t >= 0 ? x_ + (first + t) * stride_
                             : windows_[static_cast<std::size_t>(n)] + (t + kPast) * channels_;
      T* to = window + i * channels_;
      if (from != to) std::copy_n(from, channels_, to);
    }
  }

 private:
  // Channels at a time, so that the rows and taps in use stay in the first-level cache.
  static constexpr Index kForwardStrip = 1024, kBackwardStrip = 512;
  using Inputs = std::array<const T*, kConvWidth>;

  template <class F>
  void ForEachStrip(Index strip, const F& f) const {
    for (Index c = 0; c < channels_; c += strip) f(c, std::min(strip, channels_ - c));
  }

  // Where x_{t-3} ... x_t of a row lie, from channel `first` on.
  Inputs InputsOf(Index row, Index first) const {
    const Index n = tokens_.sequence_of[static_cast<std::size_t>(row)];
    const Index t = row - tokens_.sequences[static_cast<std::size_t>(n)].first;
    Inputs inputs;
    for (Index j = 0; j < kConvWidth; ++j) {
      const Index at = t - kPast + j;
      inputs[static_cast<std::size_t>(j)] =
          first + (at >= 0 ? x_ + (row - kPast + j) * stride_
                           : windows_[static_cast<std::size_t>(n)] + (at + kPast) * channels_);
    }
    return inputs;
  }

  ArrayOf<const T> Tap(Index j, Index first, Index width) const {
    return AsArray(taps_ + j * channels_ + first, width);
  }

  auto Filtered(const Inputs& x, Index first, Index width) const {
    static_assert(kConvWidth == 4, "kla: Filtered adds up four taps; extend it with kConvWidth");
    return AsArray(x[0], width) * Tap(0, first, width) +
           AsArray(x[1], width) * Tap(1, first, width) +
           AsArray(x[2], width) * Tap(2, first, width) +
           AsArray(x[3], width) * Tap(3, first, width);
  }

  const TokenRows& tokens_;
  Index channels_;
  const T* x_;
  Index stride_;
  const T* taps_;
  const std::vector<const T*>& windows_;
};

}  // namespace kla::internal

#endif  // KLA_LAYER_HOST_SHORT_CONV_H_
