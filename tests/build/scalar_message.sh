#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a build says whose Simd kernels have no vectors:  scalar_message.sh <include folder>
# <compiler> <flags>...
# A message, which -Werror does not stop; nothing where KLA_ALLOW_SCALAR or -march is given.
set -uo pipefail
include=$1
shift
failures=0
output() { echo '#include <kla/kla.h>' | "$@" -Werror -Wall -fsyntax-only -x c++ - 2>&1; }
expect() {  # expect <yes or no> <command>...
  local wanted=$1 text given=no
  shift
  text=$(output "$@") || { echo "FAILED: does not compile: $*"; failures=1; }
  if grep -q "KLA_ALLOW_SCALAR" <<< "$text"; then given=yes; fi
  if [ $given != "$wanted" ]; then
    echo "FAILED: message $given, expected $wanted: $*"
    echo "$text"
    failures=1
  fi
}
expect yes "$@" -I"$include" -march=x86-64
expect no "$@" -I"$include" -march=x86-64 -DKLA_ALLOW_SCALAR
expect no "$@" -I"$include" -march=x86-64-v3
# In a system header, as installed packages are, clang shows no message of any kind.
if ! "$1" --version | grep -q clang; then expect yes "$@" -isystem "$include" -march=x86-64; fi
exit $failures
