#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# expect.sh <program> <file>: the program must end well and print what the file holds, if it holds anything.
set -euo pipefail
output=$("$1")
echo "$output"
[ ! -s "$2" ] || diff <(echo "$output") "$2"
