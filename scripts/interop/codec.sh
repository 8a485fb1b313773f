#!/usr/bin/env bash
# Our headers as scapy and tshark read them.
#
# usage: codec.sh [COUNT]    of headers: 100000 if GVTEP_E2E_LONG is set, else 10000
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/interop/checks.sh
. scripts/interop/checks.sh
count=${1:-$([ -n "${GVTEP_E2E_LONG:-}" ] && echo 100000 || echo 10000)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
GVTEP_FOREIGN=$count:$work/headers "${GO:-go}" test -count=1 -run '^TestForeign$' ./vtep/geneve >&2
echo "# scapy and tshark"
check "scapy reads and writes random headers with options as gvtep does" "$(scripts/interop/codec.py "$work/headers" || true)" "$count $count $count"
# Options come as lists with commas between them; data is not compared here.
tshark -r "$work/headers.pcap" -T fields -E separator=' ' -E aggregator=, -e geneve.vni -e geneve.proto_type -e geneve.flags.oam -e geneve.flags.critical \
  -e geneve.option.class -e geneve.option.type -e _ws.malformed >"$work/read" 2>"$work/log" || { cat "$work/log"; exit 1; }
awk '
  { class = type = ""
    for (i = 6; i <= NF; i++) { split($i, o, ":"); class = class "," sprintf("0x%04x", o[1]); type = type "," sprintf("0x%02x", o[2]) }
    print sprintf("0x%06x", $2), sprintf("0x%04x", $3), $4 == "true" ? 1 : 0, $5 == "true" ? 1 : 0, substr(class, 2), substr(type, 2), "" }' "$work/headers" >"$work/wanted"
check "tshark decodes packets with such headers: fields" "$(grep -c . "$work/read") $(diff "$work/wanted" "$work/read" | head -n 4)" "$count "
check "tshark decodes packets with such headers: malformed" "$(tshark -r "$work/headers.pcap" -Y _ws.malformed 2>/dev/null | wc -l)" 0
ended
[ "$failed" = 0 ]
