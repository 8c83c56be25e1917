// SPDX-License-Identifier: Apache-2.0
// Of examples 06 and 07: where a backend's arrays lie, how they get there and back, and how far the
// results of two backends are apart.
#ifndef KLA_EXAMPLES_CUDA_MEMORY_CUH_
#define KLA_EXAMPLES_CUDA_MEMORY_CUH_

#include <algorithm>
#include <cmath>
#include <kla/cuda.cuh>
#include <vector>

// On the host: a vector.
template <class Backend>
class Memory {
 public:
  explicit Memory(const std::vector<float>& host) : values_(host) {}
  float* data() { return values_.data(); }
  // As many elements as `host` has.
  static void ToHost(const float* from, std::vector<float>& host) {
    std::copy_n(from, host.size(), host.begin());
  }

 private:
  std::vector<float> values_;
};

// For Cuda: in device memory, here through the library's own small owner of it; any pointer from
// cudaMalloc does, such as that of a tensor of a framework.
template <>
class Memory<kla::Cuda> {
 public:
  explicit Memory(const std::vector<float>& host) : values_(static_cast<kla::Index>(host.size())) {
    Copy(values_.data(), host.data(), host.size(), cudaMemcpyHostToDevice);
  }
  float* data() { return values_.data(); }
  static void ToHost(const float* from, std::vector<float>& host) {
    Copy(host.data(), from, host.size(), cudaMemcpyDeviceToHost);
  }

 private:
  static void Copy(float* to, const float* from, std::size_t count, cudaMemcpyKind kind) {
    kla::internal::device::CheckCuda(cudaMemcpy(to, from, count * sizeof(float), kind),
                                     "cudaMemcpy");
  }
  kla::internal::device::DeviceMemory<float> values_;
};

// Of norms: |a - b| / |a|.
inline double RelativeDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(a[i]), 2);
  }
  return std::sqrt(error / norm);
}

#endif  // KLA_EXAMPLES_CUDA_MEMORY_CUH_
