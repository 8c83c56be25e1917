#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What nvcc makes of the chunk kernels:  cuda_sass.sh <include folder> <architecture> <K> <V>
#   no spills and no local memory in any kernel of a tuned shape, warnings as errors; and, where
#   cuobjdump is installed, the matrix instructions of the architecture (HGMMA on sm_90a, else
#   HMMA), 16-byte accesses to device memory and, on sm_90a, bulk copies.
# Exit status: 0 holds, 1 broken, 77 no nvcc here (ctest reports it as skipped).
set -euo pipefail
include=$1 arch=$2 key_dim=$3 value_dim=$4
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || {
  echo "skipped: no nvcc on this machine"
  exit 77
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/probe.cu" << PROBE
#include "kla/backend/cuda/chunk.cuh"
using Head = kla::Shape<$key_dim, $value_dim>;
using T = kla::bfloat16;
void Forward(const kla::ChunkForwardArgs<T>& args, const kla::CudaExecutor& on) {
  kla::ChunkForward<kla::Cuda, Head>(args, on);
}
void Backward(const kla::ChunkBackwardArgs<T>& args, const kla::CudaExecutor& on) {
  kla::ChunkBackward<kla::Cuda, Head>(args, on);
}
PROBE
"$nvcc" -std=c++20 -O3 -I"$include" -Werror all-warnings -Xptxas -v \
  -gencode "arch=compute_${arch#sm_},code=$arch" -cubin -o "$folder/probe.cubin" \
  "$folder/probe.cu" 2> "$folder/log" || { cat "$folder/log"; exit 1; }

broken=0
kernels=$(grep -c 'Compiling entry function' "$folder/log")
clean=$(grep -c '    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' "$folder/log")
echo "$arch K=$key_dim V=$value_dim: $clean of $kernels kernels without local memory"
[ "$kernels" -ge 5 ] && [ "$clean" -eq "$kernels" ] || {
  grep -B2 'bytes spill' "$folder/log" | grep -v '    0 bytes stack frame'
  broken=1
}

cuobjdump=$(command -v cuobjdump || ls /usr/local/cuda/bin/cuobjdump 2> /dev/null) || {
  echo "no cuobjdump on this machine: the instructions were not looked at"
  exit $broken
}
"$cuobjdump" --dump-sass "$folder/probe.cubin" > "$folder/sass"
expect() {  # <pattern> <what>
  local count
  count=$(grep -cE "$1" "$folder/sass" || true)
  echo "  $count $2"
  [ "$count" -gt 0 ] || broken=1
}
if [ "$arch" = sm_90a ]; then
  expect 'HGMMA' 'matrix instructions of a warpgroup (HGMMA)'
  expect 'UBLKCP' 'bulk copies (UBLKCP)'
else
  expect 'HMMA\.16816' 'matrix instructions (HMMA.16816)'
fi
expect 'LDGSTS\.E\.(BYPASS\.)?.*128' '16-byte copies to shared memory (LDGSTS.E.128)'
expect 'STG\.E\.128' '16-byte stores (STG.E.128)'
expect 'LDSM' 'matrix loads (LDSM)'
exit $broken
