#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what is missing, builds the language model of examples/lm, trains it on real text, and
# ends with what it measured. Needs nothing but a Debian 12 machine and root or sudo; on other
# systems, install the packages yourself.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
  cat << 'END'
examples/run.sh                       train for a little over two minutes on the source of Eigen
examples/run.sh --text DIR            on a text file or folder of your own
examples/run.sh --minutes 30 --dim 256 --layers 4    longer and larger
examples/run.sh --steps 50            only to see it run
examples/run.sh --resume FILE         go on with an interrupted run
Options of this script: --build-dir DIR (default build), --no-install (never call apt), --help.
Every other option goes to the program; build/examples/05_language_model train --help lists them.
END
}

build_dir=build
install=yes
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --build-dir) build_dir=${2:?--build-dir needs a value}; shift ;;
    --no-install) install=no ;;
    --help | -h) usage; exit 0 ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

# ---- What it needs ------------------------------------------------------------------------------

packages=(g++ cmake make                            # the build
  libeigen3-dev libhwy-dev                          # the library
  libcli11-dev libfmt-dev nlohmann-json3-dev        # the example
  xz-utils)                                         # a yardstick

. examples/ensure_packages.sh
ensure_packages "$install" "${packages[@]}" || exit 1

# ---- Build and run ------------------------------------------------------------------------------

stop() {
  printf '\nkla example: %s failed; the cause is above\n' "$1"
  exit 1
}
# A build folder that tests/run.sh has made keeps its generator and its tests.
options=(-DCMAKE_BUILD_TYPE=Release -DKLA_SANITIZE= -DKLA_BUILD_EXAMPLES=ON)
if [ ! -f "$build_dir/CMakeCache.txt" ]; then
  options+=(-DKLA_BUILD_TESTS=OFF -DKLA_BUILD_BENCHMARKS=OFF)
fi
cmake -S . -B "$build_dir" "${options[@]}" || stop "configuring"
cmake --build "$build_dir" -j "$(nproc)" --target example_language_model || stop "the build"
echo
exec "$build_dir/examples/05_language_model" train --out "$build_dir/language_model" \
  "${arguments[@]}"
