#!/bin/sh
# Runs every fuzzer, or those whose name matches FUZZ, for FUZZTIME each (1m).
# What fails is left by go under testdata/fuzz of its package, as a case that
# every later go test runs.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-1m} only=${FUZZ:-.} failed= run=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for found in $(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' internal | sed 's/:func /:/'); do
	name=${found#*:} dir=$(dirname "${found%%:*}")
	echo "$dir $name" | grep -q -- "$only" || continue
	run=$((run + 1))
	echo "fuzz: $dir $name for $time"
	# Its progress is only shown where it failed: it is long.
	${GO:-go} test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -timeout 30m "./$dir" >"$log" 2>&1 || { failed="$failed $dir.$name"; grep -v '^fuzz: elapsed' "$log" >&2 || :; }
done
[ "$run" -gt 0 ] || { echo "no fuzzer matches $only" >&2; exit 1; }
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
