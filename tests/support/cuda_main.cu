// SPDX-License-Identifier: Apache-2.0
// tests/support: the main of test programs for a device; exit status 77, skipped, where there is
// none.
#include <cuda_runtime_api.h>

#include <cstdio>

#include "gtest/gtest.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (!::testing::GTEST_FLAG(list_tests) && (status != cudaSuccess || devices == 0)) {
    std::printf("skipped: no CUDA device here (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  return RUN_ALL_TESTS();
}
