#!/usr/bin/env bash
# Istio ambient's node set-up (cni/pkg/ambient of its first releases) with gvtep
# for the kernel's devices and nft for iptables: two tunnels to one peer.
#
#   pod 10.244.0.10 --+                                      +-- out 198.51.100.9
#                     +--- node 10.77.0.1 -------------------+
#         istioin  192.168.126.1/30 . . VNI 1000 . . pistioin  192.168.126.2/30  -> 15006, 15008
#         istioout 192.168.127.1/30 . . VNI 1001 . . pistioout 192.168.127.2/30  -> 15001
#                     +--- zt 10.77.0.2 (the proxy, which sees original destinations)
#
# usage: istio.sh up | test | down | demo    demo is all three, and down in any case
#        istio.sh node | ztunnel             the set-up alone, in this namespace, any number of times
# MODE=l3 has IP inside instead of Ethernet, PORT=6081, BIN=DIR has the program, bin/ if unset; LAB=NAME instead
# of istio in the names of namespaces (gvtep-istio-node) and instances makes another such lab beside the first.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) me=$(realpath "$0")
PATH=$PATH:/usr/sbin:/sbin
PATH=${BIN:-$here/../../bin}:$PATH
lab=${LAB:-istio}
state=/run/gvtep-lab-$lab mode=${MODE:-l2} port=${PORT:-6081}
in_() { ip netns exec "gvtep-$lab-$1" "${@:2}"; }
bg() { ip netns exec "gvtep-$lab-$1" "${@:2}" >>"$state/log" 2>&1 & echo $! >>"$state/pids"; }
fail() { printf 'istio.sh: %s\n' "$*" >&2; exit 1; }
rules() { # PRIORITY WORDS..., in place of those of that priority
  while ip rule del priority "$1" 2>/dev/null; do :; done
  ip rule add priority "$@"
}

node() {
  for x in "istioin 1000 126" "istioout 1001 127"; do
    read -r dev vni net <<<"$x"
    ip link del "$dev" 2>/dev/null || true # as Istio does, whoever made it
    gvtep tunnel del "$dev" 2>/dev/null || true
    gvtep tunnel add "$dev" type geneve id "$vni" mode "$mode" local 10.77.0.1 remote 10.77.0.2 dstport "$port" address "192.168.$net.1/30"
    echo 0 >"/proc/sys/net/ipv4/conf/$dev/rp_filter"
    echo 1 >"/proc/sys/net/ipv4/conf/$dev/accept_local"
  done
  nft -f - <<END
table ip ztunnel
delete table ip ztunnel
table ip ztunnel {
  set pods { type ipv4_addr; elements = { 10.244.0.10 } }
  counter outer {}
  counter marked {}
  chain prerouting {
    type filter hook prerouting priority mangle;
    iifname "istio*" meta mark != 0 counter name marked # none: a mark of outer packets stays outside
    iifname "istio*" meta mark set meta mark or 0x200 return
    udp dport $port meta mark set 0x5 counter name outer return
    ct mark and 0x220 == 0x220 meta mark set meta mark or 0x220
    meta mark and 0x200 == 0x200 return
    iifname != "veth0" ct mark and 0x210 == 0x210 meta mark set meta mark or 0x40
    meta mark and 0x40 == 0x40 return
    iifname "veth0" ip saddr != 10.77.0.2 meta mark set meta mark or 0x210
    meta mark and 0x200 == 0x200 return
    iifname "veth0" meta mark set meta mark or 0x220
    meta l4proto udp meta mark set meta mark or 0x220
    meta mark and 0x200 == 0x200 return
    meta l4proto tcp ip saddr @pods meta mark set meta mark or 0x100
  }
  chain save {
    meta mark and 0x220 == 0x220 ct mark set ct mark or 0x220
    meta mark and 0x210 == 0x210 ct mark set ct mark or 0x210
  }
  chain forward { type filter hook forward priority mangle; jump save; }
  chain input { type filter hook input priority mangle; jump save; }
  chain output { type route hook output priority mangle; ip saddr 10.77.0.1 meta mark set meta mark or 0x220; }
}
END
  rules 100 fwmark 0x200/0x200 goto 32766
  rules 101 fwmark 0x100/0x100 lookup 101
  rules 102 fwmark 0x40/0x40 lookup 102
  rules 103 lookup 100
  for n in 100 101 102; do ip route replace 10.77.0.2 dev veth0 scope link table $n; done
  ip route replace 10.244.0.10 via 192.168.126.2 dev istioin src 10.77.0.1 table 100
  ip route replace default via 192.168.127.2 dev istioout table 101
  ip route replace default via 10.77.0.2 dev veth0 onlink table 102
}

ztunnel() {
  nft -f - <<END
define other = 0xfffff000
table ip ztunnel
delete table ip ztunnel
table ip ztunnel {
  chain prerouting {
    type filter hook prerouting priority mangle;
    iifname "pistioin" tcp dport 15008 meta mark set meta mark and \$other or 0x400 tproxy to 127.0.0.1:15008 accept
    iifname "pistioin" meta l4proto tcp meta mark set meta mark and \$other or 0x400 tproxy to 127.0.0.1:15006 accept
    iifname "pistioout" meta l4proto tcp meta mark set meta mark and \$other or 0x400 tproxy to 127.0.0.1:15001 accept
    iifname "veth0" ip daddr != 10.77.0.2 meta l4proto tcp meta mark set meta mark and \$other or 0x4d3
  }
}
END
  rules 20000 fwmark 0x400/0xfff lookup 100
  rules 20001 fwmark 0x401/0xfff lookup 101
  rules 20002 fwmark 0x402/0xfff lookup 102
  rules 20003 fwmark 0x4d3/0xfff lookup 100
  ip route replace local default dev lo table 100
  ip route replace default via 192.168.127.1 dev pistioout table 101
  ip route replace default via 192.168.126.1 dev pistioin table 102
}

up() {
  "$here/../tools/need.sh" ip nft socat curl
  [ -e "/run/netns/gvtep-$lab-node" ] || rm -rf "$state" # what is left of a lab that somebody took down by hand
  mkdir "$state" 2>/dev/null || fail "the lab is up already, take it down first, ${LAB:+LAB=$LAB }$0 down, or make another with LAB=NAME"
  trap undo EXIT
  for ns in node zt pod out; do ip netns add "gvtep-$lab-$ns"; done
  for x in "zt veth0 10.77.0.2/24 10.77.0.1" "pod veth-pod 10.244.0.10/24 10.244.0.1" "out veth-out 198.51.100.9/24 198.51.100.1"; do
    read -r ns dev prefix gw <<<"$x"
    in_ node ip link add "$dev" type veth peer name veth0 netns "gvtep-$lab-$ns"
    in_ node ip addr add "$gw/24" dev "$dev"
    in_ node ip link set "$dev" up
    in_ "$ns" sh -ec "ip link set lo up; ip addr add $prefix dev veth0; ip link set veth0 up; ip route add default via $gw"
  done
  in_ node sh -ec 'ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward'
  for ns in node zt; do in_ $ns sh -ec 'cd /proc/sys/net/ipv4/conf; echo 0 >all/rp_filter; echo 0 >default/rp_filter'; done
  for x in "node 10.77.0.1 10.77.0.2 1 ''" "zt 10.77.0.2 10.77.0.1 2 p"; do
    read -r ns local remote n p <<<"$x"
    printf '[socket]\nport = %d\n[defaults]\nmode = "%s"\nlocal = "%s"\nremote = "%s"\n' "$port" "$mode" "$local" "$remote" >"$state/$ns.toml"
    for t in "in 1000 126" "out 1001 127"; do
      read -r way vni net <<<"$t"
      printf '[[tunnel]]\nname = "%s"\nid = %d\naddress = "192.168.%d.%d/30"\n' "${p#\'\'}istio$way" "$vni" "$net" "$n" >>"$state/$ns.toml"
    done
    bg "$ns" gvtep -i "$lab-$ns" run --config "$state/$ns.toml"
    gvtep -i "$lab-$ns" wait --for ready --timeout 5s
  done
  GVTEP_INSTANCE=$lab-node in_ node "$me" node
  in_ zt "$me" ztunnel
  for at in 15001 15006 15008; do # each says under what address it was reached
    bg zt socat "TCP-LISTEN:$at,bind=127.0.0.1,ip-transparent,fork,reuseaddr" "EXEC:$me answer $at"
    timeout 5 bash -c "until ip netns exec gvtep-$lab-zt ss -Hltn 'sport = $at' | grep -q .; do sleep 0.05; done"
  done
  trap - EXIT
}

answer() { # as a web server behind socat
  while IFS= read -r line && [ "$line" != $'\r' ]; do :; done
  printf 'HTTP/1.0 200 OK\r\n\r\n%s as %s:%s\n' "$1" "$SOCAT_SOCKADDR" "$SOCAT_SOCKPORT"
}

check() {
  for x in "pod 198.51.100.9:80 15001" "pod 203.0.113.7:8080 15001" "out 10.244.0.10:80 15006" "out 10.244.0.10:15008 15008"; do
    read -r ns to at <<<"$x"
    got=$(in_ "$ns" curl -sS --max-time 5 "http://$to/")
    printf '%s$ curl http://%s/\n%s\n' "$ns" "$to" "$got"
    [ "$got" = "$at as $to" ] || fail "want $at as $to"
  done
  GVTEP_INSTANCE=$lab-node gvtep show
}

down() {
  [ -d "$state" ] || { echo "there is no lab"; return; }
  while read -r pid; do # ours alone, and only if the number is still theirs
    case $(ip netns identify "$pid" 2>/dev/null) in "gvtep-$lab"-*) kill "$pid" && timeout 5 tail --pid="$pid" -f /dev/null ;; esac
  done <"$state/pids"
  for ns in node zt pod out; do [ ! -e "/run/netns/gvtep-$lab-$ns" ] || ip netns del "gvtep-$lab-$ns"; done
  rm -r "$state"
}
undo() { tail -n 30 "$state/log" || true; down || true; exit 1; }

[ "${1:-}" != answer ] || { answer "$2"; exit; }
[ "$(id -u)" = 0 ] || fail "namespaces need root: make build && sudo $0 $*"
command -v gvtep >/dev/null || fail "gvtep is not there: make build, or set BIN"
case ${1:-} in
up | down | node | ztunnel) "$1" ;;
test) check ;;
demo) up; trap undo EXIT; check; trap - EXIT; down; echo "istio, $mode: ok" ;;
*) fail "usage: $0 up|test|down|demo|node|ztunnel" ;;
esac
