// SPDX-License-Identifier: Apache-2.0
// ChunkForward and ChunkBackward captured in a graph on the caller's stream: nothing in them waits,
// allocates, or reads the caller's host memory after they have returned.
#include <vector>

#include "backend/cuda/chunk_device.cuh"
#include "support/graph_replay.cuh"

namespace kla::test {
namespace {

using T = bfloat16;
using Head = Shape<64, 64>;

// The results of a forward and a backward call, on the host and in device memory.
struct Results {
  explicit Results(const Tensors<T>& tensors)
      : values(tensors.v.extents()), keys(tensors.q.extents()), gates(tensors.g.extents()) {}
  std::vector<std::vector<double>> Values() {
    std::vector<std::vector<double>> all;
    const auto take = [&](const auto& device, auto& host) {
      device.CopyBack();
      all.push_back(host.Values());
    };
    take(o, values);
    take(dv, values);
    take(dq, keys);
    take(dk, keys);
    take(dg, gates);
    take(deta, gates);
    return all;
  }
  Array<ValueView<T>> values;
  Array<KeyView<T>> keys;
  Array<GateView<float>> gates;
  const DeviceCopy<ValueView<T>> o{values.view()}, dv{values.view()};
  const DeviceCopy<KeyView<T>> dq{keys.view()}, dk{keys.view()};
  const DeviceCopy<GateView<float>> dg{gates.view()}, deta{gates.view()};
};

TEST(CudaChunkOnDevice, CapturedCallsAreReplayedWithTheSameBits) {
  const std::vector<Index> offsets = {0, 70, 70, 200};
  // 4500 tokens of one head besides: cut into segments.
  for (const Index tokens : {Index{200}, Index{4500}}) {
    const Case c{.name = "", .tokens = tokens, .key_heads = 1, .value_heads = 2};
    const Tensors<T> given(c, 64, 64, 3);
    const DeviceCopy q{KeyView<const T>(given.q.view())}, k{KeyView<const T>(given.k.view())};
    const DeviceCopy v{ValueView<const T>(given.v.view())};
    const DeviceCopy d_o{ValueView<const T>(given.d_o.view())};
    const DeviceCopy g{GateView<const float>(given.g.view())};
    const DeviceCopy eta{GateView<const float>(given.eta.view())};
    // A list that is overwritten as soon as the calls have returned.
    const auto run = [&](const Results& to, cudaStream_t stream, const PoisonedWorkspace& forward,
                         const PoisonedWorkspace& backward) {
      std::vector<Index> list = offsets;
      ChunkForwardArgs<T> ahead{.q = q.view(),
                                .k = k.view(),
                                .v = v.view(),
                                .g = g.view(),
                                .eta = eta.view(),
                                .o = to.o.view()};
      ChunkBackwardArgs<T> back{.q = q.view(),
                                .k = k.view(),
                                .v = v.view(),
                                .g = g.view(),
                                .eta = eta.view(),
                                .d_o = d_o.view(),
                                .dq = to.dq.view(),
                                .dk = to.dk.view(),
                                .dv = to.dv.view(),
                                .dg = to.dg.view(),
                                .deta = to.deta.view()};
      if (tokens == 200) {
        ahead.cu_seqlens = list;
        back.cu_seqlens = list;
      }
      const auto on = [&](const PoisonedWorkspace& memory) {
        CudaExecutor executor = memory.executor();
        executor.stream = stream;
        return executor;
      };
      ChunkForward<Cuda, Head>(ahead, on(forward));
      ChunkBackward<Cuda, Head>(back, on(backward));
      list.assign(list.size(), -1);
    };
    const std::size_t kBytes = std::size_t{1} << 28;  // more than WorkspaceBytes says
    const PoisonedWorkspace forward(kBytes), backward(kBytes);
    Results direct(given), replayed(given);
    run(direct, nullptr, forward, backward);
    Replay([&](cudaStream_t stream) { run(replayed, stream, forward, backward); }, 2);
    const auto expected = direct.Values();
    EXPECT_EQ(replayed.Values(), expected);
    for (const auto& values : expected) EXPECT_GT(Rms(values), 0.0);
  }
}

}  // namespace

// The suites that the header brings are run by the other configurations.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkForwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ChunkBackwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SegmentsForwardTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SegmentsBackwardTest);

}  // namespace kla::test
