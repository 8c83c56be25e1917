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

missing=()
if command -v dpkg-query > /dev/null; then
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed ||
      missing+=("$package")
  done
fi
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  command="${as_root[*]} apt-get update && ${as_root[*]} apt-get install -y --no-install-recommends ${missing[*]}"
  echo "missing packages: ${missing[*]}"
  if [ "$install" = yes ] && { [ "$(id -u)" -eq 0 ] || command -v sudo > /dev/null; } &&
    command -v apt-get > /dev/null; then
    echo "installing: $command"
    export DEBIAN_FRONTEND=noninteractive
    if ! { "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; }; then
      printf '\nCould not install. Ask an administrator to run\n  %s\nand start again, ' "$command"
      printf 'or go on without with --no-install.\n'
      exit 1
    fi
  elif [ "$install" = yes ]; then
    printf '\nNot root and no sudo here. Ask an administrator to run\n  %s\n' "${command//sudo /}"
    printf 'and start again, or go on without with --no-install.\n'
    exit 1
  else
    echo "going on without them, as asked; CMake will say what it cannot do without"
  fi
elif ! command -v dpkg-query > /dev/null; then
  echo "not a Debian system; this needs what Debian calls: ${packages[*]}"
fi

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
