// SPDX-License-Identifier: Apache-2.0
// tests/support: the (backend, types, shape) combinations that the typed suites run one body over.
#ifndef KLA_TESTS_SUPPORT_CONFIGS_H_
#define KLA_TESTS_SUPPORT_CONFIGS_H_

#include <string>

#include "gtest/gtest.h"
#include "support/kla.h"

namespace kla::test {

// kKeyDim and kValueDim are the sizes of the run; kStatic says whether the kernel knows them when
// it is compiled or takes them from the views.
enum class ShapeKnown { kStatic, kDynamic };

template <class B, class Element, Index kKey, Index kValue, Index kChunk = kAutoChunk,
          ShapeKnown kKnown = ShapeKnown::kStatic, class StateElement = Accumulator<Element>>
struct Config {
  using Backend = B;
  using T = Element;
  using State = StateElement;
  static constexpr Index kKeyDim = kKey;
  static constexpr Index kValueDim = kValue;
  static constexpr bool kDynamicShape = kKnown == ShapeKnown::kDynamic;
  using Shape =
      kla::Shape<kDynamicShape ? kDynamic : kKey, kDynamicShape ? kDynamic : kValue, kChunk>;
  static constexpr Index kChunkTokens = kChunkLength<Backend, Shape, T>;
};

// The step size reaches a kernel as three scalars a token, through code that no head shape changes.
// All of them run at the paper's shape and where sizes are known at run time; Gated DeltaNet's,
// which differs most from KLA's, everywhere.
// Under AddressSanitizer only the latter: the memory that is touched is the same for all.
template <class C>
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kRunsEveryStepSize = false;
#else
constexpr bool kRunsEveryStepSize = C::kDynamicShape || C::kKeyDim == 96;
#endif

template <class T>
std::string TypeName() {
  if constexpr (std::is_same_v<T, float>) return "f32";
  if constexpr (std::is_same_v<T, double>) return "f64";
  if constexpr (std::is_same_v<T, bfloat16>) return "bf16";
  if constexpr (std::is_same_v<T, float16>) return "f16";
  return "scalar";
}

// Simd_f32_K96_V192, with _C16, _dynamic or _bf16state appended where they apply.
struct ConfigName {
  template <class C>
  static std::string GetName(int /*position*/) {
    std::string name = std::string(C::Backend::kName) + "_" + TypeName<typename C::T>() + "_K" +
                       std::to_string(C::kKeyDim) + "_V" + std::to_string(C::kValueDim);
    if (C::Shape::kChunk != kAutoChunk) name += "_C" + std::to_string(C::Shape::kChunk);
    if (C::kDynamicShape) name += "_dynamic";
    if (!std::is_same_v<typename C::State, Accumulator<typename C::T>>) {
      name += "_" + TypeName<typename C::State>() + "state";
    }
    return name;
  }
};

using ReferenceConfigs =
    ::testing::Types<Config<Reference, double, 12, 20>,
                     Config<Reference, double, 16, 16, 16, ShapeKnown::kStatic, bfloat16>,
                     Config<Reference, float, 64, 32, 32>,
                     Config<Reference, float, 24, 40, 64, ShapeKnown::kDynamic>,
                     Config<Reference, bfloat16, 16, 32>, Config<Reference, float16, 16, 32>,
                     Config<Reference, float, 32, 16, kAutoChunk, ShapeKnown::kStatic, bfloat16>>;

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_CONFIGS_H_
