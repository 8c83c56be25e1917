#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The quality benchmark as a user meets it:  program_test.sh <program>
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
# reaches <csv> <task> <length> <accuracy>: every row of KLA's test at that length does.
reaches() {
  awk -F, -v task="$2" -v length_="$3" -v wanted="$4" '
    $2 == task && $3 == "kla" && $17 == "test" && $19 == length_ { n++; if ($21 + 0 < wanted) bad = 1 }
    END { exit !(n > 0 && !bad) }' "$1"
}
rows() { grep -c "$1" "$2"; }
without_speed() { cut -d, -f15 --complement "$1"; }

"$program" run --preset smoke --task mqar,sniah --mixer kla --seed 1 --out learnt.csv > learnt.log
check "runs two tasks" test $? -eq 0
check "KLA learns to recall eight pairs" reaches learnt.csv mqar 32 0.95
check "KLA finds the needle" reaches learnt.csv sniah 32 1
grep accuracy learnt.log

quick=(run --preset smoke --seed 1 --steps 30)
"$program" "${quick[@]}" --task all --mixer all --out all.csv > all.log
check "every task runs with every mixer" test $? -eq 0
check "and every run is tested" test "$(grep test all.csv | cut -d, -f2,3 | sort -u | wc -l)" -eq 35
check "learning curves have twelve points" test "$(rows ',stack,gdn,.*,curve,' all.csv)" -eq 12
cp all.csv before.csv
"$program" "${quick[@]}" --task mqar,text --mixer all --out all.csv > again.log
check "nothing is run again" cmp all.csv before.csv
check "and it says so" test "$(rows already again.log)" -eq 14

long=(run --preset smoke --task mqar --mixer gdn --seed 5 --steps 2500)
"$program" "${long[@]}" --out straight.csv > /dev/null
"$program" "${long[@]}" --out halted.csv > halted.log &
pid=$!
sleep 2
kill -INT $pid
wait $pid
check "Ctrl-C ends a run with status 130" test $? -eq 130
check "which leaves no rows" test ! -e halted.csv
check "but a checkpoint" test -s halted.csv.smoke-mqar-gdn-5.safetensors
"$program" "${long[@]}" --lr 0.5 --out halted.csv > other.log 2>&1
check "that another run does not take" grep -q "belongs to another run" other.log
"$program" "${long[@]}" --out halted.csv > resumed.log
check "the same command goes on" grep -q "going on from step" resumed.log
check "and ends in the same rows" cmp <(without_speed straight.csv) <(without_speed halted.csv)
check "the checkpoint is gone" test ! -e halted.csv.smoke-mqar-gdn-5.safetensors

echo "something else" > foreign.csv
"$program" "${quick[@]}" --out foreign.csv > foreign.log 2>&1
check "a foreign file is left alone" grep -q "not a file of results" foreign.log
"$program" "${quick[@]}" --mixer mamba > unknown.log 2>&1
check "an unknown mixer is refused" test $? -ne 0
"$program" "${quick[@]}" --task text --text absent > absent.log 2>&1
check "so is a text that is not there" grep -q "no such text file or folder" absent.log
check "the published sizes can be looked at" bash -c "'$program' show --preset paper | grep -q 8192"

echo "$failures failed"
exit $((failures > 0))
