#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What nvcc makes of the chunk kernels:
#   cuda_sass.sh <include folder> <architecture> <K> <V> [type, else kla::bfloat16]
# - No kernel spills registers or has local memory, none of sm_90a has its wgmma serialized;
#   warnings are errors. ForwardFused alone is known to do both, with at most 256 bytes of local
#   memory a thread: it is faster than the kernels it replaces all the same (forward_fused.h).
# - No kernel has an atomic: results are the same bits each time.
# - Each kernel by itself has the matrix instructions of the architecture (wgmma on sm_90a, else
#   mma.sync), copies and stores of 16 bytes and, from sm_90 on, bulk copies: read in its PTX, which
#   nvcc always leaves, and in its machine code too where cuobjdump is installed.
# Exit status: 0 holds, 1 broken, 77 no nvcc here (ctest reports it as skipped).
set -euo pipefail
include=$1 arch=$2 key_dim=$3 value_dim=$4 type=${5:-kla::bfloat16}
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || {
  echo "skipped: no nvcc on this machine"
  exit 77
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/probe.cu" << PROBE
#include "kla/backend/cuda/chunk.cuh"
using Head = kla::Shape<$key_dim, $value_dim>;
using T = $type;
void Forward(const kla::ChunkForwardArgs<T>& args, const kla::CudaExecutor& on) {
  kla::ChunkForward<kla::Cuda, Head>(args, on);
}
void Backward(const kla::ChunkBackwardArgs<T>& args, const kla::CudaExecutor& on) {
  kla::ChunkBackward<kla::Cuda, Head>(args, on);
}
PROBE
"$nvcc" -std=c++20 -O3 -I"$include" -Werror all-warnings -Xptxas -v \
  -gencode "arch=compute_${arch#sm_},code=$arch" -cubin -o "$folder/probe.cubin" \
  --keep --keep-dir "$folder" "$folder/probe.cu" 2> "$folder/log" || { cat "$folder/log"; exit 1; }

# ---- Registers ------------------------------------------------------------------------------------

broken=0
kernels=$(grep -c 'Compiling entry function' "$folder/log")
clean=$(grep -c '    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' "$folder/log")
# Bytes of local memory of the fused forward pass, where it is among the kernels.
fused=$(awk '/Function properties for/ { kernel = $NF }
  /bytes stack frame/ && kernel ~ /12ForwardFused/ { print $1 }' "$folder/log")
for bytes in $fused; do
  echo "  ForwardFused: $bytes bytes of local memory"
  [ "$bytes" -gt 256 ] || [ "$bytes" -eq 0 ] || clean=$((clean + 1))
done
echo "$arch K=$key_dim V=$value_dim $type: $clean of $kernels kernels as they should be in local memory"
[ "$kernels" -ge 5 ] && [ "$clean" -eq "$kernels" ] || {
  grep -B2 'bytes spill' "$folder/log" | grep -v '    0 bytes stack frame'
  broken=1
}
if grep 'wgmma.mma_async instructions are serialized' "$folder/log" | grep -v 12ForwardFused; then
  broken=1
fi

# ---- Instructions ---------------------------------------------------------------------------------

# Lines "<kernel> <instruction>", so that each kernel answers for itself.
awk '/\.entry/ { kernel = $NF } { print kernel, $0 }' "$folder/probe.ptx" > "$folder/ptx"
listings=ptx
if cuobjdump=$(command -v cuobjdump || ls /usr/local/cuda/bin/cuobjdump 2> /dev/null); then
  "$cuobjdump" --dump-sass "$folder/probe.cubin" |
    awk '/Function :/ { kernel = $NF } { print kernel, $0 }' > "$folder/sass"
  listings="ptx sass"
else
  echo "no cuobjdump on this machine: the instructions are those of PTX"
fi
if grep -E '^[^ ]+[[:space:]]+(@!?%p[0-9]+ )?(atom|red)\.' "$folder/ptx"; then broken=1; fi
expect() {  # <kernels> <what> <pattern in PTX> <pattern in machine code>
  local listing names name count pattern counts
  for listing in $listings; do
    pattern=$3 counts=
    [ "$listing" = ptx ] || pattern=$4
    names=$(cut -d' ' -f1 "$folder/$listing" | grep -E "$1" | sort -u || true)
    [ -n "$names" ] || broken=1
    for name in $names; do
      count=$(grep -F "$name " "$folder/$listing" | grep -cE "$pattern" || true)
      counts+=" $count"
      [ "$count" -gt 0 ] || broken=1
    done
    echo "  $listing: $2, in each kernel:$counts"
  done
}
walks='WalkPipelined|WalkChunks|WalkBothWays'
[ -z "$fused" ] || walks+='|ForwardFused'
if [ "$arch" = sm_90a ]; then
  expect "PrepareChunks|ScanSegments|ChunkGradients|$walks" 'matrix instructions of a warpgroup' \
    'wgmma\.mma_async' 'HGMMA'
else
  expect "PrepareChunks|ScanSegments|ChunkGradients|$walks" 'matrix instructions' \
    'mma\.sync\.aligned\.m16n8k16' 'HMMA\.16816'
fi
if [ "$type" = float ]; then  # rows become terms on their way to shared memory
  expect "PrepareChunks|ChunkGradients|$walks" 'loads of 16 bytes' \
    'ld\.global(\.nc)?\.v4' 'LDG\.E\.128'
else
  expect "PrepareChunks|ChunkGradients|$walks" 'copies of 16 bytes to shared memory' \
    'cp\.async\.cg\.shared\.global .*, 16;' 'LDGSTS\.E\.(BYPASS\.)?.*128'
fi
# Output of the forward walk; dV of the walk back. (A mangled WalkBothWays with Lb0ENS is no map.)
expect "WalkPipelined|WalkChunks.*WalkForE0|WalkBothWays.*Lb0ENS" 'stores of 16 bytes' \
  'st\.global\.v4' 'STG\.E\.128'
expect "PrepareChunks|ChunkGradients|$walks" 'matrix loads' 'ldmatrix' 'LDSM'
if [ "$arch" != sm_80 ]; then
  expect "ChunkGradients|${walks%|ForwardFused}" 'bulk copies to shared memory' \
    'cp\.async\.bulk\.shared' 'UBLKCP\.S\.G'
  expect "PrepareChunks|WalkBothWays.*Lb0ENS" 'bulk copies from shared memory' \
    'cp\.async\.bulk\.global' 'UBLKCP\.G\.S'
fi
exit $broken
