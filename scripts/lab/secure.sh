#!/usr/bin/env bash
# GENEVE has no secrecy of its own. Two ways to give it one:
#
#      namespace gvtep-secure-a                   namespace gvtep-secure-b
#    +-----------------------+                  +-----------------------+
#    | gnv0   192.0.2.1/24   |. . . VNI 100 . . | gnv0   192.0.2.2/24   |   MTU by itself: 1370
#    |   gvtep               |                  |   gvtep               |
#    | wg0    10.88.0.1/24   |==== UDP 6081 ====| wg0    10.88.0.2/24   |   MTU 1420, encrypted
#    |   wireguard-go        |                  |   wireguard-go        |
#    | veth0  10.77.0.1/24   |=== UDP 51820 ====| veth0  10.77.0.2/24   |   MTU 1500, a hostile network
#    +-----------------------+                  +-----------------------+
#
# usage: secure.sh wireguard [up | test | down | demo]    demo, if nothing is said, is all three, and down in any case
#        secure.sh ipsec                                  ESP in transport mode instead, in a virtual machine (scripts/interop/guest.sh)
# wireguard-go comes by Go's module proxy and is kept in ${XDG_CACHE_HOME:-~/.cache}/gvtep. BIN=DIR has gvtep, bin/ if
# unset; LAB=NAME instead of secure in the names above makes another such lab beside the first.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PATH=${BIN:-$here/../../bin}:$PATH:/usr/sbin:/sbin
GO_MODULE=golang.zx2c4.com/wireguard@v0.0.0-20250521234502-f333402bd9cb
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gvtep/wireguard-${GO_MODULE##*-}
lab=${LAB:-secure}
A=gvtep-$lab-a B=gvtep-$lab-b state=/run/gvtep-lab-$lab

say() { printf '\n### %s\n' "$*"; }
fail() { printf 'secure.sh: %s\n' "$*" >&2; exit 1; }
p() { printf '$ %s\n' "$*"; "$@"; }
bg() { printf '$ %s &\n' "$*"; "$@" >>"$state/log" 2>&1 & echo $! >>"$state/pids"; }
in_() { p ip netns exec "gvtep-$lab-$1" "${@:2}"; }
quiet() { ip netns exec "gvtep-$lab-$1" "${@:2}"; }
awaits() { timeout "$1" bash -c "until $2; do sleep 0.1; done" >/dev/null 2>&1; }

# clear NAMESPACE: how many packets of GENEVE came over the open network, which must be none.
clear() { quiet "$1" nft list counter netdev secure geneve | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }

# tell SIDE PRIVATE-KEY PEER M: the key of one side, and whom it talks to.
tell() {
  local side=$1 private=$2 peer=$3 m=$4
  quiet "$side" wg set "wg0$side" listen-port 51820 private-key "$state/$private" \
    peer "$(cat "$state/$peer.pub")" endpoint "10.77.0.$m:51820" allowed-ips "10.88.0.$m/32"
}

up() {
  "$here/../tools/need.sh" ip ping nft wg socat iperf3
  [ -x "$cache/wireguard" ] || GOBIN=$cache "${GO:-go}" install "$GO_MODULE"
  [ -e "/run/netns/$A" ] || rm -rf "$state" # what is left of a lab that somebody took down by hand
  mkdir "$state" 2>/dev/null || fail "the lab is up already, take it down first, ${LAB:+LAB=$LAB }$0 wireguard down, or make another with LAB=NAME"
  trap undo EXIT
  (umask 077 && for k in a b other; do wg genkey >"$state/$k" && wg pubkey <"$state/$k" >"$state/$k.pub"; done)
  say "two hosts, an open network between them, and WireGuard over it"
  for x in "$A" "$B"; do p ip netns add "$x"; done
  p ip -n "$A" link add veth0 type veth peer name veth0 netns "$B"
  for x in "a 1 b 2" "b 2 a 1"; do
    read -r side n peer m <<<"$x"
    p ip -n "gvtep-$lab-$side" addr add "10.77.0.$n/24" dev veth0
    p ip -n "gvtep-$lab-$side" link set veth0 up
    # The name tells its control socket, which all namespaces share, from others'.
    bg ip netns exec "gvtep-$lab-$side" "$cache/wireguard" -f "wg0$side"
    awaits 10 "ip -n gvtep-$lab-$side link show wg0$side" || fail "wireguard-go made no device"
    awaits 10 "[ -S /var/run/wireguard/wg0$side.sock ]" || fail "wireguard-go has no control socket"
    tell "$side" "$side" "$peer" "$m"
    p ip -n "gvtep-$lab-$side" addr add "10.88.0.$n/24" dev "wg0$side"
    p ip -n "gvtep-$lab-$side" link set "wg0$side" mtu 1420 up
    # The rules of docs/security.md, and a counter of what they stop.
    quiet "$side" nft -f - <<END
table inet gvtep {
  chain input {
    type filter hook input priority filter
    udp dport 6081 iifname != "wg0$side" counter drop
  }
  chain output {
    type filter hook output priority filter
    udp dport 6081 oifname != "wg0$side" reject with icmpx admin-prohibited
  }
}
table netdev secure {
  counter geneve { }
  chain seen {
    type filter hook ingress device veth0 priority 0
    udp dport 6081 counter name geneve
  }
}
END
  done
  say "GENEVE inside"
  bg ip netns exec "$A" gvtep -i "$lab-a" run gnv0 --id 100 --local 10.88.0.1 --remote 10.88.0.2 --address 192.0.2.1/24
  bg ip netns exec "$B" gvtep -i "$lab-b" run gnv0 --id 100 --local 10.88.0.2 --remote 10.88.0.1 --address 192.0.2.2/24
  for x in a b; do p gvtep -i "$lab-$x" wait gnv0 --for ready --timeout 10s; done
  trap - EXIT
}

check() {
  say "the MTU is right by itself: 1420 less 50"
  mtu=$(quiet a cat /sys/class/net/gnv0/mtu)
  echo "gnv0 has $mtu"
  [ "$mtu" = 1370 ] || fail "the MTU of gnv0 is not 1370"
  in_ a ping -q -c 3 -i 0.2 -W 3 -M "do" -s 1342 192.0.2.2
  say "TCP through it, and without GENEVE through WireGuard alone, which is the speed of the cipher"
  bg ip netns exec "$B" iperf3 -s
  awaits 10 "ip netns exec $B ss -Hltn 'sport = 5201' | grep -q ." || fail "iperf3 does not listen"
  rate() { quiet a iperf3 -c "$1" -t 2 -f m | sed -n 's/.* \([0-9.]* .bits\/sec\).*receiver/\1/p'; }
  printf 'WireGuard alone %s, GENEVE in it %s\n' "$(rate 10.88.0.2)" "$(rate 192.0.2.2)"
  bg ip netns exec "$B" sh -c "timeout 30 socat -u TCP-LISTEN:7000,reuseaddr - | sha256sum >$state/sum"
  sink=$!
  p sh -c "seq 999999 | ip netns exec $A timeout 30 socat -u - TCP:192.0.2.2:7000,retry=50,interval=0.1"
  wait $sink
  [ "$(seq 999999 | sha256sum)" = "$(cat "$state/sum")" ] || fail "what came is not what was sent"
  say "on the open network: nothing of it"
  echo "packets to UDP port 6081 there: $(clear a), $(clear b)"
  [ "$(clear a) $(clear b)" = "0 0" ] || fail "GENEVE in the clear"
  say "a key that the other side does not know: silence, not clear text"
  tell a other b 2
  if quiet a ping -q -c 2 -i 0.3 -W 1 192.0.2.2 >/dev/null; then fail "it goes on without the right key"; fi
  [ "$(clear a) $(clear b)" = "0 0" ] || fail "GENEVE in the clear"
  p gvtep -i "$lab-a" -s show
  say "the right key again"
  tell a a b 2
  awaits 30 "ip netns exec $A ping -q -c 1 -W 1 192.0.2.2" || fail "the tunnel does not come back with its key"
  in_ a ping -q -c 3 -i 0.2 -W 3 192.0.2.2
  say "somebody on the open network who sends to b's inner address in a's name"
  quiet a nft flush chain inet gvtep output # they have no such rules
  refused() { quiet b nft list chain inet gvtep input | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
  before=$(refused)
  echo x | quiet a timeout 5 socat -u - UDP4-SENDTO:10.88.0.2:6081,bind=10.88.0.1,so-bindtodevice=veth0
  awaits 5 "[ \$(ip netns exec $B nft list chain inet gvtep input | sed -n 's/.*packets \([0-9]*\) .*/\1/p') -gt $before ]" || fail "the rules of b did not see it"
  echo "refused by the rules of b: $(refused); seen on the open network: $(clear b)"
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
}
undo() { tail -n 30 "$state/log"; down || true; echo "secure.sh: failed at the last command before '### all of it goes'" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "namespaces need root: make build && sudo $0 $*"
command -v gvtep >/dev/null || fail "gvtep is not there: make build, or set BIN"
case "${1:-} ${2:-demo}" in
"wireguard up") up ;;
"wireguard test") check; printf '\nwireguard: ok\n' ;;
"wireguard down") down ;;
"wireguard demo") up; trap undo EXIT; check; trap - EXIT; down; printf '\nwireguard: ok\n' ;;
"ipsec demo" | "ipsec test")
  "$here/../tools/need.sh" qemu-system-x86_64 mmdebstrap cpio
  exec "$here/../interop/guest.sh" 6.1 ipsec-guest.sh ;;
*) fail "usage: $0 wireguard [up|test|down|demo] | ipsec" ;;
esac
