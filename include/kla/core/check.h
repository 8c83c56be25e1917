// SPDX-License-Identifier: Apache-2.0
// core: the run-time error tiers. static_assert is the first tier and needs nothing from here.
//   KLA_CHECK    in views, op/ and layer/: a bad argument throws std::invalid_argument, before
//                anything is written
//   KLA_DCHECK   in kernels: a broken promise between our own files; compiled out with NDEBUG
#ifndef KLA_CORE_CHECK_H_
#define KLA_CORE_CHECK_H_

#include <cassert>
#include <stdexcept>
#include <string>

namespace kla::internal {

// kla::ChunkForward: argument 'k': expected [2, 64, 4, 96], given [2, 64, 4, 64]
[[noreturn]] inline void ThrowInvalidArgument(const std::string& operation,
                                              const std::string& argument,
                                              const std::string& expected,
                                              const std::string& given) {
  throw std::invalid_argument("kla::" + operation + ": argument '" + argument + "': expected " +
                              expected + ", given " + given);
}

}  // namespace kla::internal

// The strings are evaluated only when the condition fails.
#define KLA_CHECK(condition, operation, argument, expected, given)                 \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::kla::internal::ThrowInvalidArgument(operation, argument, expected, given); \
  } while (false)

#define KLA_DCHECK(condition) assert(condition)

#endif  // KLA_CORE_CHECK_H_
