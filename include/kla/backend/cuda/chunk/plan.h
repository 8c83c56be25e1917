// SPDX-License-Identifier: Apache-2.0
// backend/cuda/chunk: the workspace of ChunkForward and ChunkBackward, and the launches that both
// begin with. Host code; the launcher says where the kernels run.
#ifndef KLA_BACKEND_CUDA_CHUNK_PLAN_H_
#define KLA_BACKEND_CUDA_CHUNK_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kla/backend/cuda/block/index_list.h"
#include "kla/backend/cuda/chunk/prepare.h"
#include "kla/backend/cuda/chunk/segments.h"
#include "kla/backend/cuda/chunk/types.h"
#include "kla/backend/cuda/chunk/walk.h"
#include "kla/op/problem.h"

namespace kla::internal::device {

// What a plan has to know of the device.
struct Card {
  int processors;    // multiprocessors
  int shared_bytes;  // of shared memory that a block may have
  int segments = 0;  // of a sequence; 0: as SegmentCount says
  // Whether the forward pass is one kernel (forward_fused.h), where its blocks have room: it is
  // made for wgmma and for groups that share out registers.
  enum class Fuse { kNever, kWhereFaster, kAlways } fuse = Fuse::kNever;
};

// Lays arrays out one after the other, each on 1024 bytes; counts bytes only where `base` is null.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class U>
  U* Take(Index count) {
    U* at = base_ == nullptr ? nullptr : reinterpret_cast<U*>(base_ + used_);
    const auto bytes = static_cast<std::size_t>(count) * sizeof(U);
    used_ += (bytes + 1023) / 1024 * 1024;
    return at;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

template <class View>
auto TokenRowsOf(const View& view) {
  using T = typename View::Element;
  tile::TokenRows<T> rows{view.data(), view.strides()[0], view.strides()[1], view.strides()[2],
                          true};
  constexpr Index kUnit = 16 / static_cast<Index>(sizeof(T));
  rows.aligned = reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.batch % kUnit == 0 &&
                 rows.time % kUnit == 0 && rows.head % kUnit == 0;
  return rows;
}

inline GateRows GateRowsOf(const GateView<const float>& view) {
  return {view.data(), view.strides()[0], view.strides()[1]};
}

template <class R>
ChunkStates<R> ChunkStatesOf(const ChunkStateView<R>& view) {
  if (view.is_null()) return {};
  return {view.data(), view.strides()[0], view.strides()[1], view.strides()[2]};
}

// The arrays of one call, and the launches that fill those which both directions need.
template <class C>
class ChunkPlan {
 public:
  using E = typename C::E;

  template <class Args>
  ChunkPlan(const Args& args, const Card& card, Carver& carver, bool backward)
      : problem_(MakeProblem(args)),
        heads_{HeadMap::Of(problem_.key_heads, problem_.value_heads, problem_.grouping),
               problem_.value_heads} {
    map_.sequences = problem_.sequences;
    map_.tokens = problem_.tokens;
    map_.chunks_per_sequence = (problem_.tokens + kChunkRows - 1) / kChunkRows;
    map_.chunks = ChunkCount(args.cu_seqlens, problem_.batch, problem_.tokens, kChunkRows);
    if (!args.cu_seqlens.is_null()) {
      offsets_ = carver.Take<Index>(problem_.sequences + 1);
      first_chunk_ = carver.Take<Index>(problem_.sequences + 1);
      map_.offsets = offsets_;
      map_.first_chunk = first_chunk_;
    }
    const Index key_tiles = map_.chunks * problem_.key_heads;
    const Index squares = map_.chunks * problem_.value_heads;
    prepared_.keys = carver.Take<E>(key_tiles * C::KeyTile::kSize);
    prepared_.queries = carver.Take<E>(key_tiles * C::KeyTile::kSize);
    prepared_.norms = carver.Take<ChunkNorms>(key_tiles);
    prepared_.inverse = carver.Take<E>(squares * C::SquareTile::kSize);
    prepared_.scores = carver.Take<E>(squares * C::SquareTile::kSize);
    prepared_.overlaps = backward ? carver.Take<E>(squares * C::SquareTile::kSize) : nullptr;
    prepared_.scalars = carver.Take<ChunkScalars>(squares);
    longest_ = LongestSequence(args.cu_seqlens);
    const Index columns = problem_.value_heads * C::kValueTiles;
    segments_.count =
        card.segments > 0
            ? card.segments
            : SegmentCount({.chunks = map_.chunks,
                            .longest = longest_,
                            .columns = (backward ? 2 : 1) * columns,
                            .map_columns =
                                (backward ? 2 : 1) * columns + problem_.value_heads * C::kKeyTiles,
                            .maps_side_by_side = MapBlocksPerSm<C>(true, backward ? 2 : 3),
                            .processors = card.processors});
    if (segments_.count > 1) {
      const Index slots = problem_.sequences * problem_.value_heads * segments_.count;
      constexpr Index kSlot = kChunkRows * C::kKeyDim;
      maps_ = carver.Take<float>(slots * C::kKeyTiles * kSlot);
      entering_ = carver.Take<float>(slots * C::kValueTiles * kSlot);
      if (backward) leaving_ = carver.Take<float>(slots * C::kValueTiles * kSlot);
    }
  }

  const Problem& problem() const { return problem_; }
  const ChunkMap& map() const { return map_; }
  const HeadMap& heads() const { return heads_; }
  const Prepared<typename C::E>& prepared() const { return prepared_; }
  const SegmentMap& segments() const { return segments_; }
  float* maps() const { return maps_; }
  float* entering() const { return entering_; }
  float* leaving() const { return leaving_; }
  // Whether the forward pass is expected to be faster as one kernel, in microseconds as measured at
  // 128/128 on an H200: a step of it takes as long as the preparation and four steps of a walk, but
  // blocks that prepare do not wait for each other. A function of shapes and card alone.
  bool FusesForward(const Card& card) const {
    if (segments_.count > 1 || card.fuse == Card::Fuse::kNever) return false;
    if (card.fuse == Card::Fuse::kAlways) return true;
    const auto rounds = [&](Index blocks) {
      return static_cast<double>((blocks + card.processors - 1) / card.processors);
    };
    const Index walks = problem_.sequences * problem_.value_heads;
    const auto longest = static_cast<double>(longest_);
    const double fused = 6.1 * rounds(walks) * (longest + 2);
    const double prepare = static_cast<double>(map_.chunks) *
                           (3.2 * static_cast<double>(problem_.key_heads) +
                            1.25 * static_cast<double>(problem_.value_heads)) /
                           card.processors;
    return fused < prepare + 1.5 * rounds(walks * C::kValueTiles) * longest;
  }
  // Blocks of a walk with kTiles tiles of columns.
  Index Walks(Index tiles) const {
    return problem_.sequences * problem_.value_heads * segments_.count * tiles;
  }

  // Of packed sequences, to device memory.
  template <class Launcher, class Args>
  void WriteOffsets(const Args& args, const Launcher& launcher) const {
    if (!args.cu_seqlens.is_null()) {
      WriteList(launcher, offsets_, [&](Index n) { return args.cu_seqlens[n]; });
      Index chunks = 0;
      WriteList(launcher, first_chunk_, [&](Index n) {
        if (n > 0) {
          chunks += (args.cu_seqlens[n] - args.cu_seqlens[n - 1] + kChunkRows - 1) / kChunkRows;
        }
        return chunks;
      });
    }
  }

  template <class Launcher, class Args>
  void Prepare(const Args& args, const Launcher& launcher) const {
    WriteOffsets(args, launcher);
    PrepareChunks<C> prepare{map_,
                             heads_,
                             TokenRowsOf(args.q),
                             TokenRowsOf(args.k),
                             GateRowsOf(args.g),
                             GateRowsOf(args.eta),
                             problem_.scale,
                             problem_.epsilon,
                             prepared_};
    launcher.Launch("chunks: prepare", prepare, map_.chunks * problem_.key_heads);
  }

  // From the maps of segments, what enters each.
  template <class Launcher>
  void Scan(const Launcher& launcher) const {
    if (segments_.count <= 2) return;
    const Index walks = problem_.sequences * problem_.value_heads * C::kValueTiles;
    const ScanSegments<typename C::Walk> scan{map_,  heads_,    segments_, walks,
                                              maps_, entering_, leaving_};
    launcher.Launch("chunks: scan", scan, leaving_ == nullptr ? walks : 2 * walks);
  }

 private:
  // In chunks.
  Index LongestSequence(const IndexList& cu_seqlens) const {
    if (cu_seqlens.is_null()) return map_.chunks_per_sequence;
    Index longest = 0;
    for (Index n = 0; n < problem_.sequences; ++n) {
      longest =
          std::max(longest, (cu_seqlens[n + 1] - cu_seqlens[n] + kChunkRows - 1) / kChunkRows);
    }
    return longest;
  }

  // list(0), list(1), ..., list(N).
  template <class Launcher, class F>
  void WriteList(const Launcher& launcher, Index* to, const F& list) const {
    WriteIndexList("chunks: offsets", launcher, to, problem_.sequences + 1, list);
  }

  Problem problem_;
  HeadMap heads_;
  ChunkMap map_;
  SegmentMap segments_;
  Index longest_ = 0;  // chunks of the longest sequence
  float *maps_ = nullptr, *entering_ = nullptr, *leaving_ = nullptr;
  Index *offsets_ = nullptr, *first_chunk_ = nullptr;
  Prepared<typename C::E> prepared_{};
};

}  // namespace kla::internal::device

#endif  // KLA_BACKEND_CUDA_CHUNK_PLAN_H_
