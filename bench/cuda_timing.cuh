// SPDX-License-Identifier: Apache-2.0
// bench: device-event timing, the device's ceilings, and random arrays in device memory.
#ifndef KLA_BENCH_CUDA_TIMING_CUH_
#define KLA_BENCH_CUDA_TIMING_CUH_

#include <cuda_runtime.h>

#if defined(KLA_BENCH_CUBLAS)
#include <cublas_v2.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "kla/backend/cuda/runtime/device_memory.cuh"
#include "kla/core/scalar.h"

namespace kla::bench {

using internal::device::CheckCuda;
using internal::device::DeviceMemory;

// Normal-like numbers with the given mean and deviation: sums of four uniform hashes.
template <class T>
__global__ void FillRandomKernel(T* data, Index count, float mean, float deviation,
                                 std::uint64_t seed) {
  const Index step = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull + seed;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
    float sum = 0;
    for (int part = 0; part < 4; ++part) {
      sum += static_cast<float>((x >> (16 * part)) & 0xffffu) / 65536.0f - 0.5f;
    }
    data[i] = static_cast<T>(mean + deviation * 1.732f * sum);
  }
}

template <class T>
DeviceMemory<T> RandomArray(Index count, float mean, float deviation, std::uint64_t seed) {
  DeviceMemory<T> memory(count);
  FillRandomKernel<<<1024, 256>>>(memory.data(), count, mean, deviation, seed);
  CheckCuda(cudaGetLastError(), "FillRandom");
  return memory;
}

// x <- a x in place: every byte of a state read once and written once, as decoding does.
__global__ void ScaleInPlaceKernel(float4* x, Index count, float a) {
  const Index step = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += 4 * step) {
    float4 values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j * step < count) values[j] = x[i + j * step];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j * step >= count) continue;
      x[i + j * step] =
          make_float4(a * values[j].x, a * values[j].y, a * values[j].z, a * values[j].w);
    }
  }
}

class Timer {
 public:
  Timer() : flush_(Index{256} << 20) {
    CheckCuda(cudaStreamCreate(&stream_), "cudaStreamCreate");
    CheckCuda(cudaEventCreate(&begin_), "cudaEventCreate");
    CheckCuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  cudaStream_t stream() const { return stream_; }

  // Median microseconds of queue(stream), each run after 256 MiB have been written, so that nothing
  // of its data is left in the L2 cache.
  template <class F>
  double Cold(const F& queue, int runs = 30) const {
    std::vector<double> times;
    for (int run = -3; run < runs; ++run) {
      flush_.Zero(0, flush_.size(), stream_);
      const double time = Once([&] { queue(stream_); });
      if (run >= 0) times.push_back(time);
    }
    return Median(times);
  }

  // Median microseconds of one call inside a replayed graph of `calls` calls, each waiting for the
  // one before: what a model that replays its decoding step sees. Data stays in the L2 cache as far
  // as it fits.
  template <class F>
  double Replayed(const F& queue, int calls = 50, int runs = 20) const {
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    CheckCuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "capture");
    for (int call = 0; call < calls; ++call) queue(stream_);
    CheckCuda(cudaStreamEndCapture(stream_, &graph), "capture");
    CheckCuda(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
    std::vector<double> times;
    for (int run = -3; run < runs; ++run) {
      const double time =
          Once([&] { CheckCuda(cudaGraphLaunch(ready, stream_), "cudaGraphLaunch"); });
      if (run >= 0) times.push_back(time / calls);
    }
    CheckCuda(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
    CheckCuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return Median(times);
  }

 private:
  template <class F>
  double Once(const F& queue) const {
    CheckCuda(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    queue();
    CheckCuda(cudaEventRecord(end_, stream_), "cudaEventRecord");
    CheckCuda(cudaEventSynchronize(end_), "timing");
    float milliseconds = 0;
    CheckCuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(milliseconds);
  }
  static double Median(std::vector<double> times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  DeviceMemory<std::uint8_t> flush_;
};

// Bytes per second of a device-to-device copy, read and written bytes both counted.
inline double CopyBandwidth(const Timer& timer) {
  const Index bytes = Index{1} << 30;
  const auto from = RandomArray<float>(bytes / 4, 0, 1, 1);
  const DeviceMemory<float> to(bytes / 4);
  const double us = timer.Cold([&](cudaStream_t stream) {
    CheckCuda(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(bytes),
                              cudaMemcpyDeviceToDevice, stream),
              "copy");
  });
  return 2.0 * static_cast<double>(bytes) / (1e-6 * us);
}

// The same for scaling 268 MB in place.
inline double InPlaceBandwidth(const Timer& timer) {
  const Index count = Index{256} << 18;
  const auto x = RandomArray<float>(count, 0, 1, 2);
  const double us = timer.Cold([&](cudaStream_t stream) {
    ScaleInPlaceKernel<<<132 * 16, 256, 0, stream>>>(reinterpret_cast<float4*>(x.data()), count / 4,
                                                     1.0001f);
    CheckCuda(cudaGetLastError(), "ScaleInPlace");
  });
  return 8.0 * static_cast<double>(count) / (1e-6 * us);
}

#if defined(KLA_BENCH_CUBLAS)
// Floating-point operations per second of an 8192 x 8192 x 8192 product of bfloat16 by cuBLAS, on
// random data: zeros run faster.
inline double MatrixRate(const Timer& timer) {
  constexpr int kSize = 8192;
  const auto a = RandomArray<bfloat16>(Index{kSize} * kSize, 0, 1, 3);
  const auto b = RandomArray<bfloat16>(Index{kSize} * kSize, 0, 1, 4);
  const DeviceMemory<bfloat16> c(Index{kSize} * kSize);
  cublasHandle_t handle;
  const auto check = [](cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cuBLAS failed");
  };
  check(cublasCreate(&handle));
  check(cublasSetStream(handle, timer.stream()));
  const float one = 1, zero = 0;
  const double us = timer.Cold([&](cudaStream_t) {
    check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a.data(),
                       CUDA_R_16BF, kSize, b.data(), CUDA_R_16BF, kSize, &zero, c.data(),
                       CUDA_R_16BF, kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  });
  check(cublasDestroy(handle));
  return 2.0 * kSize * kSize * kSize / (1e-6 * us);
}
#endif

// A whole program: what it throws is printed, and ends it with status 1.
template <class F>
int RunProgram(const F& program) {
  try {
    program();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace kla::bench

#endif  // KLA_BENCH_CUDA_TIMING_CUH_
