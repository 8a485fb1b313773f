#!/usr/bin/env bash
# Open vSwitch in user space as the other end: a switch with its own database and
# daemon in a namespace, a container behind it, and two hosts with gvtep.
#
#   gva  gnv0 192.0.2.1            ovs                         con
#        veth0 10.77.1.1  ======  br-u1 10.77.1.2
#                                   br-int (geneve ports)  ---  eth0 192.0.2.3
#        veth0 10.77.2.1  ======  br-u2 10.77.2.2
#   gvb  gnv0 192.0.2.2
#
# usage: ovs.sh    as root; BIN=DIR has gvtep, bin/ if unset; LAB=NAME instead of interop in the names
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
PATH=$(realpath "${BIN:-bin}"):$PATH:/usr/sbin:/sbin
# shellcheck source=scripts/interop/checks.sh
. scripts/interop/checks.sh
lab=${LAB:-interop}
gva=$lab-gva gvb=$lab-gvb ovs=$lab-ovs con=$lab-con
work=$(mktemp -d)
export OVS_RUNDIR=$work OVS_DBDIR=$work OVS_LOGDIR=$work OVS_SYSCONFDIR=$work
pids=()
cleanup() {
  local pid ns
  for pid in "${pids[@]}" $(cat "$work"/*.pid 2>/dev/null); do kill "$pid" 2>/dev/null && timeout 5 tail --pid="$pid" -f /dev/null; done
  for ns in "$gva" "$gvb" "$ovs" "$con"; do ip netns del "$ns" 2>/dev/null; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
die() { echo "ovs.sh: $*" >&2; tail -n 20 "$work"/*log >&2; exit 1; }
vsctl() { ovs-vsctl --timeout=10 "--db=unix:$work/db.sock" "$@"; }
appctl() { ovs-appctl --timeout=10 -t "$work/ovs-vswitchd.$(cat "$work/ovs-vswitchd.pid").ctl" "$@"; }
ofctl() { ovs-ofctl --timeout=10 "${@:1:1}" "unix:$work/br-int.mgmt" "${@:2}"; }

# The daemons, with nothing of the system's.
switch() {
  ip netns add "$ovs"
  ip -n "$ovs" link set lo up
  ovsdb-tool create "$work/conf.db" /usr/share/openvswitch/vswitch.ovsschema &&
    ip netns exec "$ovs" ovsdb-server "$work/conf.db" "--remote=punix:$work/db.sock" --pidfile --detach --no-chdir --log-file -vconsole:off &&
    vsctl --no-wait init &&
    ip netns exec "$ovs" ovs-vswitchd "unix:$work/db.sock" --pidfile --detach --no-chdir --log-file -vconsole:off
}

# host NAMESPACE N: a host of ours on a wire to a bridge of the switch that has the
# other underlay address. Its network card must finish checksums and cut, as real ones do:
# the userspace switch takes packets as they lie on the wire.
host() {
  local ns=$1 n=$2
  ip netns add "$ns"
  ip -n "$ns" link set lo up
  ip -n "$ns" link add veth0 type veth peer name "u$n" netns "$ovs"
  ip netns exec "$ns" ethtool -K veth0 tx off >/dev/null
  ip -n "$ns" addr add "10.77.$n.1/24" dev veth0
  ip -n "$ns" addr add "fd77:$n::1/64" dev veth0 nodad
  ip -n "$ns" link set veth0 up
  ip -n "$ovs" link set "u$n" up
  vsctl add-br "br-u$n" -- set bridge "br-u$n" datapath_type=netdev -- add-port "br-u$n" "u$n" || return
  ip -n "$ovs" addr add "10.77.$n.2/24" dev "br-u$n"
  ip -n "$ovs" addr add "fd77:$n::2/64" dev "br-u$n" nodad
  ip -n "$ovs" link set "br-u$n" up
}
# tunnel NAMESPACE N FAMILY VNI [WORD...]: gvtep there, in place of the one before.
declare -A running
tunnel() {
  local ns=$1 n=$2 family=$3 vni=$4 near=10.77.$2.1 far=10.77.$2.2
  [ "$family" = 4 ] || near=fd77:$n::1 far=fd77:$n::2
  if [ -n "${running[$ns]:-}" ]; then
    kill "${running[$ns]}" && timeout 5 tail --pid="${running[$ns]}" -f /dev/null
  fi
  ip netns exec "$ns" gvtep -i "$ns" run gnv0 --id "$vni" --local "$near" --remote "$far" --mtu 1430 \
    --lladdr "02:00:00:00:00:0$n" --address "192.0.2.$n/24" --address "fd99::$n/64" "${@:5}" >>"$work/$ns.log" 2>&1 &
  running[$ns]=$!
  pids+=($!)
  gvtep -i "$ns" wait gnv0 --for ready --timeout 10s || die "gvtep in $ns did not start"
}
# port NAME N FAMILY VNI [WORD...]: the switch's end of it.
port() {
  local far=10.77.$2.1
  [ "$3" = 4 ] || far=fd77:$2::1
  vsctl --if-exists del-port "$1" -- add-port br-int "$1" -- set interface "$1" type=geneve "options:remote_ip=$far" "options:key=$4" "${@:5}" || die "no port $1"
}
mac() { ip netns exec "$1" cat "/sys/class/net/$2/address"; }

switch || die "Open vSwitch did not start"
vsctl add-br br-int -- set bridge br-int datapath_type=netdev || die "no bridge"
{ host "$gva" 1 && host "$gvb" 2; } || die "no underlay"
ip netns add "$con"
ip -n "$con" link set lo up
ip -n "$con" link add eth0 type veth peer name c0 netns "$ovs"
ip -n "$con" link set eth0 mtu 1430
# The switch takes no super-frames. Checksums it takes unfinished, and sends them so.
ip netns exec "$con" ethtool -K eth0 tso off gso off gro off >/dev/null
ip -n "$con" addr add 192.0.2.3/24 dev eth0
ip -n "$con" addr add fd99::3/64 dev eth0 nodad
ip -n "$con" link set eth0 up
ip -n "$ovs" link set c0 up
vsctl add-port br-int c0

echo "# Open vSwitch $(ovs-vswitchd --version | sed -n '1s/.* \([0-9]*\.[0-9]*\).*/\1/p'), datapath netdev"
for family in 4 6; do
  over="IPv$family underlay"
  tunnel "$gva" 1 $family 42
  port gnva 1 $family 42
  until_ok 10 "ip netns exec $con ping -c 1 -W 0.3 192.0.2.1" # the switch drops what waits for a neighbour of its own
  ip -n "$con" neigh flush all
  check "$over, ARP and ping from the container" "$(pings "$con" 192.0.2.1)" "$all"
  check "$over, ping to it" "$(pings "$gva" 192.0.2.3)" "$all"
  check "$over, ND and ping of IPv6" "$(pings "$gva" fd99::3)" "$all"
  check "$over, ping of 3200 bytes in fragments" "$(pings "$gva" 192.0.2.3 -s 3200)" "$all"
  check "$over, the same from the container" "$(pings "$con" 192.0.2.1 -s 3200)" "$all"
  for x in "$gva $con 192.0.2.3" "$con $gva 192.0.2.1" "$gva $con fd99::3" "$con $gva fd99::1"; do
    read -r from to address <<<"$x"
    check "$over, 2 MB of TCP from ${from#"$lab-"} to ${to#"$lab-"}, $([[ $address = *:* ]] && echo IPv6 || echo IPv4) inside" "$(transfer "$from" "$to" "$address" 2000000)" "same"
  done
  check "$over, the forwarding table" "$(gvtep -i "$gva" fdb show dev gnv0 | grep "^$(mac "$con" eth0) ")" "* dst $([ $family = 4 ] && echo 10.77.1.2 || echo fd77:1::2) *"
  check "$over, ours drops nothing on reception" "$(gvtep -i "$gva" metrics | grep -c '^gvtep_dropped_packets_total.*direction="receive".* [1-9]')" 0
done

echo "# BFD (RFC 9521)"
tunnel "$gva" 1 4 42 --bfd 100msx3
port gnva 1 4 42 bfd:enable=true bfd:oam=true bfd:min_tx=100 bfd:min_rx=100
session() { gvtep -i "$gva" peer show dev gnv0 | grep -o 'bfd [a-z]*, dead\|bfd [a-z]*'; }
until_session() { until_ok 20 "gvtep -i $gva peer show dev gnv0 | grep -q '$1'"; }
until_session 'bfd up'
check "the session is up here" "$(session)" "bfd up"
check "and there" "$(vsctl get interface gnva bfd_status:state bfd_status:forwarding | tr -d '\n')" 'up"true"'
check "ping beside it" "$(pings "$con" 192.0.2.1)" "$all"
vsctl set interface gnva bfd:enable=false # which it tells nobody
until_session dead
check "silent, the switch is dead" "$(session)" "bfd down, dead"
vsctl set interface gnva bfd:enable=true
until_session 'bfd up'
check "and alive again" "$(session)" "bfd up"

echo "# options"
tunnel "$gva" 1 4 42
port gnva 1 4 42
until_ok 10 "ip netns exec $con ping -c 1 -W 0.3 192.0.2.1"
ip -n "$con" link set eth0 mtu 1170 # room for 252 bytes
number=$(vsctl get interface gnva ofport)
# set_options LENGTH TYPE: the switch puts such an option, or two of LENGTH with their heads, into all packets to us.
set_options() {
  local length=$1 type=$2 map="{class=0xffff,type=$2,len=$1}->tun_metadata0" actions="set_field:0x01020304->tun_metadata0"
  ofctl del-flows && ofctl del-tlv-map
  if [ "$length" -gt 124 ]; then # 124 and 120 bytes of data behind two heads: 252
    map="{class=0xffff,type=$type,len=124}->tun_metadata0,{class=0xffff,type=2,len=120}->tun_metadata1"
    actions+=",set_field:0x05->tun_metadata1"
  fi
  ofctl add-tlv-map "$map" && ofctl add-flow "priority=10,in_port=c0,actions=$actions,output:$number" && ofctl add-flow "priority=0,actions=NORMAL"
}
for x in "4 1 an option of 4 bytes" "124 1 an option of 124 bytes" "252 1 options of 252 bytes"; do
  read -r length type name <<<"$x"
  set_options "$length" "$type" || die "no options"
  before=$(options "$gva" 0xffff ignored)
  check "$name, not critical, delivered" "$(pings "$con" 192.0.2.1)" "$all"
  check "$name, counted" "$(($(options "$gva" 0xffff ignored) - before)) ignored" "[5-9] ignored"
done
check "252 bytes of options, 2 MB of TCP" "$(transfer "$con" "$gva" 192.0.2.1 2000000)" "same"
set_options 4 0x80
before=$(drops "$gva" receive critical_option)
check "an unknown critical option, nothing delivered" "$(pings "$con" 192.0.2.1)" "$none"
check "an unknown critical option, counted" "$(($(drops "$gva" receive critical_option) - before)) dropped" "[5-9] dropped"
tunnel "$gva" 1 4 42 --match "accept ffff:80"
check "the same, accepted by a rule" "$(pings "$con" 192.0.2.1)" "$all"
ofctl del-flows && ofctl del-tlv-map && ofctl add-tlv-map "{class=0x102,type=0x80,len=4}->tun_metadata0"
ofctl add-flow "priority=10,in_port=c0,actions=set_field:0x00010002->tun_metadata0,output:$number"
ofctl add-flow "priority=0,actions=NORMAL"
check "OVN's option without a rule" "$(pings "$con" 192.0.2.1)" "$none"
tunnel "$gva" 1 4 42 --match "accept ovn.ports"
check "OVN's option, accepted by a rule" "$(pings "$con" 192.0.2.1)" "$all"
ofctl del-flows && ofctl del-tlv-map && ofctl add-tlv-map "{class=0xff01,type=1,len=4}->tun_metadata0,{class=0xff01,type=2,len=8}->tun_metadata1"
tunnel "$gva" 1 4 42 --options "ff01:01:01020304,ff01:02:@src"
ofctl add-flow "priority=20,in_port=$number,tun_metadata0=0x01020304,tun_metadata1=0x0200000000010000,actions=NORMAL"
ofctl add-flow "priority=10,in_port=$number,actions=drop"
ofctl add-flow "priority=0,actions=NORMAL"
check "options of ours, one with the MAC address, matched by flows" "$(pings "$gva" 192.0.2.3)" "$all"
tunnel "$gva" 1 4 42 --options "ff01:01:01020305,ff01:02:@src"
check "another value matches no flow" "$(pings "$gva" 192.0.2.3)" "$none"
ofctl del-flows
ofctl del-tlv-map
ofctl add-flow "priority=0,actions=NORMAL"
until_ok 10 "ip netns exec $gva ping -c 1 -W 0.3 192.0.2.3" # until the switch has forgotten its flow
check "options of ours that the switch knows nothing of" "$(pings "$gva" 192.0.2.3)" "$all"
tunnel "$gva" 1 4 42
ip -n "$con" link set eth0 mtu 1430
check "without options again" "$(pings "$con" 192.0.2.1)" "$all"

echo "# other numbers"
port gnva 1 4 43
before=$(drops "$gva" receive unknown_vni)
check "the switch sends VNI 43 to our 42, nothing delivered" "$(pings "$con" 192.0.2.1)" "$none"
check "counted as unknown_vni" "$(($(drops "$gva" receive unknown_vni) - before)) dropped" "[1-9]* dropped"
port gnva 1 4 42
vsctl set interface gnva options:csum=true
check "outer checksums of the switch" "$(pings "$con" 192.0.2.1)" "$all"
check "outer checksums of the switch, 2 MB of TCP" "$(transfer "$con" "$gva" 192.0.2.1 2000000)" "same"
tunnel "$gva" 1 4 42 --noudpcsum
check "no outer checksums of ours" "$(pings "$con" 192.0.2.1)" "$all"
tunnel "$gva" 1 4 16777215 --ttl inherit --tos inherit
port gnva 1 4 16777215 options:ttl=inherit options:tos=inherit
check "VNI 16777215, TTL and TOS inherited by both" "$(pings "$con" 192.0.2.1 -Q 0x28 -t 9)" "$all"

echo "# bridging two geneve tunnels"
tunnel "$gva" 1 4 42
port gnva 1 4 42
tunnel "$gvb" 2 6 77
port gnvb 2 6 77
check "leaf to leaf, over IPv4 with VNI 42 and IPv6 with VNI 77" "$(pings "$gva" 192.0.2.2)" "$all"
check "and back" "$(pings "$gvb" 192.0.2.1)" "$all"
check "2 MB of TCP from leaf to leaf" "$(transfer "$gva" "$gvb" 192.0.2.2 2000000)" "same"
check "2 MB of TCP back" "$(transfer "$gvb" "$gva" 192.0.2.1 2000000)" "same"
check "the container reaches both" "$(pings "$con" 192.0.2.1), $(pings "$con" 192.0.2.2)" "$all, $all"

echo "# an address that moves"
# The host gvb is a peer of gva itself now, and takes the container's addresses.
vsctl del-port gnvb
for ns in "$gva" "$gvb"; do ip -n "$ns" route add 10.77.0.0/16 via "$([ "$ns" = "$gva" ] && echo 10.77.1.2 || echo 10.77.2.2)"; done
ip netns exec "$ovs" sysctl -q net.ipv4.ip_forward=1
tunnel "$gva" 1 4 42 --remote 10.77.2.1
moved=$(mac "$con" eth0)
at() { gvtep -i "$gva" fdb show dev gnv0 | sed -n "s/^$moved dst \([^ ]*\) .*/\1/p"; }
check "the container behind the switch" "$(pings "$con" 192.0.2.1), at $(at)" "$all, at 10.77.1.2"
ip -n "$ovs" link set c0 down
kill "${running[$gvb]}" && timeout 5 tail --pid="${running[$gvb]}" -f /dev/null
ip netns exec "$gvb" gvtep -i "$gvb" run gnv0 --id 42 --local 10.77.2.1 --remote 10.77.1.1 --lladdr "$moved" --address 192.0.2.3/24 >>"$work/$gvb.log" 2>&1 &
pids+=($!)
gvtep -i "$gvb" wait gnv0 --for ready --timeout 10s
check "its address on the host gvb" "$(pings "$gvb" 192.0.2.1), at $(at)" "$all, at 10.77.2.1"
check "gva finds it there" "$(pings "$gva" 192.0.2.3)" "$all"
ip -n "$gvb" link set gnv0 down
ip -n "$ovs" link set c0 up
check "back behind the switch" "$(pings "$con" 192.0.2.1), at $(at)" "$all, at 10.77.1.2"
ended
[ "$failed" = 0 ]
