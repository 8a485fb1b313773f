#!/usr/bin/env bash
# gvtep-evpn with FRR and gobgpd as reflectors, and with FRR and the kernel's VXLAN as the other VTEP.
#
#   rr            bgpd, or gobgpd, 10.88.0.254, and the wire: a bridge
#   a b c         gvtep and gvtep-evpn, 10.88.0.1 to .3 (and fd88::1 to ::3); br0 with gnv0 and eth1
#   f             FRR and the kernel's vxlan, 10.88.0.4
#   ha hb hc hf   stations behind them, 10.1.0.1 to .4 (and fd10::1 to ::4)
#
# usage: evpn.sh    as root; BIN=DIR has gvtep and gvtep-evpn, bin/ if unset; LAB=NAME instead of interop in the names
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
PATH=$(realpath "${BIN:-bin}"):$PATH:/usr/sbin:/sbin:/usr/lib/frr
# shellcheck source=scripts/interop/checks.sh
. scripts/interop/checks.sh
lab=${LAB:-interop}-evpn
work=$(mktemp -d)
chmod 755 "$work" # FRR runs as its own user
declare -A pid # of what runs, by a name
cleanup() {
  local name ns
  for name in "${!pid[@]}"; do stop "$name" KILL; done
  for ns in rr a b c f ha hb hc hf m; do ip netns del "$lab-$ns" 2>/dev/null; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
die() { echo "evpn.sh: $*" >&2; tail -n 15 "$work"/*log >&2; exit 1; }
in_ns() { ip netns exec "$lab-$1" "${@:2}"; }
# start NAME NAMESPACE COMMAND...: in the background, its log in $work/NAME.log.
start() {
  ip netns exec "$lab-$2" "${@:3}" >>"$work/$1.log" 2>&1 & # no function, which would be a shell of its own
  pid[$1]=$!
}
# stop NAME [SIGNAL]
stop() {
  [ -n "${pid[$1]:-}" ] || return 0
  kill "-${2:-TERM}" "${pid[$1]}" 2>/dev/null
  wait "${pid[$1]}" 2>/dev/null
  unset "pid[$1]"
}

wire() {
  ip netns add "$lab-rr"
  ip -n "$lab-rr" link set lo up
  ip -n "$lab-rr" link add wire type bridge
  ip -n "$lab-rr" addr add 10.88.0.254/24 dev wire
  ip -n "$lab-rr" addr add fd88::254/64 dev wire nodad
  ip -n "$lab-rr" link set wire up
}
# host N NAME: a VTEP's namespace on the wire, with a bridge and a station behind it.
host() {
  local n=$1 ns=$lab-$2 st=$lab-h$2
  ip netns add "$ns"
  ip netns add "$st"
  ip -n "$ns" link set lo up
  ip -n "$st" link set lo up
  ip -n "$ns" link add eth0 type veth peer name "p$n" netns "$lab-rr"
  ip -n "$lab-rr" link set "p$n" master wire up
  # A network card finishes checksums; a veth does not.
  in_ns "$2" ethtool -K eth0 tx off >/dev/null
  ip -n "$ns" addr add "10.88.0.$n/24" dev eth0
  ip -n "$ns" addr add "fd88::$n/64" dev eth0 nodad
  ip -n "$ns" link set eth0 up
  ip -n "$ns" link add br0 type bridge
  ip -n "$ns" link set br0 up
  ip -n "$ns" link add eth1 type veth peer name eth0 netns "$st"
  ip -n "$ns" link set eth1 master br0 up
  ip -n "$st" link set eth0 address "02:00:00:00:01:0$n" mtu 1400
  ip -n "$st" addr add "10.1.0.$n/24" dev eth0
  ip -n "$st" addr add "fd10::$n/64" dev eth0 nodad
  ip -n "$st" link set eth0 up
}

# reflector frr|gobgp [killed]: anew, in place of the one before.
reflector() {
  stop rr "${2:-TERM}"
  case $1 in
  frr)
    cat >"$work/rr.conf" <<CONF
router bgp 65000
 bgp router-id 10.88.0.254
 no bgp default ipv4-unicast
 neighbor V peer-group
 neighbor V remote-as 65000
 neighbor V timers connect 1
 bgp listen range 10.88.0.0/24 peer-group V
 address-family l2vpn evpn
  neighbor V activate
  neighbor V route-reflector-client
 exit-address-family
CONF
    install -d -o frr -g frr "$work/rr"
    start rr rr bgpd -Z -f "$work/rr.conf" -i "$work/rr/pid" --vty_socket "$work/rr" --log "file:$work/rr/bgpd.log"
    until_ok 20 "vtysh --vty_socket $work/rr -d bgpd -c 'show version'" || die "bgpd did not start" ;;
  gobgp)
    { printf '[global.config]\nas = 65000\nrouter-id = "10.88.0.254"\n[global.apply-policy.config]\ndefault-import-policy = "accept-route"\ndefault-export-policy = "accept-route"\n'
      for a in 10.88.0.{1,2,3,4} fd88::{1,2,3}; do
        printf '[[neighbors]]\n[neighbors.config]\nneighbor-address = "%s"\npeer-as = 65000\n[neighbors.transport.config]\npassive-mode = true\n' "$a"
        printf '[neighbors.route-reflector.config]\nroute-reflector-client = true\nroute-reflector-cluster-id = "10.88.0.254"\n'
        printf '[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 60\n'
        printf '[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "l2vpn-evpn"\n[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n'
        printf '[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = "rtc"\n'
      done; } >"$work/gobgpd.toml"
    start rr rr gobgpd -t toml -f "$work/gobgpd.toml" --api-hosts 127.0.0.1:50051
    until_ok 20 "ip netns exec $lab-rr gobgp neighbor" || die "gobgpd did not start" ;;
  esac
}
# kernel_vtep: FRR and the kernel's VXLAN in f, as the other three have gvtep.
kernel_vtep() {
  ip -n "$lab-f" link add vx100 type vxlan id 100 dstport 4789 local 10.88.0.4 nolearning || return
  ip -n "$lab-f" link set vx100 mtu 1400 master br0 up
  ip -n "$lab-f" link set vx100 type bridge_slave learning off
  cat >"$work/f.conf" <<CONF
router bgp 65000
 bgp router-id 10.88.0.4
 no bgp default ipv4-unicast
 neighbor 10.88.0.254 remote-as 65000
 neighbor 10.88.0.254 timers connect 1
 address-family l2vpn evpn
  neighbor 10.88.0.254 activate
  advertise-all-vni
 exit-address-family
CONF
  : >"$work/zebra.conf"
  install -d -o frr -g frr "$work/f"
  start zebra f zebra -f "$work/zebra.conf" -i "$work/f/zebra.pid" -z "$work/f/zserv" --vty_socket "$work/f" --log "file:$work/f/zebra.log"
  until_ok 20 "vtysh --vty_socket $work/f -d zebra -c 'show version'" || return
  start bgpd f bgpd -f "$work/f.conf" -i "$work/f/bgpd.pid" -z "$work/f/zserv" --vty_socket "$work/f" --log "file:$work/f/bgpd.log"
  until_ok 20 "vtysh --vty_socket $work/f -d bgpd -c 'show version'"
}
in_frr() { vtysh --vty_socket "$work/f" -d "$1" -c "$2"; } # in_frr DAEMON COMMAND
show() { vtysh --vty_socket "$work/rr" -d bgpd -c "$1"; }

# vtep NAME N [WORD...]: gvtep, its tunnel with nobody, in the bridge.
vtep() {
  local ns=$1 n=$2
  start "gvtep-$ns" "$ns" gvtep -i "$lab-$ns" run gnv0 --id 100 --local "$([ -n "${family6:-}" ] && echo "fd88::$n" || echo "10.88.0.$n")" --remote none --nolearning --neigh_suppress on --mtu 1400 "${@:3}"
  gvtep -i "$lab-$ns" wait gnv0 --for ready --timeout 30s || die "gvtep in $ns did not start"
  ip -n "$lab-$ns" link set gnv0 master br0 up
}
# agent NAME N [LINE...]: gvtep-evpn, with lines more in its [bgp].
agent() {
  local ns=$1 n=$2 neighbor=10.88.0.254
  [ -z "${family6:-}" ] || neighbor=fd88::254
  { printf '[bgp]\nasn = 65000\nrouter-id = "10.88.0.%s"\nneighbor = ["%s"%s]\n' "$n" "$neighbor" "${family6:+, \"fd88::253\"}"
    [ $# -lt 3 ] || printf '%s\n' "${@:3}"
    printf '[evpn]\ninstance = "%s"\nprefixes = ["172.20.%s.0/24", "fd20:%s::/64"]\n' "$lab-$ns" "$n" "$n"; } >"$work/$ns.toml"
  start "evpn-$ns" "$ns" gvtep-evpn --log-level debug run -c "$work/$ns.toml"
}
evpn() { gvtep-evpn -i "$lab-$1" "${@:2}"; }
reaches() { until_ok 30 "ip netns exec $lab-$1 ping -n -c 1 -W 0.5 $2"; }
# pairs: every station to every other one, by both families.
pairs() {
  local from to sum=""
  for from in 1:a 2:b 3:c; do
    for to in 1 2 3; do
      [ "${from%:*}" != $to ] || continue
      reaches "h${from#*:}" 10.1.0.$to && reaches "h${from#*:}" fd10::$to && sum+=.
    done
  done
  echo "${#sum} of 6"
}
# pinging FROM ADDRESS SECONDS: in the background, ten a second; lost says afterwards how many had no answer.
pinging() { ip netns exec "$lab-$1" ping -q -n -i 0.1 -c $(($3 * 10)) -W 5 "$2" >"$work/pings" 2>&1 & pings_pid=$!; }
lost() {
  timeout 60 tail --pid="$pings_pid" -f /dev/null
  sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' "$work/pings" | { read -r sent got; echo "$((sent - got)) of $sent lost"; }
}

# legs NAME NAME: a station, 10.1.0.77, in a namespace of its own with a leg in each, between which it moves. The ports
# stay up, so that nobody but the other VTEP's route tells the one that it left.
legs() {
  local n i=0
  between=("$1" "$2")
  ip netns add "$lab-m"
  in_ns m sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv6.conf.all.disable_ipv6=1
  for n in "$@"; do
    i=$((i + 1))
    ip -n "$lab-$n" link add eth2 type veth peer name "leg$n" netns "$lab-m"
    ip -n "$lab-$n" link set eth2 master br0 up
    ip -n "$lab-m" link set "leg$n" address "02:00:00:00:02:0$i" mtu 1400 up
  done
}
# station NAME: it is behind that one now, and says so as machines do that were moved.
station() {
  local old=${between[0]}
  [ "$1" != "$old" ] || old=${between[1]}
  # At once, as a hypervisor does it: what is lost meanwhile is not the VTEPs'.
  ip -n "$lab-m" -batch - <<LINES
addr flush dev leg$old
link set leg$old address 02:00:00:00:02:09
link set leg$1 address 02:00:00:00:01:77
addr add 10.1.0.77/24 dev leg$1
LINES
  in_ns m ping -q -n -c 1 -W 0.3 10.1.0.3 >/dev/null && return
  until_ok 10 "ip netns exec $lab-m ping -n -c 1 -W 0.3 10.1.0.3"
}
legs_gone() {
  local n
  ip netns del "$lab-m"
  for n in "${between[@]}"; do ip -n "$lab-$n" link del eth2 2>/dev/null; done
}

wire
{ host 1 a && host 2 b && host 3 c; } || die "no hosts"
# shellcheck disable=SC1090 # the parts are checked by themselves
for part in ${EVPN:-fabric prefixes moves restarts encap kernel six}; do . "scripts/interop/evpn-$part.sh"; done
ended
