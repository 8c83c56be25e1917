#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the tuned decode kernels for one architecture, warnings being errors, and looks at what
# came out:  cuda_kernels.sh <include folder> <source> <80, 90a or 100>
#   - no kernel spills registers or has a stack frame;
#   - states are read and written 16 bytes at a time.
# Exit status 77 (skipped) where no nvcc is installed.
set -euo pipefail
include=$1
source=$2
arch=$3
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || {
  echo "skipped: no nvcc on this machine"
  exit 77
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nvcc" -std=c++20 -O3 -I"$include" -Werror all-warnings -Xptxas -v --keep --keep-dir "$work" \
  -gencode arch=compute_"$arch",code=sm_"$arch" -cubin "$source" -o "$work/kernels.cubin" \
  2> "$work/report" || { cat "$work/report"; exit 1; }

kernels=$(grep -c 'Compiling entry function' "$work/report")
spilled=$(grep -E 'bytes stack frame' "$work/report" |
  grep -vcE '^ *0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' || true)
ptx=$(ls "$work"/*.ptx)
loads=$(grep -cE 'ld\.global\.cg\.v4' "$ptx" || true)
stores=$(grep -cE 'st\.global\.cg\.v4' "$ptx" || true)
echo "sm_$arch: $kernels kernels, $spilled with spills or a stack frame"
echo "16-byte accesses of states: $loads loads, $stores stores"
[ "$kernels" -eq 11 ] && [ "$spilled" -eq 0 ] || { cat "$work/report"; exit 1; }
# A tile of four columns of 128 floats over eight lanes is 16 vectors; eleven kernels have 131.
[ "$loads" -ge 120 ] && [ "$stores" -ge 120 ]
