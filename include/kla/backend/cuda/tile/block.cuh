// SPDX-License-Identifier: Apache-2.0
// backend/cuda/tile: a thread block on a device: loops over its threads, barriers, copies. CUDA
// sources only.
#ifndef KLA_BACKEND_CUDA_TILE_BLOCK_CUH_
#define KLA_BACKEND_CUDA_TILE_BLOCK_CUH_

#include "kla/backend/cuda/tile/layout.h"
#include "kla/backend/cuda/tile/mma.cuh"

namespace kla::internal::tile {
inline namespace on_device {

inline constexpr unsigned kAllLanes = 0xffffffffu;

KLA_TILE_FUNCTION int Lane() { return static_cast<int>(threadIdx.x % 32); }
KLA_TILE_FUNCTION int WarpOfGroup() { return static_cast<int>(threadIdx.x / 32 % 4); }

struct RowLanes {
  static constexpr int kCount = 8;
  int index;
  KLA_TILE_FUNCTION float Sum(float x) const {
    KLA_TILE_UNROLL
    for (int d = 1; d < kCount; d *= 2) x += __shfl_xor_sync(kAllLanes, x, d);
    return x;
  }
  KLA_TILE_FUNCTION float Max(float x) const {
    KLA_TILE_UNROLL
    for (int d = 1; d < kCount; d *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, d));
    return x;
  }
  KLA_TILE_FUNCTION bool Any(bool x) const { return __any_sync(kAllLanes, x) != 0; }
};

// Counts bulk copies that arrive (an mbarrier). Compute capability 8 copies by cp.async instead.
struct Arrival {
  alignas(8) std::uint64_t state;
};

// kIsGroup: the threads of one group of the block, whose barriers wait for these alone.
template <int kGroupCount, bool kIsGroup = false>
class Block {
 public:
  static constexpr int kGroups = kGroupCount, kThreads = 128 * kGroups;

  KLA_TILE_FUNCTION Index index() const { return blockIdx.x; }
  // What threads wrote to shared memory before is seen after, by matrix units too.
  KLA_TILE_FUNCTION void Barrier() const {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
    if constexpr (kIsGroup) {
      asm volatile("bar.sync %0, 128;\n" ::"r"(static_cast<int>(threadIdx.x / 128) + 1) : "memory");
    } else {
      __syncthreads();
    }
  }
  KLA_TILE_FUNCTION Block<1, true> Group() const { return {}; }

  template <class F>
  KLA_TILE_FUNCTION void ForEach(int count, const F& f) const {
    _Pragma("unroll 1") for (int i = Thread(); i < count; i += kThreads) f(i);
  }
  // Unrolled, except where several groups leave a thread no registers to spare.
  template <int kCount, class F>
  KLA_TILE_FUNCTION void ForEach(const F& f) const {
    if constexpr (kThreads > 128 || kCount % kThreads != 0) {
      ForEach(kCount, f);
    } else {
      KLA_TILE_UNROLL
      for (int i = 0; i < kCount; i += kThreads) f(i + Thread());
    }
  }
  template <class F>
  KLA_TILE_FUNCTION void ForEachRow(const F& f) const {
    const RowLanes lanes{static_cast<int>(threadIdx.x % RowLanes::kCount)};
    for (int row = Thread() / RowLanes::kCount; row < kRows; row += kThreads / RowLanes::kCount) {
      f(row, lanes);
    }
  }
  template <class F>
  KLA_TILE_FUNCTION void Groups(const F& f) const {
    f(kGroups == 1 ? 0 : static_cast<int>(threadIdx.x / 128));
  }
  // One branch for each part, so that each has the registers it asked for.
  template <class Registers, class First, class Second, class Third>
  KLA_TILE_FUNCTION void InSteps(int steps, const First& first, const Second& second,
                                 const Third& third) const {
    const int group = static_cast<int>(threadIdx.x / 128);
    if (group < kGroups - 2) {
      SetRegisters<Registers::kFirst, Registers::kEach>();
      auto part = first(group);
      Walk(steps, part);
    } else if (group == kGroups - 2) {
      SetRegisters<Registers::kSecond, Registers::kEach>();
      auto part = second();
      Walk(steps, part);
    } else {
      SetRegisters<Registers::kThird, Registers::kEach>();
      auto part = third();
      Walk(steps, part);
    }
  }
  // The same sum, in the same order, in every thread.
  KLA_TILE_FUNCTION float Reduce(float part, float* scratch) const {
    KLA_TILE_UNROLL
    for (int d = 16; d > 0; d /= 2) part += __shfl_xor_sync(kAllLanes, part, d);
    Barrier();
    if (Lane() == 0) scratch[threadIdx.x / 32] = part;
    Barrier();
    float sum = 0;
    KLA_TILE_UNROLL
    for (int w = 0; w < kThreads / 32; ++w) sum += scratch[w];
    return sum;
  }
  // A warp each, two elements a lane; barriers are the caller's.
  KLA_TILE_FUNCTION void CumulativeSums(double (*x)[kRows], int count) const {
    for (int n = Thread() / 32; n < count; n += kThreads / 32) Scan(x[n], 0);
  }
  KLA_TILE_FUNCTION void ReverseCumulativeSum(double* x) const {
    if (Thread() < 32) Scan(x, kRows - 1);
  }

  // Contiguous, 16-byte aligned, a multiple of 16 bytes.
  template <class U>
  KLA_TILE_FUNCTION void Copy(U* to, const U* from, int bytes) const {
    const auto* source = reinterpret_cast<const uint4*>(from);
    auto* target = reinterpret_cast<uint4*>(to);
    ForEach(bytes / 16, [&](int i) { target[i] = source[i]; });
  }
  template <class U>
  KLA_TILE_FUNCTION void CopyAsync(U* to, const U* from, int bytes) const {
    const auto* source = reinterpret_cast<const uint4*>(from);
    auto* target = reinterpret_cast<uint4*>(to);
    ForEach(bytes / 16, [&](int i) { CopyUnitAsync(target + i, source + i); });
  }
  template <class U>
  KLA_TILE_FUNCTION void CopyUnitAsync(U* to, const U* from) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(SharedAddress(to)), "l"(from)
                 : "memory");
  }
  // 128 bytes on their way into the L2 cache.
  KLA_TILE_FUNCTION void Prefetch(const void* from) const {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(from));
  }
  KLA_TILE_FUNCTION void CopyWordAsync(float* to, const float* from) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(SharedAddress(to)), "l"(from)
                 : "memory");
  }
  KLA_TILE_FUNCTION void CommitCopies() const {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
  }
  template <int kPending>
  KLA_TILE_FUNCTION void WaitCopies() const {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
  }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  KLA_TILE_FUNCTION void PrepareArrival(Arrival* arrivals, int count) const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < count; ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(SharedAddress(arrivals + i))
                     : "memory");
      }
      asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    }
    __syncthreads();
  }
  KLA_TILE_FUNCTION void Expect(Arrival& arrival, int bytes) const {
    if (Thread() != 0) return;
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(SharedAddress(&arrival)),
        "r"(bytes)
        : "memory");
  }
  template <class U>
  KLA_TILE_FUNCTION void CopyBulk(Arrival& arrival, U* to, const U* from, int bytes) const {
    if (Thread() != 0) return;
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];\n" ::"r"(SharedAddress(to)),
        "l"(from), "r"(bytes), "r"(SharedAddress(&arrival))
        : "memory");
  }
  KLA_TILE_FUNCTION void Wait(Arrival& arrival, int use) const {
    asm volatile(
        "{.reg .pred p;\n"
        "again%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra again%=;\n}\n" ::"r"(SharedAddress(&arrival)),
        "r"(use & 1)
        : "memory");
  }
  template <class U>
  KLA_TILE_FUNCTION void StoreBulk(U* to, const U* from, int bytes) const {
    if (Thread() != 0) return;
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(to),
                 "r"(SharedAddress(from)), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
  }
  KLA_TILE_FUNCTION void WaitStores() const {
    if (Thread() == 0) asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
  }
#else
  KLA_TILE_FUNCTION void PrepareArrival(Arrival*, int) const {}
  KLA_TILE_FUNCTION void Expect(Arrival&, int) const {}
  template <class U>
  KLA_TILE_FUNCTION void CopyBulk(Arrival&, U* to, const U* from, int bytes) const {
    CopyAsync(to, from, bytes);
  }
  KLA_TILE_FUNCTION void Wait(Arrival&, int) const {}
  template <class U>
  KLA_TILE_FUNCTION void StoreBulk(U* to, const U* from, int bytes) const {
    Copy(to, from, bytes);
  }
  KLA_TILE_FUNCTION void WaitStores() const {}
#endif

 private:
  template <class Part>
  KLA_TILE_FUNCTION void Walk(int steps, Part& part) const {
    _Pragma("unroll 1") for (int i = 0; i < steps; ++i) {
      part.Step(i);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
      asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
      asm volatile("bar.sync 0, %0;\n" ::"n"(kThreads) : "memory");
    }
    part.End();
  }
  // Registers of a thread of this group: from kBefore to kRegisters.
  template <int kRegisters, int kBefore>
  KLA_TILE_FUNCTION static void SetRegisters() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (kRegisters > kBefore) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
    } else if constexpr (kRegisters < kBefore) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
    }
#endif
  }
  KLA_TILE_FUNCTION static int Thread() {
    return static_cast<int>(kIsGroup ? threadIdx.x % 128 : threadIdx.x);
  }
  KLA_TILE_FUNCTION static void Scan(double* x, int first) {
    const int i = 2 * Lane();
    double& a = x[first == 0 ? i : first - i];
    double& b = x[first == 0 ? i + 1 : first - i - 1];
    const double pair = a + b;
    double sum = pair;
    KLA_TILE_UNROLL
    for (int d = 1; d < 32; d *= 2) {
      const double below = __shfl_up_sync(kAllLanes, sum, d);
      if (Lane() >= d) sum += below;
    }
    const double a_old = a;
    a = sum - pair + a_old;
    b = sum;
  }
};

}  // namespace on_device
}  // namespace kla::internal::tile

#endif  // KLA_BACKEND_CUDA_TILE_BLOCK_CUH_
