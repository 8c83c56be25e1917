#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A user's mistake must not compile, and the compiler must say what the library has to say:
#   compile_fail.sh <source> <compiler> <flags>...
# The source holds the mistake under #ifndef KLA_CORRECTED and its cure under #else, and lines
#   // EXPECT: <text that the compiler's output must contain>
# The corrected version must compile: so it is the mistake that fails, nothing else.
set -uo pipefail
source=$1
shift
export LC_ALL=C

if ! output=$("$@" -DKLA_CORRECTED -fsyntax-only "$source" 2>&1); then
  printf '%s\n\nFAILED: the corrected version does not compile\n' "$output"
  exit 1
fi
# "// MISTAKE: <flags>" is the mistake where it lies in the command line, not in the source;
# -nostdinc takes the folders of other libraries (-idirafter) away with those of the system.
read -ra mistake <<< "$(sed -n 's|^// MISTAKE: ||p' "$source")"
command=("$@" ${mistake[@]+"${mistake[@]}"})
if [[ " ${mistake[*]-} " == *" -nostdinc "* ]]; then
  command=("$1" "${mistake[@]}")
  for argument in "${@:2}"; do
    case $argument in -I*|-std=*) command+=("$argument") ;; esac
  done
fi
if output=$("${command[@]}" -fsyntax-only "$source" 2>&1); then
  echo "FAILED: the mistake compiles"
  exit 1
fi
expected=0
while IFS= read -r text; do
  expected=$((expected + 1))
  if ! grep -qF -- "$text" <<< "$output"; then
    printf '%s\n\nFAILED: the output above does not contain: %s\n' "$output" "$text"
    exit 1
  fi
  echo "found: $text"
done < <(sed -n 's|^// EXPECT: ||p' "$source")
if [ "$expected" -eq 0 ]; then
  echo "FAILED: $source has no EXPECT line"
  exit 1
fi
