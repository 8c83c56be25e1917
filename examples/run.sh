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
examples/run.sh                       five minutes in all: compile, train on the source of Eigen, compare
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

# ---- Forecast -----------------------------------------------------------------------------------

minutes=2.25 steps= out=$build_dir/language_model
for ((i = 0; i < ${#arguments[@]}; ++i)); do
  argument=${arguments[i]} value=${arguments[i + 1]:-}
  if [[ $argument == --*=* ]]; then value=${argument#*=}; fi
  case ${argument%%=*} in
    --minutes) minutes=$value ;;
    --steps) steps=$value ;;
    --resume) steps=remaining ;;
    --out) out=$value ;;
  esac
done
training="$minutes minutes of training"
if [ "${steps:-0}" != 0 ]; then training="the $steps steps of training"; fi
seconds_to_compile=90
compiling="1 to 2 minutes to compile, "
if [ -x "$build_dir/examples/05_language_model" ]; then compiling=""; fi
echo "kla example: ${compiling}$training, then about 1 minute to compare"

# ---- Build and run ------------------------------------------------------------------------------

stop() {
  printf '\nkla example: %s failed; the cause is above\n' "$1"
  exit 1
}
# quietly <what> <seconds, about> <command>...: one line that counts the seconds, on a terminal in
# place; what the command prints is shown only where it fails.
quietly() {
  local what=$1 about=$2 log pid status=0 start=$SECONDS
  shift 2
  mkdir -p "$build_dir" || stop "making $build_dir"
  log=$build_dir/example.log
  "$@" > "$log" 2>&1 &
  pid=$!
  trap 'kill "$pid" 2> /dev/null; exit 130' INT TERM
  while kill -0 "$pid" 2> /dev/null; do
    if [ -t 1 ]; then
      printf '\r%s: %d s of about %d s' "$what" $((SECONDS - start)) "$about"
    elif [ $(((SECONDS - start) % 15)) -eq 0 ]; then
      printf '%s: %d s of about %d s\n' "$what" $((SECONDS - start)) "$about"
    fi
    sleep 1
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if [ -t 1 ]; then printf '\r\033[2K'; fi
  if [ $status -ne 0 ]; then
    cat "$log"
    stop "$what"
  fi
  printf '%s: done in %d s\n' "$what" $((SECONDS - start))
}
# A build folder that tests/run.sh has made keeps its generator and its tests.
options=(-DCMAKE_BUILD_TYPE=Release -DKLA_SANITIZE= -DKLA_BUILD_EXAMPLES=ON)
if [ ! -f "$build_dir/CMakeCache.txt" ]; then
  options+=(-DKLA_BUILD_TESTS=OFF -DKLA_BUILD_BENCHMARKS=OFF)
fi
quietly "configuring" 5 cmake -S . -B "$build_dir" "${options[@]}"
quietly "compiling" $seconds_to_compile \
  cmake --build "$build_dir" -j "$(nproc)" --target example_language_model
echo
program=$build_dir/examples/05_language_model
"$program" train --out "$out" "${arguments[@]}"
status=$?
if [ $status -ne 0 ]; then exit $status; fi

cat << END

What next
  more text from this model, from a beginning of your own:
    $program generate --model $out/model.safetensors --prompt "/** \\returns the "
  the same on text of your own, or for longer:
    examples/run.sh --text DIR
    examples/run.sh --minutes 30 --dim 256 --layers 4
  the layer in your own program: README.md, and examples/01_one_step.cc onwards
END
