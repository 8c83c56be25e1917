#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is missing, builds everything, runs every test, and sums up. Needs nothing but a
# Debian 12 machine and root or sudo; on other systems, install the packages yourself.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat << 'END'
tests/run.sh                      every test, built for this processor (15 to 20 minutes on two cores)
tests/run.sh --all                then the kernels' suites for plain x86-64 and for AVX2, with clang
                                  and with sanitizers, and CUDA machine code (twice as long)
tests/run.sh --sanitize           only one build, with AddressSanitizer and UBSan
tests/run.sh --march x86-64-v3    only one build, for that -march (native, x86-64, x86-64-v4, ...)
tests/run.sh --compiler clang++   only one build, with that compiler
Further: --build-dir DIR (default build-tests, build-sanitize, ...), --no-install (never call apt), --help
tests/README.md tells how to build and run one test.
END
}

build_dir=
march=native
compiler=${CXX:-g++}
sanitize=
variants=OFF
install=yes
name=  # of the build folder: one for each kind of build, so that none undoes another's work
while [ $# -gt 0 ]; do
  case $1 in
    --all) variants=ON ;;
    --sanitize) sanitize=address,undefined name+=-sanitize ;;
    --march) march=${2:?--march needs a value} name+=-$2; shift ;;
    --compiler) compiler=${2:?--compiler needs a value} name+=-${2##*/}; shift ;;
    --build-dir) build_dir=${2:?--build-dir needs a value}; shift ;;
    --no-install) install=no ;;
    --help | -h) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [ $variants = ON ] && [ -n "$name" ]; then
  echo "--all builds for this processor and for others by itself; give it no other build" >&2
  exit 2
fi
build_dir=${build_dir:-build${name:--tests}}

# ---- What it needs ------------------------------------------------------------------------------

packages=(g++ cmake ninja-build git binutils        # the build, and nm for one test
  libeigen3-dev libhwy-dev                          # the library
  libgtest-dev libbenchmark-dev                     # tests and benchmarks
  libcli11-dev libfmt-dev nlohmann-json3-dev)       # examples
case $compiler in *clang*) packages+=(clang libomp-dev) ;; esac
if [ $variants = ON ]; then
  packages+=(clang libomp-dev clang-format)         # the second compiler, the layout check
fi

. examples/ensure_packages.sh
ensure_packages "$install" "${packages[@]}" || exit 1

# ---- Build and test -----------------------------------------------------------------------------

jobs=$(nproc)
# -O2 where the Simd kernels are tested (tests/CMakeLists.txt), else -O1, which compiles in half the
# time: the benchmarks and examples are built to see that they run, not to be measured.
build_type=Test
extra=("-DCMAKE_CXX_FLAGS_TEST=-O1 -DNDEBUG")
forecast=34  # processor minutes
if [ -n "$sanitize" ]; then
  build_type=Debug
  debug="-O1 -g1 -D_GLIBCXX_ASSERTIONS"
  case $compiler in *clang*) ;; *) debug+=" -fno-tree-pta" ;; esac  # half the time to compile
  extra=(-DKLA_BUILD_BENCHMARKS=OFF "-DCMAKE_CXX_FLAGS_DEBUG=$debug")
  forecast=50
fi
if [ $variants = ON ]; then forecast=70; fi
SECONDS=0
stop() {
  printf '\nkla tests: %s failed after %d s; the cause is above\n' "$1" "$SECONDS"
  exit 1
}
printf 'kla tests: about %d minutes on %d processors; less where %s/ is built already\n' \
  $(((forecast + jobs - 1) / jobs)) "$jobs" "$build_dir"

# Passes on what it reads, but for lines of progress: on a terminal these become one line that is
# rewritten, elsewhere a line every half minute.
progress() {  # progress <what>
  local line count= last=$SECONDS
  local step='^ *\[?([0-9]+/[0-9]+)(\]|.* Passed |.*\*\*\*Skipped)'
  local noise='^(ninja: (Entering|no work)|Internal ctest|Test project| +Start +[0-9]+:)'
  while IFS= read -r line; do
    if [[ $line =~ $step ]]; then
      count=${BASH_REMATCH[1]}
      if [ -t 1 ]; then
        printf '\r\033[K%s %s, %d s' "$1" "$count" "$SECONDS"
      elif [ $((SECONDS - last)) -ge 30 ]; then
        last=$SECONDS
        printf '%s %s, %d s\n' "$1" "$count" "$SECONDS"
      fi
    elif [[ ! $line =~ $noise ]]; then
      if [ -t 1 ] && [ -n "$count" ]; then printf '\r\033[K'; fi
      printf '%s\n' "$line"
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

mkdir -p "$build_dir" || exit 1
cmake -S . -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=$build_type \
  -DCMAKE_CXX_COMPILER="$compiler" -DKLA_MARCH="$march" -DKLA_SANITIZE="$sanitize" \
  -DKLA_TEST_VARIANTS=$variants "${extra[@]}" > "$build_dir/configure.log" 2>&1 || {
  cat "$build_dir/configure.log"
  stop "configuring"
}
NINJA_STATUS='[%f/%t] ' cmake --build "$build_dir" -j "$jobs" 2>&1 | progress "compiling"
if [ "${PIPESTATUS[0]}" -ne 0 ]; then stop "the build"; fi
built=$SECONDS
echo "built in $built s"

# What ctest sums up is said below.
log=$build_dir/ctest.log
ctest --test-dir "$build_dir" --no-tests=error --no-label-summary --output-on-failure -j "$jobs" 2>&1 |
  tee "$log" | progress "testing" |
  sed -u '/tests passed, [0-9]* tests failed/,$d; /^$/d'
status=${PIPESTATUS[0]}

# ---- Summary, with ctest's closing line last ------------------------------------------------------

# Of lines of ctest's log such as
#   12/345 Test  #6: core/view_test/ViewTest.Strides ....   Passed    0.01 sec
# those that match, from the name on.
of_tests() { grep -E "^ *[0-9]+/[0-9]+ Test +#[0-9]+: .*($1)" "$log" | sed -E 's/^.*Test +#[0-9]+: //'; }
top_ten() { sort -rn | head -n 10 | awk '{ printf "%8.1f  %s\n", $1, $2 }'; }

echo
echo "slowest compilations and links, in seconds beside others:"
awk -F'\t' 'NF == 5 { took[$4] = ($2 - $1) / 1000 } END { for (f in took) print took[f], f }' \
  "$build_dir/.ninja_log" | top_ten
echo "slowest tests, in seconds beside others:"
of_tests ' sec *$' | sed -E 's/^([^ ]+) .* ([0-9.]+) sec *$/\2 \1/' | top_ten
skipped=$(of_tests '\*\*\*(Skipped|Not Run)' | sed -E 's/ .*//')
if [ -n "$skipped" ]; then
  echo "skipped: $(wc -l <<< "$skipped"); why: ctest --test-dir $build_dir -V -R <name>"
  sed -E 's|^([^/]+/[^/]+)/.*|\1/...|' <<< "$skipped" | sort | uniq -c
fi
of_tests '\*\*\*(Failed|Timeout|Exception)' | sed -E 's/^([^ ]+) .*/FAILED: \1/'
echo
echo "kla tests: $build_type${sanitize:+ with $sanitize}, -march=$march, $("$compiler" --version | head -n 1)"
echo "built in $built s, tested in $((SECONDS - built)) s; log: $log"
if [ "$status" -ne 0 ]; then
  echo "what next: ctest --test-dir $build_dir --rerun-failed --output-on-failure"
elif [ $variants = OFF ]; then
  echo "what next: examples/run.sh; or tests/run.sh --all for other processors, clang and sanitizers"
else
  echo "what next: examples/run.sh"
fi
grep -E '^[0-9]+% tests passed' "$log" || echo "ctest did not finish"
exit "$status"
