#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles one CUDA header alone:  cuda_header.sh <include folder> <header>
# Exit status 77 (skipped) where no nvcc is installed.
set -euo pipefail
include=$1
header=$2
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || {
  echo "skipped: no nvcc on this machine"
  exit 77
}
source=$(mktemp --suffix=.cu)
trap 'rm -f "$source"' EXIT
printf '#include "%s"\n#include "%s"\n' "$header" "$header" > "$source"
"$nvcc" -std=c++20 -I"$include" -Werror all-warnings -c "$source" -o /dev/null
