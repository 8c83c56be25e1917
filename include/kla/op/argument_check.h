// SPDX-License-Identifier: Apache-2.0
// op: the checks that the operations share. Each throws std::invalid_argument that names the
// operation, the argument, what was expected and what was given; nothing has been written by then.
#ifndef KLA_OP_ARGUMENT_CHECK_H_
#define KLA_OP_ARGUMENT_CHECK_H_

#include <cmath>
#include <initializer_list>
#include <string>

#include "kla/core/check.h"
#include "kla/core/layout.h"
#include "kla/core/shape.h"
#include "kla/core/view.h"
#include "kla/op/memory_region.h"
#include "kla/op/problem.h"

namespace kla::internal {

// A named array, for aliasing checks.
struct NamedRegion {
  const char* name;
  MemoryRegion region;
};

// Exactly the same array, so that a state may be updated in place. The same memory is not enough:
// read as [K, V] and written as [V, K], it would be overwritten while it is read.
template <class A, class B>
bool IsSameArray(const StateRef<A>& a, const StateRef<B>& b) {
  return a.data == b.data && a.sequence_stride == b.sequence_stride &&
         a.head_stride == b.head_stride && a.key_stride == b.key_stride &&
         a.value_stride == b.value_stride;
}

// Backend is a parameter so that objects compiled for different instruction sets share no code.
template <class Backend, class Shape>
class ArgumentCheck {
 public:
  explicit ArgumentCheck(const char* operation) : operation_(operation) {}

  // q, k, v, g, eta; cu_seqlens, scale, epsilon. Returns the sizes that the rest is checked
  // against.
  template <class Args>
  Problem Inputs(const Args& args, bool device_lists = false) const {
    HeadDim("q", "K", args.q.template extent<Key>(), Shape::kKeyDim, args.q);
    HeadDim("v", "V", args.v.template extent<Value>(), Shape::kValueDim, args.v);
    const Index heads = args.q.template extent<KeyHead>();
    const Index value_heads = args.v.template extent<ValueHead>();
    KLA_CHECK(heads > 0, operation_, "q", "at least one head, H >= 1", args.q.ShapeText());
    KLA_CHECK(value_heads > 0 && value_heads % heads == 0, operation_, "v",
              "[B, T, HV, V] with HV a multiple of H = " + std::to_string(heads),
              args.v.ShapeText());
    Offsets(args.cu_seqlens, args.q.template extent<Batch>(), args.q.template extent<Time>(),
            device_lists);
    KLA_CHECK(!args.scale || std::isfinite(*args.scale), operation_, "scale", "a finite number",
              std::to_string(*args.scale));
    KLA_CHECK(std::isfinite(args.epsilon) && args.epsilon >= 0, operation_, "epsilon",
              "a finite number >= 0", std::to_string(args.epsilon));
    const Problem problem = MakeProblem(args);
    Keys("q", args.q, problem);
    Keys("k", args.k, problem);
    Values("v", args.v, problem);
    Gates("g", args.g, problem);
    Gates("eta", args.eta, problem);
    return problem;
  }

  template <class T>
  void Keys(const char* name, const KeyView<T>& view, const Problem& p) const {
    Array(name, view, {p.batch, p.tokens, p.key_heads, p.key_dim}, "[B, T, H, K]");
  }
  template <class T>
  void Values(const char* name, const ValueView<T>& view, const Problem& p) const {
    Array(name, view, {p.batch, p.tokens, p.value_heads, p.value_dim}, "[B, T, HV, V]");
  }
  template <class T>
  void Gates(const char* name, const GateView<T>& view, const Problem& p) const {
    Array(name, view, {p.batch, p.tokens, p.value_heads}, "[B, T, HV]");
  }
  template <class T>
  void OptionalState(const char* name, const StateRef<T>& state, const Problem& p) const {
    if (state.is_null()) return;
    KLA_CHECK(state.sequences == p.sequences && state.heads == p.value_heads &&
                  state.key_dim == p.key_dim && state.value_dim == p.value_dim,
              operation_, name,
              "N = " + std::to_string(p.sequences) + ", HV = " + std::to_string(p.value_heads) +
                  ", K = " + std::to_string(p.key_dim) + ", V = " + std::to_string(p.value_dim),
              state.ShapeText());
  }
  template <class T>
  void OptionalChunkStates(const char* name, const ChunkStateView<T>& states, const Problem& p,
                           Index chunk_count) const {
    if (states.is_null()) return;
    Array(name, states, {chunk_count, p.value_heads, p.key_dim, p.value_dim}, "[NT, HV, K, V]");
  }

  // Every output has distinct elements and shares memory with no input and no other output.
  void Aliasing(std::initializer_list<NamedRegion> outputs,
                std::initializer_list<NamedRegion> inputs) const {
    for (auto output = outputs.begin(); output != outputs.end(); ++output) {
      KLA_CHECK(output->region.empty || output->region.ElementsAreDistinct(), operation_,
                output->name, "an output whose elements do not overlap each other",
                "strides smaller than the axes inside them");
      for (const NamedRegion& input : inputs) Disjoint(*output, input);
      for (auto other = outputs.begin(); other != output; ++other) Disjoint(*output, *other);
    }
  }

  void Disjoint(const NamedRegion& output, const NamedRegion& other) const {
    KLA_CHECK(!MayOverlap(output.region, other.region), operation_, output.name,
              std::string("memory that does not overlap '") + other.name + "'",
              "overlapping arrays");
  }

  // A list that the operation reads on the host, or that the backend's kernel reads.
  void HostList(const char* name, const IndexList& list, bool device_lists = false) const {
    KLA_CHECK(device_lists || !list.on_device(), operation_, name,
              "a list in host memory (only DecodeStep on a device reads one there)",
              "a list in device memory");
  }

  // Slots of a pool to read from, for `count` sequences: in range or -1. Any may be named twice, so
  // that sequences share a prefix.
  void ReadSlots(const IndexList& slots, Index available, Index count) const {
    HostList("slots", slots);
    KLA_CHECK(slots.is_null() ? count <= available : slots.size() == count, operation_, "slots",
              slots.is_null()
                  ? "at most " + std::to_string(available) + " sequences where slots are left out"
                  : "one slot for each of N = " + std::to_string(count) + " sequences",
              std::to_string(slots.is_null() ? count : slots.size()));
    for (Index n = 0; n < slots.size(); ++n) {
      KLA_CHECK(slots[n] >= -1 && slots[n] < available, operation_, "slots",
                "-1 or a slot below " + std::to_string(available), std::to_string(slots[n]));
    }
  }

  // cu_seqlens of [B, T, ...] arrays: null, or offsets from 0 to T that do not decrease, B = 1.
  // Of a list in device memory only the size can be checked.
  void Offsets(const IndexList& offsets, Index batch, Index tokens,
               bool device_lists = false) const {
    if (offsets.is_null()) return;
    HostList("cu_seqlens", offsets, device_lists);
    KLA_CHECK(batch == 1, operation_, "cu_seqlens", "packed sequences in one batch row, B = 1",
              "B = " + std::to_string(batch));
    KLA_CHECK(offsets.size() >= 1, operation_, "cu_seqlens", "offsets that begin with 0",
              "no offsets");
    if (offsets.on_device()) return;
    KLA_CHECK(offsets[0] == 0, operation_, "cu_seqlens", "offsets that begin with 0",
              std::to_string(offsets[0]));
    for (Index n = 0; n + 1 < offsets.size(); ++n) {
      KLA_CHECK(offsets[n] <= offsets[n + 1], operation_, "cu_seqlens", "non-decreasing offsets",
                std::to_string(offsets[n]) + " followed by " + std::to_string(offsets[n + 1]) +
                    " at position " + std::to_string(n + 1));
    }
    KLA_CHECK(offsets[offsets.size() - 1] == tokens, operation_, "cu_seqlens",
              "a last offset of T = " + std::to_string(tokens),
              std::to_string(offsets[offsets.size() - 1]));
  }

 private:
  template <class V>
  void HeadDim(const char* name, const char* axis, Index given, Index fixed, const V& view) const {
    KLA_CHECK(
        fixed == kDynamic ? given >= 1 && given <= kMaxHeadDim : given == fixed, operation_, name,
        std::string(axis) + (fixed == kDynamic ? " between 1 and " + std::to_string(kMaxHeadDim)
                                               : " = " + std::to_string(fixed)),
        view.is_null() ? "a null view" : view.ShapeText());
  }

  template <class V>
  void Array(const char* name, const V& view, const typename V::Sizes& expected,
             const char* axes) const {
    KLA_CHECK(view.extents() == expected, operation_, name,
              std::string(axes) + " = " + ShapeString(expected.data(), expected.size()),
              view.is_null() ? "a null view" : view.ShapeText());
    bool empty = false;
    for (const Index extent : expected) empty = empty || extent == 0;
    KLA_CHECK(empty || !view.is_null(), operation_, name, "data", "a null pointer");
  }

  const char* operation_;
};

}  // namespace kla::internal

#endif  // KLA_OP_ARGUMENT_CHECK_H_
