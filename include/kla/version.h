// SPDX-License-Identifier: Apache-2.0
// The version of kla, the same as that of its CMake package (CMakeLists.txt checks).
//   #if KLA_VERSION >= 100   // 0.1.0
#ifndef KLA_VERSION_H_
#define KLA_VERSION_H_

#define KLA_VERSION_MAJOR 0
#define KLA_VERSION_MINOR 1
#define KLA_VERSION_PATCH 0
// Major, minor and patch as one number, two digits each for the last two.
#define KLA_VERSION (KLA_VERSION_MAJOR * 10000 + KLA_VERSION_MINOR * 100 + KLA_VERSION_PATCH)

#endif  // KLA_VERSION_H_
