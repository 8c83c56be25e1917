// SPDX-License-Identifier: Apache-2.0
// tests/support: a double that records what is done to it, so that one pass backwards gives the
// derivatives of a sum of results with respect to everything they depend on.
#ifndef KLA_TESTS_SUPPORT_TAPE_H_
#define KLA_TESTS_SUPPORT_TAPE_H_

#include <cmath>
#include <cstddef>
#include <vector>

namespace kla::test {

struct TapeEntry {
  int a, b;
  double a_slope, b_slope;
};

// The record that all Recorded share. `size` marks a place to which it can be cut back.
class Tape {
 public:
  static constexpr int kConstant = -1;

  static std::size_t size() { return entries_.size(); }
  static void CutTo(std::size_t size) {
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(size), entries_.end());
  }

  // A result with derivatives a' with respect to entry a, and b' to b.
  static int Record(int a, double a_slope, int b = kConstant, double b_slope = 0) {
    if (a == kConstant && b == kConstant) return kConstant;
    entries_.push_back({a, b, a_slope, b_slope});
    return static_cast<int>(entries_.size()) - 1;
  }
  // An entry that depends on nothing before.
  static int Variable() {
    entries_.push_back({kConstant, kConstant, 0, 0});
    return static_cast<int>(entries_.size()) - 1;
  }
  // From the derivatives with respect to some entries, 0 for the others, those to all of them.
  static void Reverse(std::vector<double>& slopes) {
    for (std::size_t i = entries_.size(); i-- > 0;) {
      const TapeEntry& e = entries_[i];
      if (e.a != kConstant) slopes[static_cast<std::size_t>(e.a)] += e.a_slope * slopes[i];
      if (e.b != kConstant) slopes[static_cast<std::size_t>(e.b)] += e.b_slope * slopes[i];
    }
  }

 private:
  static inline std::vector<TapeEntry> entries_;
};

struct Recorded {
  Recorded() = default;
  explicit Recorded(double constant) : value(constant) {}
  Recorded(double result, int entry) : value(result), at(entry) {}
  static Recorded Variable(double value) { return {value, Tape::Variable()}; }

  Recorded operator-() const { return {-value, Tape::Record(at, -1)}; }
  friend Recorded operator+(const Recorded& a, const Recorded& b) {
    return {a.value + b.value, Tape::Record(a.at, 1, b.at, 1)};
  }
  friend Recorded operator-(const Recorded& a, const Recorded& b) {
    return {a.value - b.value, Tape::Record(a.at, 1, b.at, -1)};
  }
  friend Recorded operator*(const Recorded& a, const Recorded& b) {
    return {a.value * b.value, Tape::Record(a.at, b.value, b.at, a.value)};
  }
  friend Recorded operator/(const Recorded& a, const Recorded& b) {
    const double result = a.value / b.value;
    return {result, Tape::Record(a.at, 1 / b.value, b.at, -result / b.value)};
  }
  Recorded& operator+=(const Recorded& other) { return *this = *this + other; }
  friend bool operator>(const Recorded& a, const Recorded& b) { return a.value > b.value; }

  friend Recorded exp(const Recorded& x) {
    const double result = std::exp(x.value);
    return {result, Tape::Record(x.at, result)};
  }
  friend Recorded log(const Recorded& x) {
    return {std::log(x.value), Tape::Record(x.at, 1 / x.value)};
  }
  friend Recorded sqrt(const Recorded& x) {
    const double result = std::sqrt(x.value);
    return {result, Tape::Record(x.at, 0.5 / result)};
  }

  double value = 0;
  int at = Tape::kConstant;
};

}  // namespace kla::test

#endif  // KLA_TESTS_SUPPORT_TAPE_H_
