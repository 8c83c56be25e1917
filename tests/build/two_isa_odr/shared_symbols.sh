#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails where two objects define the same function:  shared_symbols.sh <nm> <object> <object>
# Counted are all code symbols that a linker merges or refuses (nm's W, T and i), of kla and of the
# templates of others that it instantiates.
set -euo pipefail
nm=$1

# Shared and harmless: what builds the text of an exception and throws it. Nothing else.
export KLA_TEXT='kla::internal::(ThrowInvalidArgument|ShapeString)[([]|>::ShapeText\['
export STD_TEXT='^std::__cxx11::(basic_string<char|to_string\()|^void std::__detail::__to_chars_10'

functions() { "$nm" --defined-only "$1" | awk '$2 ~ /^[WTi]$/ { print $3 }' | sort -u; }
first=$(functions "$2")
second=$(functions "$3")
echo "functions of kla: $(grep -c 3kla <<< "$first" || true) in the first object," \
  "$(grep -c 3kla <<< "$second" || true) in the second"
if ! grep -q 3kla <<< "$first" || ! grep -q 3kla <<< "$second"; then
  echo "FAILED: an object without any function of kla proves nothing"
  exit 1
fi
comm -12 <(echo "$first") <(echo "$second") | c++filt | awk '
  $0 ~ (/kla::/ ? ENVIRON["KLA_TEXT"] : ENVIRON["STD_TEXT"]) { print "error text: " $0; next }
  { print "shared: " $0; shared = 1 }
  END { if (!shared) print "nothing but error text is shared"; exit shared }'
