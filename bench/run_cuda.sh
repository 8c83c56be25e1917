#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds and runs every benchmark of the backend Cuda for the GPU of this machine, and ends with a
# short table: under eight minutes. Needs nvcc and nothing else; where PyTorch and
# flash-linear-attention can be imported, also compares with them (bench/compare_fla.py).
#   bench/run_cuda.sh [--build-dir DIR] [--no-fla]     DIR: default build-cuda; logs are left there

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build_dir=build-cuda
fla=
while [ $# -gt 0 ]; do
  case $1 in
    --build-dir) build_dir=${2:?--build-dir needs a value}; shift ;;
    --no-fla) fla="skipped: --no-fla" ;;
    *) echo "unknown option: $1"; exit 1 ;;
  esac
  shift
done
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

# A tiny program says whether cuBLAS can be linked: the layer and the ceiling of matrix products
# need it.
programs=(bench_cuda bench_cuda_chunk bench_cuda_accuracy)
cublas=()
printf '#include <cublas_v2.h>\nint main() { cublasHandle_t h; return cublasCreate(&h); }\n' \
  > "$build_dir/has_cublas.cu"
if "$nvcc" "$build_dir/has_cublas.cu" -lcublas -o "$build_dir/has_cublas" > /dev/null 2>&1; then
  cublas=(-DKLA_BENCH_CUBLAS -lcublas)
  programs+=(bench_cuda_layer)
else
  echo "KlaLayer: skipped, cuBLAS cannot be linked"
fi

# While the processor builds, the GPU is free to compile fla's kernels.
SECONDS=0
declare -A jobs
for name in "${programs[@]}"; do
  "$nvcc" "${flags[@]}" "bench/$name.cu" -o "$build_dir/$name" "${cublas[@]}" &
  jobs[$name]=$!
done
if [ -z "$fla" ]; then
  fla=$(python3 -c 'import torch, fla' 2>&1 | tail -n 1) || fla="skipped: ${fla:-python3 failed}"
  case $fla in skipped:*) ;; *) fla= ;; esac
fi
if [ -z "$fla" ]; then
  timeout 125 python3 bench/compare_fla.py --warm --limit 110 || echo "fla: not all kernels are warm"
fi
built=()
for name in "${programs[@]}"; do
  if wait "${jobs[$name]}"; then built+=("$name"); else echo "$name: did not compile"; fi
done
build_time=$SECONDS

logs=()
for name in "${built[@]}"; do
  if [ "$name" = bench_cuda_accuracy ]; then continue; fi  # runs under compare_fla.py
  logs+=("$build_dir/$name.log")
  timeout 120 "$build_dir/$name" 2>&1 | tee "$build_dir/$name.log" || echo "$name: failed"
done
bench_time=$((SECONDS - build_time))
if [ -z "$fla" ]; then
  timeout 190 python3 bench/compare_fla.py --limit 175 "${logs[@]}" | tee "$build_dir/fla.log" ||
    echo "fla: did not come to its end"
  timeout 55 python3 bench/compare_fla.py --accuracy "$build_dir/bench_cuda_accuracy" \
    --folder "$build_dir/accuracy" 2> "$build_dir/accuracy.err" | tee "$build_dir/accuracy.log" ||
    tail -n 1 "$build_dir/accuracy.err"
fi

echo
echo "kla on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1):" \
     "built in $build_time s, ran in $bench_time s, $SECONDS s in all"
grep -h '^Ceiling' "$build_dir/bench_cuda.log" || true
grep -hE '^((DecodeStep|LayerStep|KlaLayer.*)/Cuda.*bf16.*batch:(1|256)|KlaLayer::(Forward|Train|Backward).*) ' "${logs[@]}" || true
cut -c1-96 "$build_dir/bench_cuda_chunk.log" | grep '^Chunk' || true
if [ -z "$fla" ]; then
  cat "$build_dir/accuracy.log"
  grep -h '^ratio' "$build_dir/fla.log" || true
else
  echo "flash-linear-attention: $fla"
fi
