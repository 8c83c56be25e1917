#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The language-model program as a user meets it:  program_test.sh <program>
set -uo pipefail
program=$1
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

failures=0
check() {  # check <what> <condition as a command>...
  local what=$1
  shift
  if "$@"; then echo "ok: $what"; else echo "FAILED: $what"; failures=$((failures + 1)); fi
}
# Ends with exit status 1 and this message, neither with a crash nor with an empty complaint.
refuses() {
  local message=$1
  shift
  "$@" > refused.log 2>&1
  local status=$?
  [ $status -eq 1 ] && grep -qF -- "$message" refused.log && return 0
  echo "exit status $status:"
  tail -n 5 refused.log
  return 1
}

mkdir text
for i in $(seq 20); do
  for j in $(seq 40); do echo "line $j of file $i: the quick brown fox"; done > text/$i.txt
done
tiny=(--text text --dim 64 --layers 1 --hidden 64 --time 32 --batch 4 --decode-seconds 0.001)

"$program" train "${tiny[@]}" --steps 30 --out first > first.log 2>&1
check "trains" test $? -eq 0
check "names the yardsticks" grep -q "order-2 byte model" first.log
check "compares with xz" grep -q "xz -9, after the training files, .* the network is\|xz is not installed" first.log
check "given steps need no reason" bash -c '! grep -q "minutes allow" first.log'
check "no control characters where the output is a file" bash -c '! grep -q $'"'\\r'"' first.log'
"$program" train "${tiny[@]}" --steps 30 --out second > /dev/null 2>&1
check "a second run ends in the same bits" cmp first/model.safetensors second/model.safetensors
OMP_NUM_THREADS=1 "$program" train "${tiny[@]}" --steps 30 --out third > /dev/null 2>&1
check "so does one on a single thread" cmp first/model.safetensors third/model.safetensors

sample=(--prompt "the " --bytes 50 --raw)
"$program" generate --model first/model.safetensors "${sample[@]}" --sample-seed 3 > a
"$program" generate --model first/model.safetensors "${sample[@]}" --sample-seed 3 > b
"$program" generate --model first/model.safetensors "${sample[@]}" --sample-seed 4 > c
check "50 bytes are sampled" test "$(wc -c < a)" -eq 50
check "the same seed gives the same bytes" cmp a b
check "another seed gives others" bash -c '! cmp -s a c'

"$program" train "${tiny[@]}" --steps 1000000 --out stopped > stopped.log 2>&1 &
pid=$!
sleep 2
kill -INT $pid
wait $pid
check "Ctrl-C ends a run with status 130" test $? -eq 130
check "and says how to go on" grep -q -- "--resume" stopped.log
check "the run file is there" test -s stopped/run.safetensors

head -c 1000 first/model.safetensors > cut.safetensors
echo "not a model" > foreign.safetensors
check "a truncated model" refuses "truncated" "$program" generate --model cut.safetensors
LC_ALL=C sed 's/layers\\":1,/layers\\":9,/' first/model.safetensors > grown.safetensors
check "settings that the weights contradict" refuses "a larger model than the one it holds" \
  "$program" generate --model grown.safetensors
check "a foreign file" refuses "not a safetensors file" "$program" generate --model foreign.safetensors
check "a run file where a model belongs" refuses "expected 'kla-lm-model-1'" \
  "$program" generate --model stopped/run.safetensors
check "no file" refuses "no such file" "$program" generate --model absent
check "another text to resume on" refuses "another text" \
  "$program" train --resume stopped/run.safetensors --text text/1.txt
check "no text" refuses "no such text file or folder" "$program" train --text absent
check "too little text" refuses "too few" "$program" train --text text/1.txt --time 4096
check "an unknown mixer" refuses "no mixer is called" "$program" train "${tiny[@]}" --mixer x
check "a bad width" refuses "multiple of 64" "$program" train --text text --dim 100

echo "$failures failed"
exit $((failures > 0))
