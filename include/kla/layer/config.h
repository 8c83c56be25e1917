// SPDX-License-Identifier: Apache-2.0
// layer: what a layer is made from.
#ifndef KLA_LAYER_CONFIG_H_
#define KLA_LAYER_CONFIG_H_

#include <cmath>
#include <optional>
#include <string>

#include "kla/core/check.h"
#include "kla/core/concepts.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/op/layer_sizes.h"

namespace kla {

// The published 0.4B model has layers KlaLayer<Simd, Shape<96, 192>> made from
//   {.model_dim = 1536, .num_heads = 12}.
struct KlaLayerConfig {
  Index model_dim = 0;        // D
  Index num_heads = 0;        // H, query/key heads
  Index num_value_heads = 0;  // HV, a multiple of H; 0: H
  Index key_dim = 0;          // K; needed with a dynamic Shape, else 0 or the Shape's
  Index value_dim = 0;        // V; likewise

  double norm_epsilon = 1e-5;        // of the gated RMSNorm
  double epsilon = 1e-6;             // of the step size and of the L2 norms
  std::optional<double> scale = {};  // of the recurrence's output; K^(-1/2) if left out
  HeadGrouping grouping = HeadGrouping::kInterleaved;
};

// Throws std::invalid_argument that names the field at fault.
template <HeadShape Shape>
LayerSizes ResolveSizes(const KlaLayerConfig& config) {
  const auto require = [](bool holds, const char* field, const std::string& expected,
                          const auto& given) {
    KLA_CHECK(holds, "KlaLayer", std::string("config.") + field, expected, std::to_string(given));
  };
  const auto head_dim = [&](const char* field, Index given, Index fixed) {
    if (fixed == kDynamic) {
      require(given >= 1 && given <= kMaxHeadDim, field,
              "1 to " + std::to_string(kMaxHeadDim) + " (the Shape is dynamic)", given);
      return given;
    }
    require(given == 0 || given == fixed, field,
            "0 or " + std::to_string(fixed) + ", as in the Shape", given);
    return fixed;
  };
  require(config.model_dim >= 1, "model_dim", "at least 1", config.model_dim);
  require(config.num_heads >= 1, "num_heads", "at least 1", config.num_heads);
  require(config.num_value_heads >= 0 && config.num_value_heads % config.num_heads == 0,
          "num_value_heads", "0 or a multiple of num_heads = " + std::to_string(config.num_heads),
          config.num_value_heads);
  require(std::isfinite(config.norm_epsilon) && config.norm_epsilon > 0, "norm_epsilon",
          "a finite number > 0", config.norm_epsilon);
  require(std::isfinite(config.epsilon) && config.epsilon >= 0, "epsilon", "a finite number >= 0",
          config.epsilon);
  require(!config.scale || std::isfinite(*config.scale), "scale", "a finite number",
          config.scale.value_or(0));
  return {.model_dim = config.model_dim,
          .key_heads = config.num_heads,
          .value_heads = config.num_value_heads > 0 ? config.num_value_heads : config.num_heads,
          .key_dim = head_dim("key_dim", config.key_dim, Shape::kKeyDim),
          .value_dim = head_dim("value_dim", config.value_dim, Shape::kValueDim)};
}

}  // namespace kla

#endif  // KLA_LAYER_CONFIG_H_
