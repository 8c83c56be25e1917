// SPDX-License-Identifier: Apache-2.0
// tests/support: what a stream is asked to do, captured and replayed.
#ifndef KLA_TESTS_SUPPORT_GRAPH_REPLAY_CUH_
#define KLA_TESTS_SUPPORT_GRAPH_REPLAY_CUH_

#include <cuda_runtime_api.h>

#include "kla/backend/cuda/runtime/status.cuh"

namespace kla::test {

// Captures queue(stream) in a graph and replays it on a stream of its own.
template <class F>
void Replay(const F& queue, int times) {
  const auto check = [](cudaError_t status) { internal::device::CheckCuda(status, "test"); };
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  check(cudaDeviceSynchronize());
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  queue(stream);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&ready, graph, 0));
  for (int i = 0; i < times; ++i) check(cudaGraphLaunch(ready, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaGraphExecDestroy(ready));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
}

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_GRAPH_REPLAY_CUH_
