// SPDX-License-Identifier: Apache-2.0
// What the snippets of README.md speak of: the arrays of its first program, and one token of each.
#ifndef KLA_TESTS_BUILD_SNIPPETS_PREAMBLE_H_
#define KLA_TESTS_BUILD_SNIPPETS_PREAMBLE_H_

#include <kla/kla.h>
#include <kla/layer.h>

#include <cstdio>
#include <random>
#include <vector>

namespace snippets {

using Head = kla::Shape<64, 64>;
inline constexpr kla::Index T = 100, H = 4;

inline std::vector<float> x_memory(T*H * 64, 0.5f), decay(T*H, -0.1f), step(T*H, 0.9f),
    y_memory(T*H * 64);
inline const kla::KeyView<const float> q(x_memory.data(), {1, T, H, 64}), k = q;
inline const kla::ValueView<const float> v(x_memory.data(), {1, T, H, 64});
inline const kla::GateView<const float> g(decay.data(), {1, T, H}), eta(step.data(), {1, T, H});
inline const kla::ValueView<float> o(y_memory.data(), {1, T, H, 64});

inline const kla::KeyView<const float> q1(x_memory.data(), {1, 1, H, 64}), k1 = q1;
inline const kla::ValueView<const float> v1(x_memory.data(), {1, 1, H, 64});
inline const kla::GateView<const float> g1(decay.data(), {1, 1, H}), eta1(step.data(), {1, 1, H});
inline const kla::ValueView<float> o1(y_memory.data(), {1, 1, H, 64});

}  // namespace snippets

#endif  // KLA_TESTS_BUILD_SNIPPETS_PREAMBLE_H_
