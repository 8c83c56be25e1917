#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds and runs every benchmark of the backend Cuda for the GPU of this machine, and ends with a
# short table: under eight minutes. Needs nvcc and nothing else; where PyTorch and
# flash-linear-attention can be imported, also compares with them (bench/compare_fla.py).
#   bench/run_cuda.sh [--build-dir DIR]     DIR: default build-cuda; logs are left there

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build_dir=build-cuda
if [ "${1:-}" = --build-dir ]; then build_dir=${2:?--build-dir needs a value}; fi
mkdir -p "$build_dir"

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null) || {
  echo "nvcc is not installed"
  exit 1
}
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d .)
if [ -z "$capability" ]; then
  echo "no GPU here: nvidia-smi does not answer"
  exit 1
fi
arch=$capability
if [ "$capability" -ge 90 ]; then arch=${capability}a; fi  # the chip's own matrix instructions
flags=(-std=c++20 -O3 -Iinclude -Ibench -gencode "arch=compute_$arch,code=sm_$arch")

# A tiny program says whether cuBLAS can be linked, for the ceiling of matrix products.
cublas=()
printf '#include <cublas_v2.h>\nint main() { cublasHandle_t h; return cublasCreate(&h); }\n' \
  > "$build_dir/has_cublas.cu"
if "$nvcc" "$build_dir/has_cublas.cu" -lcublas -o "$build_dir/has_cublas" > /dev/null 2>&1; then
  cublas=(-DKLA_BENCH_CUBLAS -lcublas)
fi

SECONDS=0
jobs=()
for name in bench_cuda bench_cuda_chunk; do
  "$nvcc" "${flags[@]}" "bench/$name.cu" -o "$build_dir/$name" "${cublas[@]}" &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
built=$SECONDS

"$build_dir/bench_cuda" | tee "$build_dir/bench_cuda.log"
"$build_dir/bench_cuda_chunk" | tee "$build_dir/bench_cuda_chunk.log"
fla=skipped
if python3 -c 'import torch, fla' > /dev/null 2>&1; then
  timeout 240 python3 bench/compare_fla.py "$build_dir"/bench_cuda*.log | tee "$build_dir/fla.log" &&
    fla=done
fi

echo
echo "kla on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1):" \
     "built in $built s, measured in $((SECONDS - built)) s"
grep -h '^Ceiling' "$build_dir/bench_cuda.log"
grep -hE '^(DecodeStep|LayerStep)/Cuda/bf16/f32state/K(96|128)/.*batch:(1|256) ' "$build_dir/bench_cuda.log"
cut -c1-96 "$build_dir/bench_cuda_chunk.log" | grep '^Chunk'
if [ "$fla" = "done" ]; then
  grep -h '^ratio' "$build_dir/fla.log"
else
  echo "flash-linear-attention: skipped, torch and fla cannot be imported or did not run"
fi
