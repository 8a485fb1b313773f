#!/usr/bin/env bash
# e2e.sh [FLAG...]: the end-to-end tests, with flags for `go test`.
#
# About 400 tests with real processes, devices and kernel timers share the machine.
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

"$go" test -count=1 -timeout 20m "$@" ./internal/e2e 2>&1 | tee "$log" && exit 0

mapfile -t failed < <(sed -n 's/^--- FAIL: \(Test[A-Za-z0-9_]*\).*/\1/p' "$log" | sort -u)
if [ ${#failed[@]} -eq 0 ] || [ ${#failed[@]} -gt $most ] || grep -qE 'DATA RACE|^panic: |^fatal error: ' "$log"; then
  exit 1
fi
echo "e2e.sh: ${#failed[@]} failed among all others: ${failed[*]}; each must pass twice by itself"
for name in "${failed[@]}"; do
  "$go" test -count=2 -failfast -timeout 10m "$@" -run "^$name\$" ./internal/e2e || exit 1
done
echo "e2e.sh: passed by themselves: ${failed[*]}"
