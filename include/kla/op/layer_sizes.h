// SPDX-License-Identifier: Apache-2.0
// op: the sizes of a layer, and where the columns of its input projection lie.
#ifndef KLA_OP_LAYER_SIZES_H_
#define KLA_OP_LAYER_SIZES_H_

#include "kla/core/scalar.h"

namespace kla {

// One matrix product makes everything that depends on x alone:
//   projected [rows, projected_width()] = [ q | k | v | gate | a | b ]
// of which the first conv_channels() columns, q, k and v, go through the convolution.
struct LayerSizes {
  Index model_dim;    // D
  Index key_heads;    // H
  Index value_heads;  // HV
  Index key_dim;      // K
  Index value_dim;    // V

  Index key_width() const { return key_heads * key_dim; }
  Index value_width() const { return value_heads * value_dim; }
  Index conv_channels() const { return 2 * key_width() + value_width(); }
  Index gate_column() const { return conv_channels(); }
  Index decay_column() const { return gate_column() + value_width(); }
  Index step_column() const { return decay_column() + value_heads; }
  Index projected_width() const { return step_column() + value_heads; }
  Index state_size() const { return value_heads * key_dim * value_dim; }

  bool operator==(const LayerSizes&) const = default;
};

}  // namespace kla

#endif  // KLA_OP_LAYER_SIZES_H_
