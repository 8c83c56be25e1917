#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails where two objects define the same function of kla:  shared_symbols.sh <nm> <object> <object>
# Counted are the code symbols that a linker merges or refuses (nm's W, T and i), of any template or
# namespace, whose name mentions kla.
set -euo pipefail
nm=$1
functions() {
  "$nm" --defined-only "$1" | awk '$2 ~ /^[WTi]$/ && $3 ~ /3kla/ { print $3 }' | sort -u
}
first=$(functions "$2")
second=$(functions "$3")
shared=$(comm -12 <(echo "$first") <(echo "$second") | sed '/^$/d')
echo "functions of kla: $(grep -c . <<< "$first") in the first object," \
  "$(grep -c . <<< "$second") in the second"
if ! grep -q . <<< "$first" || ! grep -q . <<< "$second"; then
  echo "FAILED: an object without any function of kla proves nothing"
  exit 1
fi
if [ -n "$shared" ]; then
  c++filt <<< "$shared" | sed 's/^/shared: /'
  exit 1
fi
echo "none is shared"
