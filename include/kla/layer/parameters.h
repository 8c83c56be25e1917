// SPDX-License-Identifier: Apache-2.0
// layer: the parameters, named, in one block of memory.
#ifndef KLA_LAYER_PARAMETERS_H_
#define KLA_LAYER_PARAMETERS_H_

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kla/core/aligned_allocator.h"
#include "kla/core/check.h"
#include "kla/core/scalar.h"
#include "kla/layer/config.h"
#include "kla/math/convolution.h"

namespace kla {

// One tensor of a layer: row-major and contiguous, in memory that the layer or gradient owns.
template <class T>
struct NamedTensor {
  std::string name;          // "q_proj.weight"; stable, fit for files
  std::vector<Index> shape;  // weights of linear maps are [out, in]
  std::span<T> values;
};

// The tensors of a layer, or their gradients, in this order:
//   q_proj.weight    [HK, D]         b_proj.bias      [HV]
//   k_proj.weight    [HK, D]         A_log            [HV]
//   v_proj.weight    [HV V, D]       dt_bias          [HV]
//   g_proj.weight    [HV V, D]       q_conv1d.weight  [HK, 1, 4]
//   a_proj.weight    [HV, D]         k_conv1d.weight  [HK, 1, 4]
//   b_proj.weight    [HV, D]         v_conv1d.weight  [HV V, 1, 4]
//                                    o_norm.weight    [V]
//                                    o_proj.weight    [D, HV V]
// g_proj makes the output gate, a_proj the decay, b_proj the step size; a convolution's last tap
// meets the current token. Names and shapes are those of flash-linear-attention's GatedDeltaNet,
// b_proj.bias apart.
template <class T>
class KlaParameters {
 public:
  using Element = T;

  explicit KlaParameters(const LayerSizes& sizes) : sizes_(sizes) {
    const Index model = sizes.model_dim, keys = sizes.key_width(), values = sizes.value_width();
    const Index heads = sizes.value_heads;
    Add("q_proj.weight", {keys, model});
    Add("k_proj.weight", {keys, model});
    Add("v_proj.weight", {values, model});
    Add("g_proj.weight", {values, model});
    Add("a_proj.weight", {heads, model});
    Add("b_proj.weight", {heads, model});
    step_bias_ = Add("b_proj.bias", {heads});
    a_log_ = Add("A_log", {heads});
    dt_bias_ = Add("dt_bias", {heads});
    conv_ = Add("q_conv1d.weight", {keys, 1, kConvWidth});
    Add("k_conv1d.weight", {keys, 1, kConvWidth});
    Add("v_conv1d.weight", {values, 1, kConvWidth});
    norm_ = Add("o_norm.weight", {sizes.value_dim});
    output_ = Add("o_proj.weight", {model, values});
    storage_.resize(static_cast<std::size_t>(size_), T(0));
  }

  // A list of views; for (auto& [name, shape, values] : layer.parameters().tensors()) ...
  std::vector<NamedTensor<T>> tensors() { return List<T>(*this); }
  std::vector<NamedTensor<const T>> tensors() const { return List<const T>(*this); }

  // All elements, tensor after tensor.
  std::span<T> values() { return {storage_.data(), storage_.size()}; }
  std::span<const T> values() const { return {storage_.data(), storage_.size()}; }

  // Throws std::invalid_argument if there is none of this name.
  NamedTensor<T> at(const std::string& name) { return Find<T>(*this, name); }
  NamedTensor<const T> at(const std::string& name) const { return Find<const T>(*this, name); }

  void SetZero() { std::fill(storage_.begin(), storage_.end(), T(0)); }

  // Linear maps and convolutions U(-1/sqrt(fan_in), 1/sqrt(fan_in)), biases 0, norm weight 1,
  // A_log = ln U(0, 16), dt_bias = softplus^-1(dt) with dt log-uniform in [1e-3, 0.1]. For one seed
  // the same numbers on every platform, up to the last bit of its log and pow.
  void Initialize(std::mt19937_64& random) {
    for (const auto& [name, shape, values] : tensors()) {
      const double bound = 1 / std::sqrt(static_cast<double>(shape.back()));
      for (T& value : values) {
        if (name == "A_log") {
          value = T(std::log(std::max(16 * Uniform(random), 1e-4)));
        } else if (name == "dt_bias") {
          const double dt = 1e-3 * std::pow(100.0, Uniform(random));
          value = T(dt + std::log(-std::expm1(-dt)));
        } else if (name == "o_norm.weight") {
          value = T(1);
        } else if (name == "b_proj.bias") {
          value = T(0);
        } else {
          value = T(bound * (2 * Uniform(random) - 1));
        }
      }
    }
  }

  const LayerSizes& sizes() const { return sizes_; }

  // What the layer's loops read and write. q_proj to b_proj form one matrix [projected_width, D],
  // the convolutions one weight [conv_channels, 1, 4].
  T* input_weight() { return storage_.data(); }
  T* step_bias() { return storage_.data() + step_bias_; }
  T* a_log() { return storage_.data() + a_log_; }
  T* dt_bias() { return storage_.data() + dt_bias_; }
  T* conv_weight() { return storage_.data() + conv_; }
  T* norm_weight() { return storage_.data() + norm_; }
  T* output_weight() { return storage_.data() + output_; }
  const T* input_weight() const { return storage_.data(); }
  const T* step_bias() const { return storage_.data() + step_bias_; }
  const T* a_log() const { return storage_.data() + a_log_; }
  const T* dt_bias() const { return storage_.data() + dt_bias_; }
  const T* conv_weight() const { return storage_.data() + conv_; }
  const T* norm_weight() const { return storage_.data() + norm_; }
  const T* output_weight() const { return storage_.data() + output_; }

  // Everything but the weights of linear maps lies together, from here on: b_proj.bias to
  // o_norm.weight.
  T* small_weights() { return step_bias(); }
  const T* small_weights() const { return step_bias(); }

 private:
  struct Entry {
    std::string name;
    std::vector<Index> shape;
    Index offset, size;
  };

  Index Add(std::string name, std::vector<Index> shape) {
    Index count = 1;
    for (const Index extent : shape) count *= extent;
    entries_.push_back({std::move(name), std::move(shape), size_, count});
    size_ += count;
    return size_ - count;
  }

  template <class U, class Self>
  static NamedTensor<U> Tensor(Self& self, const Entry& entry) {
    return {
        entry.name, entry.shape,
        std::span<U>(self.storage_.data() + entry.offset, static_cast<std::size_t>(entry.size))};
  }
  template <class U, class Self>
  static std::vector<NamedTensor<U>> List(Self& self) {
    std::vector<NamedTensor<U>> list;
    for (const Entry& entry : self.entries_) list.push_back(Tensor<U>(self, entry));
    return list;
  }
  template <class U, class Self>
  static NamedTensor<U> Find(Self& self, const std::string& name) {
    const auto found = std::find_if(self.entries_.begin(), self.entries_.end(),
                                    [&](const Entry& entry) { return entry.name == name; });
    KLA_CHECK(found != self.entries_.end(), "KlaParameters", "name", "the name of a parameter",
              "'" + name + "'");
    return Tensor<U>(self, *found);
  }

  // In [0, 1), from the top 53 bits: the standard's distributions differ between libraries.
  static double Uniform(std::mt19937_64& random) {
    return static_cast<double>(random() >> 11) * 0x1p-53;
  }

  LayerSizes sizes_;
  std::vector<Entry> entries_;
  Index size_ = 0;
  Index step_bias_ = 0, a_log_ = 0, dt_bias_ = 0, conv_ = 0, norm_ = 0, output_ = 0;
  std::vector<T, internal::CacheAlignedAllocator<T>> storage_;
};

}  // namespace kla

#endif  // KLA_LAYER_PARAMETERS_H_
