#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is missing, builds everything, runs every test, and sums up. Needs nothing but a
# Debian 12 machine and root or sudo; on other systems, install the packages yourself.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat << 'END'
tests/run.sh                      Release for this processor, every test; then the kernels' suites for
                                  plain x86-64 and for AVX2, with clang, and with sanitizers
tests/run.sh --quick              only the first of these
tests/run.sh --sanitize           only one build, with AddressSanitizer and UBSan
tests/run.sh --march x86-64-v3    only one build, for that -march (native, x86-64, x86-64-v4, ...)
tests/run.sh --compiler clang++   only one build, with that compiler
Further: --build-dir DIR (default build-tests, build-sanitize, ...), --no-install (never call apt), --help
END
}

build_dir=
march=native
compiler=${CXX:-g++}
sanitize=
variants=ON
install=yes
name=  # of the build folder: one for each kind of build, so that none undoes another's work
while [ $# -gt 0 ]; do
  case $1 in
    --quick) variants=OFF ;;
    --sanitize) sanitize=address,undefined variants=OFF name+=-sanitize ;;
    --march) march=${2:?--march needs a value} variants=OFF name+=-$2; shift ;;
    --compiler) compiler=${2:?--compiler needs a value} variants=OFF name+=-${2##*/}; shift ;;
    --build-dir) build_dir=${2:?--build-dir needs a value}; shift ;;
    --no-install) install=no ;;
    --help | -h) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

build_dir=${build_dir:-build${name:--tests}}

# ---- What it needs ------------------------------------------------------------------------------

packages=(g++ cmake ninja-build git binutils        # the build, and nm for one test
  libeigen3-dev libhwy-dev                          # the library
  libgtest-dev libbenchmark-dev                     # tests and benchmarks
  libcli11-dev libfmt-dev nlohmann-json3-dev        # examples
  clang libomp-dev clang-format)                    # the second compiler, the layout check

. examples/ensure_packages.sh
ensure_packages "$install" "${packages[@]}" || exit 1

# ---- Build and test -----------------------------------------------------------------------------

jobs=$(nproc)
build_type=Release
extra=()
if [ -n "$sanitize" ]; then
  build_type=Debug
  debug="-O1 -g1 -D_GLIBCXX_ASSERTIONS"
  case $compiler in *clang*) ;; *) debug+=" -fno-tree-pta" ;; esac  # half the time to compile
  extra=(-DKLA_BUILD_BENCHMARKS=OFF "-DCMAKE_CXX_FLAGS_DEBUG=$debug")
fi
SECONDS=0
stop() {
  printf '\nkla tests: %s failed after %d s; the cause is above\n' "$1" "$SECONDS"
  exit 1
}
cmake -S . -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=$build_type \
  -DCMAKE_CXX_COMPILER="$compiler" -DKLA_MARCH="$march" -DKLA_SANITIZE="$sanitize" \
  -DKLA_TEST_VARIANTS=$variants "${extra[@]}" || stop "configuring"
cmake --build "$build_dir" -j "$jobs" || stop "the build"
built=$SECONDS

log=$build_dir/ctest.log
ctest --test-dir "$build_dir" --no-tests=error --no-label-summary --output-on-failure -j "$jobs" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

# ---- Summary, with ctest's closing line last ------------------------------------------------------

echo
echo "kla tests: $build_type${sanitize:+ with $sanitize}, -march=$march, $("$compiler" --version | head -n 1)"
echo "built in $built s, tested in $((SECONDS - built)) s; log: $log"
grep -E '\*\*\*(Skipped|Not Run)' "$log" | sed -E 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*/skipped: \1/'
grep -E '\*\*\*(Failed|Timeout|Exception)' "$log" | sed -E 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*/failed: \1/'
grep -E '^[0-9]+% tests passed' "$log" || echo "ctest did not finish"
exit "$status"
