// SPDX-License-Identifier: Apache-2.0
// tests/support: what the Simd backend is run on by the typed suites.
#ifndef KLA_TESTS_SUPPORT_SIMD_CONFIGS_H_
#define KLA_TESTS_SUPPORT_SIMD_CONFIGS_H_

#include "kla/kla.h"
#include "support/configs.h"

namespace kla::test {

// The shapes of published models, sizes that fill no vector or tile, every chunk length, every
// type.
#if defined(KLA_TEST_FEW_CONFIGS)
// For builds beside the main one: whole vectors, masked tails, sizes at run time, every kind of
// arithmetic; at half the time to compile.
using SimdFloatConfigs =
    ::testing::Types<Config<Simd, float, 96, 192>, Config<Simd, float, 100, 60, 16>,
                     Config<Simd, float, 20, 33, kAutoChunk, ShapeKnown::kDynamic>>;
using SimdOtherConfigs =
    ::testing::Types<Config<Simd, double, 19, 5, 16, ShapeKnown::kDynamic>,
                     Config<Simd, bfloat16, 96, 192>,
                     Config<Simd, float, 64, 48, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;
#else
using SimdFloatConfigs =
    ::testing::Types<Config<Simd, float, 64, 64>, Config<Simd, float, 96, 192>,
                     Config<Simd, float, 128, 128, 32>, Config<Simd, float, 256, 256, 64>,
                     Config<Simd, float, 100, 60, 16>, Config<Simd, float, 5, 3>,
                     Config<Simd, float, 20, 33, kAutoChunk, ShapeKnown::kDynamic>>;
using SimdOtherConfigs = ::testing::Types<
    Config<Simd, double, 48, 80>, Config<Simd, double, 19, 5, 16, ShapeKnown::kDynamic>,
    Config<Simd, bfloat16, 96, 192>, Config<Simd, bfloat16, 16, 40>, Config<Simd, float16, 64, 64>,
    Config<Simd, float, 64, 48, kAutoChunk, ShapeKnown::kStatic, bfloat16>,
    Config<Simd, bfloat16, 33, 70, kAutoChunk, ShapeKnown::kDynamic, float16>>;
#endif

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_SIMD_CONFIGS_H_
