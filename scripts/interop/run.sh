#!/usr/bin/env bash
# gvtep against ends that others wrote. What was shown is written to docs/interop.md.
#
# usage: run.sh [PART...]    as root; without PART: those of seconds, and with GVTEP_E2E_LONG=1 all
#   ovs          Open vSwitch in user space                                    1 minute
#   evpn         gvtep-evpn with FRR, gobgpd, and the kernel behind FRR         2 minutes
#   codec        scapy and tshark read our headers                             1 minute
#   kernel-6.1   the kernel's device, in a virtual machine                     2 minutes, and 5 to make the image once
#   kernel-6.12  the same of a newer kernel                                    2 minutes
#   selftests    the kernel's own test of path MTUs, with our device           2 minutes
#   ipsec        ESP underneath, in a virtual machine                          1 minute
set -euo pipefail
cd "$(dirname "$0")/../.."
machine="qemu-system-x86_64 mmdebstrap cpio"
declare -A tools=(
  [ovs]="ip ping tc socat ethtool ovs-vswitchd" [codec]="tshark scapy3"
  [evpn]="ip ping bridge ethtool socat vtysh gobgpd"
  [kernel-6.1]=$machine [kernel-6.12]=$machine [selftests]=$machine [ipsec]=$machine
)
parts=("$@")
[ $# -gt 0 ] || parts=(ovs codec evpn)
[ $# -gt 0 ] || [ -z "${GVTEP_E2E_LONG:-}" ] || parts+=(kernel-6.1 kernel-6.12 selftests ipsec)
doc=docs/interop.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

part() {
  case $1 in
  ovs | codec | evpn | selftests) "scripts/interop/$1.sh" ;;
  kernel-*) scripts/interop/guest.sh "${1#kernel-}" kernel-guest.sh ;;
  ipsec) scripts/interop/guest.sh 6.1 ipsec-guest.sh ;;
  *) echo "run.sh: there is no part $1" >&2; return 1 ;;
  esac
}

# rows: the results of a part as tables. No figures: they would be others with each run.
rows() {
  tr -d '\r' | awk '
    /^# / { printf "\n**%s**\n\n| shown | |\n| --- | --- |\n", substr($0, 3) }
    /^ok / { sub(/^ok /, ""); sub(/: .*/, ""); printf "| %s | ok |\n", $0 }'
}

# section PART: put what it showed between the marks of that part.
section() {
  awk -v part="$1" -v rows="$work/rows" '
    $0 == "<!-- /" part " -->" { skip = 0 }
    !skip { print }
    $0 == "<!-- " part " -->" { skip = found = 1; while ((getline line < rows) > 0) print line; print "" }
    END { exit !found }' "$doc" >"$work/doc" || { echo "run.sh: no place for $1 in $doc" >&2; return 1; }
  cp "$work/doc" "$doc"
}

for p in "${parts[@]}"; do
  printf '\n### %s (after %d s)\n' "$p" "$SECONDS"
  # shellcheck disable=SC2086 # words they are
  scripts/tools/need.sh ${tools[$p]:-}
  part "$p" | tee "$work/out"
  grep -q '^end: [1-9][0-9]* checks, 0 failed' "$work/out"
  rows <"$work/out" >"$work/rows"
  section "$p"
done
printf '\ninterop: ok, %d s\n' "$SECONDS"
