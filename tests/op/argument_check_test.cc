// SPDX-License-Identifier: Apache-2.0
// tests/op: every argument that an operation must refuse, one row each: the exact text of the
// exception, and that nothing was written.
#include "kla/op/argument_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <ostream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "kla/kla.h"

namespace kla::test {
namespace {

constexpr Index kB = 2, kT = 5, kH = 2, kHV = 4, kK = 8, kV = 6, kSlots = 3;

using Extents = std::vector<Index>;

enum class Role { kInput, kOutput, kOptionalInput, kOptionalOutput };

// One array argument of an operation: how to set it, and what it must look like.
template <class Args>
struct Argument {
  std::string name;
  Role role;
  std::string axes;
  Extents extents;
  std::function<void(Args&, float*, const Extents&, const Extents& strides)> set;

  bool IsOutput() const { return role == Role::kOutput || role == Role::kOptionalOutput; }
  bool IsRequired() const { return role == Role::kInput || role == Role::kOutput; }
  bool IsState() const { return axes[1] == 'N' && axes[2] == ','; }
};

template <class V>
V MakeView(float* data, const Extents& extents, const Extents& strides) {
  typename V::Sizes e, s;
  std::copy(extents.begin(), extents.end(), e.begin());
  std::copy(strides.begin(), strides.end(), s.begin());
  return V(data, e, s);
}

Extents Contiguous(const Extents& extents) {
  Extents strides(extents.size(), 1);
  for (std::size_t i = extents.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * extents[i + 1];
  return strides;
}

template <class Args, class V>
Argument<Args> Describe(const char* name, V Args::*member, Role role, const char* axes,
                        const Extents& extents) {
  return {name, role, axes, extents,
          [member](Args& args, float* data, const Extents& e, const Extents& s) {
            if constexpr (requires { typename V::Sizes; }) {
              args.*member = MakeView<V>(data, e, s);
            } else {
              args.*member = MakeView<StateView<float>>(data, e, s);
            }
          }};
}

template <class Args>
std::vector<Argument<Args>> CommonInputs() {
  return {Describe("q", &Args::q, Role::kInput, "[B, T, H, K]", {kB, kT, kH, kK}),
          Describe("k", &Args::k, Role::kInput, "[B, T, H, K]", {kB, kT, kH, kK}),
          Describe("v", &Args::v, Role::kInput, "[B, T, HV, V]", {kB, kT, kHV, kV}),
          Describe("g", &Args::g, Role::kInput, "[B, T, HV]", {kB, kT, kHV}),
          Describe("eta", &Args::eta, Role::kInput, "[B, T, HV]", {kB, kT, kHV})};
}

using Pool = DecodeState<Reference, Shape<kK, kV>>;

struct Forward {
  using Args = ChunkForwardArgs<float>;
  static constexpr const char* kName = "ChunkForward";
  static std::vector<Argument<Args>> Arguments() {
    auto list = CommonInputs<Args>();
    list.push_back(Describe("o", &Args::o, Role::kOutput, "[B, T, HV, V]", {kB, kT, kHV, kV}));
    list.push_back(Describe("initial_state", &Args::initial_state, Role::kOptionalInput,
                            "[N, HV, K, V]", {kB, kHV, kK, kV}));
    list.push_back(Describe("final_state", &Args::final_state, Role::kOptionalOutput,
                            "[N, HV, K, V]", {kB, kHV, kK, kV}));
    list.push_back(Describe("chunk_states", &Args::chunk_states, Role::kOptionalOutput,
                            "[NT, HV, K, V]", {kB, kHV, kK, kV}));
    return list;
  }
  template <class S>
  static void Run(const Args& args, Pool&) {
    ChunkForward<Reference, S>(args);
  }
};

struct Backward {
  using Args = ChunkBackwardArgs<float>;
  static constexpr const char* kName = "ChunkBackward";
  static std::vector<Argument<Args>> Arguments() {
    auto list = CommonInputs<Args>();
    list.push_back(Describe("d_o", &Args::d_o, Role::kInput, "[B, T, HV, V]", {kB, kT, kHV, kV}));
    list.push_back(Describe("dq", &Args::dq, Role::kOutput, "[B, T, H, K]", {kB, kT, kH, kK}));
    list.push_back(Describe("dk", &Args::dk, Role::kOutput, "[B, T, H, K]", {kB, kT, kH, kK}));
    list.push_back(Describe("dv", &Args::dv, Role::kOutput, "[B, T, HV, V]", {kB, kT, kHV, kV}));
    list.push_back(Describe("dg", &Args::dg, Role::kOutput, "[B, T, HV]", {kB, kT, kHV}));
    list.push_back(Describe("deta", &Args::deta, Role::kOutput, "[B, T, HV]", {kB, kT, kHV}));
    list.push_back(Describe("initial_state", &Args::initial_state, Role::kOptionalInput,
                            "[N, HV, K, V]", {kB, kHV, kK, kV}));
    list.push_back(Describe("d_final_state", &Args::d_final_state, Role::kOptionalInput,
                            "[N, HV, K, V]", {kB, kHV, kK, kV}));
    list.push_back(Describe("d_initial_state", &Args::d_initial_state, Role::kOptionalOutput,
                            "[N, HV, K, V]", {kB, kHV, kK, kV}));
    list.push_back(Describe("chunk_states", &Args::chunk_states, Role::kOptionalInput,
                            "[NT, HV, K, V]", {kB, kHV, kK, kV}));
    return list;
  }
  template <class S>
  static void Run(const Args& args, Pool&) {
    ChunkBackward<Reference, S>(args);
  }
};

struct Step {
  using Args = DecodeStepArgs<float>;
  static constexpr const char* kName = "DecodeStep";
  static std::vector<Argument<Args>> Arguments() {
    auto list = CommonInputs<Args>();
    list.push_back(Describe("o", &Args::o, Role::kOutput, "[B, T, HV, V]", {kB, kT, kHV, kV}));
    return list;
  }
  template <class S>
  static void Run(const Args& args, Pool& pool) {
    if constexpr (std::is_same_v<S, Shape<kK, kV>>) {
      DecodeStep<Reference, S>(args, pool);
    } else {
      DecodeState<Reference, S> own(kSlots, kHV, kK, kV);
      DecodeStep<Reference, S>(args, own);
    }
  }
};

// Valid arguments, all in one arena, each in a place of its own with room around it.
template <class Op>
class Scene {
 public:
  static constexpr Index kRoom = 8192, kMargin = 2048;

  Scene() : arena_(static_cast<std::size_t>(kRoom) * arguments.size()) {
    for (std::size_t i = 0; i < arena_.size(); ++i) {
      arena_[i] = 0.25f + static_cast<float>(i % 7) / 16;
    }
    for (const auto& argument : arguments) Set(argument.name, argument.extents);
    Array<float> states(std::size_t{kSlots * kHV * kK * kV}, 0.5f);
    pool.Load(StateView<const float>(states.data(), {kSlots, kHV, kK, kV}));
  }

  const Argument<typename Op::Args>& Find(const std::string& name) const {
    return *std::find_if(arguments.begin(), arguments.end(),
                         [&](const auto& a) { return a.name == name; });
  }
  float* Home(const std::string& name) {
    return arena_.data() + (&Find(name) - arguments.data()) * kRoom + kMargin;
  }
  void Set(const std::string& name, const Extents& extents, const Extents& strides = {}) {
    Place(name, Home(name), extents, strides);
  }
  void Place(const std::string& name, float* data, const Extents& extents,
             const Extents& strides = {}) {
    Find(name).set(args, data, extents, strides.empty() ? Contiguous(extents) : strides);
  }

  // The exception's text, or that there was none, or that something was written.
  template <class S = Shape<kK, kV>>
  std::string Run() {
    const std::vector<float> before = arena_;
    const Pool pool_before = pool;
    std::string text = "no exception";
    try {
      Op::template Run<S>(args, pool);
    } catch (const std::invalid_argument& error) {
      text = error.what();
      const auto same = [](const float* a, const float* b, std::size_t bytes) {
        return std::memcmp(a, b, bytes) == 0;
      };
      if (!same(arena_.data(), before.data(), arena_.size() * sizeof(float)) ||
          !same(pool.Head(0, 0), pool_before.Head(0, 0),
                static_cast<std::size_t>(pool.size_bytes()))) {
        text += " AFTER SOMETHING WAS WRITTEN";
      }
    }
    return text;
  }

  template <class T>
  using Array = std::vector<T>;

  const std::vector<Argument<typename Op::Args>> arguments = Op::Arguments();
  typename Op::Args args;
  Pool pool{kSlots, kHV};
  std::vector<std::int32_t> narrow;  // memory of cu_seqlens and slots
  std::vector<std::int64_t> wide;

 private:
  std::vector<float> arena_;
};

struct Row {
  std::string name;
  std::string expected;  // the exception's text
  std::function<std::string()> run;
};
std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.expected; }

std::string Text(const Extents& extents) {
  return internal::ShapeString(extents.data(), extents.size());
}

// Collects rows of one operation.
template <class Op>
class Table {
 public:
  using Spoil = std::function<void(Scene<Op>&)>;

  template <class S = Shape<kK, kV>>
  void Add(const std::string& name, const std::string& argument, const std::string& expected,
           const std::string& given, const Spoil& spoil) {
    rows_.push_back({name,
                     std::string("kla::") + Op::kName + ": argument '" + argument + "': expected " +
                         expected + ", given " + given,
                     [spoil] {
                       Scene<Op> scene;
                       spoil(scene);
                       return scene.template Run<S>();
                     }});
  }

  std::vector<Row> Build() {
    NullArguments();
    Shapes();
    HeadSizes();
    Offsets();
    Scalars();
    Aliasing();
    if constexpr (std::is_same_v<Op, Step>) Slots();
    return rows_;
  }

 private:
  static constexpr const char* kNull = "a null view";

  // What is said of an array whose shape is wrong.
  static std::string Wanted(const Argument<typename Op::Args>& a) {
    if (a.IsState()) return "N = 2, HV = 4, K = 8, V = 6";
    return a.axes + " = " + Text(a.extents);
  }

  void NullArguments() {
    for (const auto& a : arguments_) {
      if (!a.IsRequired()) continue;
      const Extents none(a.extents.size(), 0);
      const std::string wanted = a.name == "q" ? "K = 8" : a.name == "v" ? "V = 6" : Wanted(a);
      Add(a.name + "_left_out", a.name, wanted, kNull,
          [=](Scene<Op>& s) { s.Place(a.name, nullptr, none); });
      Add(a.name + "_null_data", a.name, "data", "a null pointer",
          [=](Scene<Op>& s) { s.Place(a.name, nullptr, a.extents); });
    }
  }

  // Every axis of every array but q and v one longer and one shorter than it must be.
  void Shapes() {
    for (const auto& a : arguments_) {
      if (a.name == "q" || a.name == "v") continue;
      for (std::size_t axis = 0; axis < a.extents.size(); ++axis) {
        for (const Index change : {-1, 1}) {
          Extents wrong = a.extents;
          wrong[axis] += change;
          Add(a.name + "_axis" + std::to_string(axis) + (change < 0 ? "_short" : "_long"), a.name,
              Wanted(a), (a.IsState() ? "[N, HV, K, V] = " : "") + Text(wrong),
              [=](Scene<Op>& s) { s.Set(a.name, wrong); });
        }
      }
      if (a.IsState()) {
        const auto spoil = [=](Scene<Op>& s) {
          const auto transposed = MakeView<TransposedStateView<float>>(
              s.Home(a.name), {kB, kHV, kV, kK + 1}, Contiguous({kB, kHV, kV, kK + 1}));
          SetState(s.args, a.name, transposed);
        };
        Add(a.name + "_transposed", a.name, Wanted(a), "[N, HV, V, K] = [2, 4, 6, 9]", spoil);
      }
    }
    // q and v say what the sizes are; all others are held against them.
    Add("q_batch", "k", "[B, T, H, K] = [3, 5, 2, 8]", "[2, 5, 2, 8]", [](Scene<Op>& s) {
      s.Set("q", {3, kT, kH, kK});
    });
    Add("q_time", "k", "[B, T, H, K] = [2, 6, 2, 8]", "[2, 5, 2, 8]", [](Scene<Op>& s) {
      s.Set("q", {kB, 6, kH, kK});
    });
    Add("q_heads", "k", "[B, T, H, K] = [2, 5, 4, 8]", "[2, 5, 2, 8]", [](Scene<Op>& s) {
      s.Set("q", {kB, kT, 4, kK});
    });
    Add("v_batch", "v", "[B, T, HV, V] = [2, 5, 4, 6]", "[1, 5, 4, 6]", [](Scene<Op>& s) {
      s.Set("v", {1, kT, kHV, kV});
    });
    Add("v_time", "v", "[B, T, HV, V] = [2, 5, 4, 6]", "[2, 4, 4, 6]", [](Scene<Op>& s) {
      s.Set("v", {kB, 4, kHV, kV});
    });
    Add("v_heads", "g", "[B, T, HV] = [2, 5, 2]", "[2, 5, 4]", [](Scene<Op>& s) {
      s.Set("v", {kB, kT, 2, kV});
    });
  }

  static void SetState(typename Op::Args& args, const std::string& name,
                       const TransposedStateView<float>& view) {
    if constexpr (requires { args.final_state; }) {
      if (name == "initial_state") args.initial_state = view;
      if (name == "final_state") args.final_state = view;
    }
    if constexpr (requires { args.d_final_state; }) {
      if (name == "initial_state") args.initial_state = view;
      if (name == "d_final_state") args.d_final_state = view;
      if (name == "d_initial_state") args.d_initial_state = view;
    }
  }

  void HeadSizes() {
    Add("key_dim_of_another_shape", "q", "K = 8", "[2, 5, 2, 7]", [](Scene<Op>& s) {
      s.Set("q", {kB, kT, kH, 7});
    });
    Add("value_dim_of_another_shape", "v", "V = 6", "[2, 5, 4, 12]", [](Scene<Op>& s) {
      s.Set("v", {kB, kT, kHV, 12});
    });
    for (const Index size : {Index{0}, kMaxHeadDim + 1}) {
      const std::string text = std::to_string(size);
      const Extents small = {1, 1, 1, size};
      Add<DynamicShape>("key_dim_" + text, "q", "K between 1 and 1024", Text(small),
                        [=](Scene<Op>& s) { s.Set("q", small); });
      Add<DynamicShape>("value_dim_" + text, "v", "V between 1 and 1024", Text(small),
                        [=](Scene<Op>& s) { s.Set("v", small); });
    }
    Add("no_key_heads", "q", "at least one head, H >= 1", "[2, 5, 0, 8]", [](Scene<Op>& s) {
      s.Set("q", {kB, kT, 0, kK});
    });
    for (const Index heads : {0, 1, 3, 5}) {
      const Extents wrong = {kB, kT, heads, kV};
      Add("value_heads_" + std::to_string(heads), "v", "[B, T, HV, V] with HV a multiple of H = 2",
          Text(wrong), [=](Scene<Op>& s) { s.Set("v", wrong); });
    }
  }

  void Offsets() {
    Add("packed_batch", "cu_seqlens", "packed sequences in one batch row, B = 1", "B = 2",
        [](Scene<Op>& s) {
          s.narrow = {0, kT};
          s.args.cu_seqlens = s.narrow;
        });
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& offsets,
                         const std::string& expected, const std::string& given) {
      Add(name + "_int64", "cu_seqlens", expected, given, [=](Scene<Op>& s) {
        OneRow(s);
        s.wide = offsets;
        s.args.cu_seqlens = s.wide;
      });
      Add(name + "_int32", "cu_seqlens", expected, given, [=](Scene<Op>& s) {
        OneRow(s);
        s.narrow.assign(offsets.begin(), offsets.end());
        s.args.cu_seqlens = s.narrow;
      });
    };
    add("offsets_begin_late", {1, 5}, "offsets that begin with 0", "1");
    add("offsets_begin_early", {-1, 5}, "offsets that begin with 0", "-1");
    add("offsets_decrease", {0, 3, 2, 5}, "non-decreasing offsets",
        "3 followed by 2 at position 2");
    add("offsets_decrease_at_the_end", {0, 6, 5}, "non-decreasing offsets",
        "6 followed by 5 at position 2");
    add("offsets_end_early", {0, 2, 4}, "a last offset of T = 5", "4");
    add("offsets_end_late", {0, 2, 6}, "a last offset of T = 5", "6");
    add("offsets_without_sequence", {0}, "a last offset of T = 5", "0");
    Add("offsets_in_device_memory", "cu_seqlens",
        "a list in host memory (only DecodeStep on a device reads one there)",
        "a list in device memory", [](Scene<Op>& s) {
          s.narrow = {0, kT};
          s.args.cu_seqlens = IndexList::OnDevice(s.narrow.data(), 2);
        });
    Add("no_offsets", "cu_seqlens", "offsets that begin with 0", "no offsets", [](Scene<Op>& s) {
      OneRow(s);
      s.wide = {0};
      s.args.cu_seqlens = IndexList(s.wide.data(), 0);
    });
  }

  static void OneRow(Scene<Op>& s) {
    for (const auto& a : s.arguments) {
      Extents e = a.extents;
      e[0] = 1;
      s.Set(a.name, e);
    }
  }

  void Scalars() {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    Add("scale_infinite", "scale", "a finite number", "inf",
        [=](Scene<Op>& s) { s.args.scale = kInfinity; });
    Add("scale_nan", "scale", "a finite number", "nan",
        [=](Scene<Op>& s) { s.args.scale = std::numeric_limits<double>::quiet_NaN(); });
    Add("epsilon_negative", "epsilon", "a finite number >= 0", "-0.500000",
        [=](Scene<Op>& s) { s.args.epsilon = -0.5; });
    Add("epsilon_infinite", "epsilon", "a finite number >= 0", "inf",
        [=](Scene<Op>& s) { s.args.epsilon = kInfinity; });
    Add("epsilon_nan", "epsilon", "a finite number >= 0", "nan",
        [=](Scene<Op>& s) { s.args.epsilon = std::numeric_limits<double>::quiet_NaN(); });
  }

  // Every output over every other array: the first element of the output on the last one of the
  // other, so that a check of base addresses alone would miss it.
  void Aliasing() {
    for (const auto& output : arguments_) {
      if (!output.IsOutput()) continue;
      for (const auto& other : arguments_) {
        if (other.name == output.name) continue;
        Index last = 0;
        const Extents strides = Contiguous(other.extents);
        for (std::size_t i = 0; i < strides.size(); ++i)
          last += strides[i] * (other.extents[i] - 1);
        // Between two outputs the later one of the list is named.
        const bool named = !other.IsOutput() || &output > &other;
        Add(output.name + "_over_" + other.name, named ? output.name : other.name,
            "memory that does not overlap '" + (named ? other.name : output.name) + "'",
            "overlapping arrays",
            [=](Scene<Op>& s) { s.Place(output.name, s.Home(other.name) + last, output.extents); });
      }
      Extents strides = Contiguous(output.extents);
      strides[1] = 0;
      Add(output.name + "_over_itself", output.name,
          "an output whose elements do not overlap each other",
          "strides smaller than the axes inside them",
          [=](Scene<Op>& s) { s.Set(output.name, output.extents, strides); });
    }
  }

  void Slots() {
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& slots,
                         const std::string& expected, const std::string& given) {
      Add(name + "_int64", "slots", expected, given, [=](Scene<Op>& s) {
        s.wide = slots;
        SetSlots(s.args, s.wide);
      });
      Add(name + "_int32", "slots", expected, given, [=](Scene<Op>& s) {
        s.narrow.assign(slots.begin(), slots.end());
        SetSlots(s.args, s.narrow);
      });
    };
    add("slot_above", {0, kSlots}, "-1 or a slot below 3", "3");
    add("slot_below", {-2, 0}, "-1 or a slot below 3", "-2");
    add("slot_twice", {2, 2}, "every slot at most once", "slot 2 again at position 1");
    add("slots_missing", {0}, "one slot for each of N = 2 sequences", "1");
    add("slots_too_many", {0, 1, 2}, "one slot for each of N = 2 sequences", "3");
    Add("slots_in_device_memory", "slots",
        "a list in host memory (only DecodeStep on a device reads one there)",
        "a list in device memory", [](Scene<Op>& s) {
          s.narrow = {0, 1};
          SetSlots(s.args, IndexList::OnDevice(s.narrow.data(), 2));
        });
    Add("more_sequences_than_slots", "slots", "at most 3 sequences where slots are left out", "4",
        [](Scene<Op>& s) {
          for (const auto& a : s.arguments) {
            Extents e = a.extents;
            e[0] = 4;
            s.Set(a.name, e);
          }
        });
    const std::string wanted = "HV = 4, K = 8, V = 6";
    Add("state_of_other_heads", "state", wanted, "HV = 2, K = 8, V = 6",
        [](Scene<Op>& s) { s.pool = Pool(kSlots, 2); });
    Add<DynamicShape>("state_of_another_key_dim", "state", "HV = 4, K = 7, V = 6", wanted,
                      [](Scene<Op>& s) {
                        s.Set("q", {kB, kT, kH, 7});
                        s.Set("k", {kB, kT, kH, 7});
                      });
    Add<DynamicShape>("state_of_another_value_dim", "state", "HV = 4, K = 8, V = 5", wanted,
                      [](Scene<Op>& s) {
                        s.Set("v", {kB, kT, kHV, 5});
                        s.Set("o", {kB, kT, kHV, 5});
                      });
  }
  template <class Args, class List>
  static void SetSlots(Args& args, const List& list) {
    if constexpr (requires { args.slots; }) args.slots = list;
  }

  const std::vector<Argument<typename Op::Args>> arguments_ = Op::Arguments();
  std::vector<Row> rows_;
};

class ArgumentCheckTest : public testing::TestWithParam<Row> {};

TEST_P(ArgumentCheckTest, Throws) { EXPECT_EQ(GetParam().run(), GetParam().expected); }

std::string RowName(const testing::TestParamInfo<Row>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(ChunkForward, ArgumentCheckTest,
                         testing::ValuesIn(Table<Forward>().Build()), RowName);
INSTANTIATE_TEST_SUITE_P(ChunkBackward, ArgumentCheckTest,
                         testing::ValuesIn(Table<Backward>().Build()), RowName);
INSTANTIATE_TEST_SUITE_P(DecodeStep, ArgumentCheckTest, testing::ValuesIn(Table<Step>().Build()),
                         RowName);

// What must not be refused.
template <class Op>
class ValidArgumentsTest : public testing::Test {};
struct OpName {
  template <class Op>
  static std::string GetName(int) {
    return Op::kName;
  }
};
using Operations = testing::Types<Forward, Backward, Step>;
TYPED_TEST_SUITE(ValidArgumentsTest, Operations, OpName);

TYPED_TEST(ValidArgumentsTest, TheArgumentsThatTheRowsSpoilAreAccepted) {
  Scene<TypeParam> scene;
  EXPECT_EQ(scene.Run(), "no exception");
  EXPECT_EQ(scene.template Run<DynamicShape>(), "no exception");
}

TYPED_TEST(ValidArgumentsTest, OptionalArgumentsMayBeLeftOut) {
  Scene<TypeParam> scene;
  for (const auto& a : scene.arguments) {
    if (!a.IsRequired()) scene.Place(a.name, nullptr, Extents(a.extents.size(), 0));
  }
  EXPECT_EQ(scene.Run(), "no exception");
}

TYPED_TEST(ValidArgumentsTest, NoTokensNeedNoMemory) {
  Scene<TypeParam> scene;
  for (const auto& a : scene.arguments) {
    if (a.axes.substr(0, 5) != "[B, T") continue;
    Extents none = a.extents;
    none[1] = 0;
    scene.Place(a.name, nullptr, none);
  }
  for (const auto& a : scene.arguments) {
    if (a.name == "chunk_states") scene.Set(a.name, {0, kHV, kK, kV});
  }
  EXPECT_EQ(scene.Run(), "no exception");
}

TYPED_TEST(ValidArgumentsTest, InputsMayShareMemoryAndBeBroadcast) {
  Scene<TypeParam> scene;
  scene.Place("k", scene.Home("q"), {kB, kT, kH, kK});
  scene.Place("eta", scene.Home("g"), {kB, kT, kHV}, {0, 0, 1});
  EXPECT_EQ(scene.Run(), "no exception");
}

// A state may be updated in place, but only as exactly the same array.
struct InPlace {
  template <class Op, class State>
  static std::string Run(State Op::Args::*output, const char* input, bool transposed,
                         Extents strides = {}) {
    Scene<Op> scene;
    if (strides.empty()) strides = Contiguous({kB, kHV, kK, kV});
    scene.Set(input, {kB, kHV, kK, kV}, strides);
    if (transposed) {
      scene.args.*output = MakeView<TransposedStateView<float>>(
          scene.Home(input), {kB, kHV, kV, kK}, Contiguous({kB, kHV, kV, kK}));
    } else {
      scene.args.*output =
          MakeView<StateView<float>>(scene.Home(input), {kB, kHV, kK, kV}, strides);
    }
    return scene.Run();
  }
};

TEST(StateInPlaceTest, TheSameArrayIsAccepted) {
  const Extents padded = {1000, 60, 7, 1};
  for (const Extents& strides : {Extents{}, padded}) {
    EXPECT_EQ(InPlace::Run<Forward>(&Forward::Args::final_state, "initial_state", false, strides),
              "no exception");
    EXPECT_EQ(
        InPlace::Run<Backward>(&Backward::Args::d_initial_state, "d_final_state", false, strides),
        "no exception");
  }
}

TEST(StateInPlaceTest, TheSameMemoryInTheOtherLayoutIsRefused) {
  EXPECT_EQ(InPlace::Run<Forward>(&Forward::Args::final_state, "initial_state", true),
            "kla::ChunkForward: argument 'final_state': expected memory that does not overlap "
            "'initial_state', given overlapping arrays");
  EXPECT_EQ(InPlace::Run<Backward>(&Backward::Args::d_initial_state, "d_final_state", true),
            "kla::ChunkBackward: argument 'd_initial_state': expected memory that does not overlap "
            "'d_final_state', given overlapping arrays");
}

}  // namespace
}  // namespace kla::test
