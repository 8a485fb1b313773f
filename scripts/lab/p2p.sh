#!/usr/bin/env bash
# Point to point: two hosts, one gvtep each.
#
#      namespace gvtep-p2p-a                      namespace gvtep-p2p-b
#    +-----------------------+                  +-----------------------+
#    | gnv0   192.0.2.1/24   |. . . VNI 100 . . | gnv0   192.0.2.2/24   |
#    |   gvtep -i p2p-a      |                  |   gvtep -i p2p-b      |
#    | veth0  10.77.0.1/24   |==== UDP 6081 ====| veth0  10.77.0.2/24   |
#    |        fd77::1/64     |                  |        fd77::2/64     |
#    +-----------------------+                  +-----------------------+
#
# usage: p2p.sh [-n] up | test | down | demo
#   -n     prints this first          demo   up, test and down, and down in any case
# UNDERLAY=6 tunnels over IPv6 instead of IPv4; BIN=DIR has the program, bin/ if unset; LAB=NAME instead of p2p
# in the names above makes another such lab beside the first.
set -euo pipefail
PATH=${BIN:-$(dirname "$0")/../../bin}:$PATH
lab=${LAB:-p2p}
A=gvtep-$lab-a B=gvtep-$lab-b state=/run/gvtep-lab-$lab
near=10.77.0.1 far=10.77.0.2 mtu=1450
[ "${UNDERLAY:-4}" = 4 ] || near=fd77::1 far=fd77::2 mtu=1430

say() { printf '\n### %s\n' "$*"; }
fail() { printf 'p2p.sh: %s\n' "$*" >&2; exit 1; }
p() { printf '$ %s\n' "$*"; "$@"; } # a command, shown as at a prompt
bg() { printf '$ %s &\n' "$*"; "$@" >>"$state/log" 2>&1 & echo $! >>"$state/pids"; }
in_a() { p ip netns exec "$A" "$@"; }
in_b() { p ip netns exec "$B" "$@"; }
listening() { timeout 5 bash -c "until ip netns exec $B ss -Hltn 'sport = $1' | grep -q .; do sleep 0.05; done"; }

up() {
  say "two hosts and a wire"
  [ -e "/run/netns/$A" ] || rm -rf "$state" # what is left of a lab that somebody took down by hand
  mkdir "$state" 2>/dev/null || fail "the lab is up already, take it down first, ${LAB:+LAB=$LAB }$0 down, or make another with LAB=NAME"
  touch "$state/pids" "$state/log"
  trap undo EXIT
  p ip netns add "$A"
  p ip netns add "$B"
  p ip -n "$A" link add veth0 type veth peer name veth0 netns "$B"
  for x in "$A 1" "$B 2"; do
    p ip -n "${x% *}" addr add "10.77.0.${x#* }/24" dev veth0
    p ip -n "${x% *}" addr add "fd77::${x#* }/64" dev veth0 nodad
    p ip -n "${x% *}" link set veth0 up
  done
  say "a tunnel between them, over IPv${UNDERLAY:-4}"
  bg ip netns exec "$A" gvtep -i "$lab-a" run gnv0 --id 100 --local $near --remote $far --address 192.0.2.1/24
  bg ip netns exec "$B" gvtep -i "$lab-b" run gnv0 --id 100 --local $far --remote $near --address 192.0.2.2/24
  p gvtep -i "$lab-a" wait gnv0 --for ready --timeout 5s
  p gvtep -i "$lab-b" wait gnv0 --for ready --timeout 5s
  trap - EXIT
}

check() {
  say "ping, both ways"
  in_a ping -c 3 -i 0.2 -W 2 192.0.2.2
  in_b ping -c 3 -i 0.2 -W 2 192.0.2.1
  say "on the wire, as tshark reads it"
  bg ip netns exec "$A" ping -q -i 0.2 -w 10 192.0.2.2
  pinger=$!
  in_b tshark -Q -i veth0 -f "udp port 6081" -a duration:1 -w "$state/wire.pcap" 2>>"$state/log"
  kill $pinger
  p tshark -r "$state/wire.pcap" -O geneve -Y icmp 2>>"$state/log" | sed -n '1,/^$/p'
  seen=$(tshark -r "$state/wire.pcap" -T fields -E separator=, -e udp.dstport -e geneve.vni -e geneve.proto_type \
    -e _ws.malformed 2>>"$state/log" | sort | uniq -c | xargs)
  echo "packets, UDP port, VNI, type, faults: $seen"
  [[ $seen =~ ^[0-9]+\ 6081,0x000064,0x6558,$ ]] || fail "that is not GENEVE of VNI 100 with Ethernet in it"
  say "a TCP transfer, its checksum and its speed"
  bg ip netns exec "$B" sh -c "timeout 20 socat -u TCP-LISTEN:7000 - | sha256sum >$state/sum"
  sink=$!
  listening 7000
  p sh -c "seq 4999999 | ip netns exec $A socat -u - TCP:192.0.2.2:7000"
  wait $sink
  sent=$(seq 4999999 | sha256sum) got=$(cat "$state/sum")
  printf '%s  sent\n%s  received\n' "${sent%% *}" "${got%% *}"
  [ "$sent" = "$got" ] || fail "what came is not what was sent"
  bg ip netns exec "$B" iperf3 -s
  listening 5201
  in_a iperf3 -c 192.0.2.2 -t 1 -f g
  in_a iperf3 -c 192.0.2.2 -t 1 -f g -R
  say "what the endpoints know"
  p gvtep -i "$lab-a" -s show
  p gvtep -i "$lab-a" fdb show dev gnv0
  mac=$(ip netns exec "$B" cat /sys/class/net/gnv0/address)
  gvtep -i "$lab-a" fdb show dev gnv0 | grep -q "^$mac dst $far" || fail "a has not learned that $mac is at $far"
  [ "$(ip netns exec "$A" cat /sys/class/net/gnv0/mtu)" = $mtu ] || fail "the MTU of gnv0 is not $mtu"
}

down() {
  say "all of it goes"
  [ -d "$state" ] || { echo "there is no lab"; return; }
  while read -r pid; do # ours alone, and only if the number is still theirs
    case $(ip netns identify "$pid" 2>/dev/null) in "$A" | "$B") ;; *) continue ;; esac
    p kill "$pid" || continue
    timeout 5 tail --pid="$pid" -f /dev/null || p kill -9 "$pid"
  done <"$state/pids"
  for ns in $A $B; do [ ! -e "/run/netns/$ns" ] || p ip netns del "$ns"; done
  rm -r "$state"
  [ -z "$(compgen -G "/run/gvtep/$lab-[ab]/control.sock")" ] || fail "gvtep left its control socket behind"
}
undo() { tail -n 30 "$state/log"; down || true; echo "p2p.sh: failed at the last command before '### all of it goes'" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "namespaces need root: make build && sudo $0 $*"
command -v gvtep >/dev/null || fail "gvtep is not there: make build, or set BIN"
[ "${1:-}" != -n ] || { sed -n '2,10s/^#//p' "$0"; shift; }
case ${1:-} in
up) up ;;
test) check; printf '\np2p over IPv%s: ok\n' "${UNDERLAY:-4}" ;;
down) down ;;
demo) up; trap undo EXIT; check; trap - EXIT; down; printf '\np2p over IPv%s: ok\n' "${UNDERLAY:-4}" ;;
*) fail "usage: $0 [-n] up|test|down|demo" ;;
esac
