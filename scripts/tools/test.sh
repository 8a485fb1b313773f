#!/usr/bin/env bash
# test.sh [FLAG...] -- PACKAGE...: `go test` with these flags.
#
# Hundreds of tests with real processes, devices and kernel timers share the machine.
# Beside them a test can miss its time without a fault of the program. So up to
# three that failed are run again by themselves, and must pass twice. They are named
# either way: what fails now and then is a fault of the test or of the program, and
# somebody has to find it. A data race or a panic is never a matter of time.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
most=3
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go=${GO:-go}
flags=()
while [ "$1" != -- ]; do
  flags+=("$1")
  shift
done
shift

"$go" test -count=1 "${flags[@]}" "$@" 2>&1 | tee "$log" && exit 0

# Lines "PACKAGE PATTERN" for -run: of a test with parts the parts that failed. The name of
# the package comes after its tests.
again=$(awk '
  function quote(s) { gsub(/[][.*+?(){}|\\^$]/, "\\\\&", s); return "^" s "$" }
  $1 == "---" && $2 == "FAIL:" { split($3, n, "/")
    if (/^---/) { test[++tests] = quote(n[1]); next }
    if (/^    ---/ && n[2] != "") {
      if (test[tests] == quote(n[1])) tests--
      test[++tests] = quote(n[1]) "/" quote(n[2])
    } }
  $1 == "FAIL" && NF >= 3 { if (!tests) print $2, "-"; for (i = 1; i <= tests; i++) print $2, test[i]; tests = 0 }
' "$log" | sort -u)
if [ -z "$again" ] || [ "$(wc -l <<<"$again")" -gt $most ] || grep -q ' -$' <<<"$again" ||
  grep -qE 'DATA RACE|^panic: |^fatal error: |\[(build|setup) failed\]' "$log"; then
  exit 1
fi
printf 'test.sh: these failed among all others; each must pass twice by itself:\n%s\n' "$again"
while read -r package pattern; do
  "$go" test -count=2 -failfast "${flags[@]}" -run "$pattern" "$package" </dev/null || exit 1
done <<<"$again"
printf 'test.sh: they passed by themselves:\n%s\n' "$again"
