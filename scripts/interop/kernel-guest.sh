#!/usr/bin/env bash
# The kernel's own GENEVE device as the other end, in a machine that has one:
# guest.sh runs this there.
#
#      namespace k                                namespace g
#    +-----------------------+                  +-----------------------+
#    | gnv0   192.0.2.1/24   |. . . VNI 42  . . | gnv0   192.0.2.2/24   |
#    |        the kernel's   |                  |        gvtep -i g     |
#    | veth0  10.77.0.1/24   |==== UDP 6081 ====| veth0  10.77.0.2/24   |
#    |        fd77::1/64     |                  |        fd77::2/64     |
#    +-----------------------+                  +-----------------------+
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=scripts/interop/checks.sh
. ./checks.sh
modprobe -a geneve cls_flower act_gact act_pedit act_csum act_tunnel_key sch_ingress 8021q bridge macvlan
for x in "k 1" "g 2"; do
  read -r ns n <<<"$x"
  ip netns add "$ns"
  ip -n "$ns" link set lo up
done
ip -n k link add veth0 type veth peer name veth0 netns g
for x in "k 1" "g 2"; do
  read -r ns n <<<"$x"
  ip -n "$ns" addr add "10.77.0.$n/24" dev veth0
  ip -n "$ns" addr add "fd77::$n/64" dev veth0 nodad
  ip -n "$ns" link set veth0 up
  ip netns exec "$ns" tc qdisc add dev veth0 clsact
done
daemon=
# ours FAMILY VNI [WORD...] and kernel FAMILY VNI [WORD...]: the ends, in place of those before.
ours() {
  local near=10.77.0.2 far=10.77.0.1
  [ "$1" = 4 ] || near=fd77::2 far=fd77::1
  stop
  ip netns exec g gvtep -i g run gnv0 --id "$2" --local $near --remote $far --address 192.0.2.2/24 --address fd99::2/64 "${@:3}" >>/tmp/log 2>&1 &
  daemon=$!
  gvtep -i g wait gnv0 --for ready --timeout 20s || { tail -n 5 /tmp/log; echo "end: gvtep did not start"; exit; }
}
stop() { [ -z "$daemon" ] || { kill "$daemon" && timeout 10 tail --pid="$daemon" -f /dev/null; }; daemon=; }
kernel() {
  local far=10.77.0.2
  [ "$1" = 4 ] || far=fd77::2
  ip -n k link del gnv0 2>/dev/null
  ip -n k link add gnv0 type geneve id "$2" remote $far "${@:3}" || return
  inside
}
inside() {
  ip -n k addr add 192.0.2.1/24 dev gnv0
  ip -n k addr add fd99::1/64 dev gnv0 nodad
  ip -n k link set gnv0 up
}
both() { # both NAME: ping and TCP, both ways, IPv4 and IPv6 inside
  check "$1, ping to the kernel" "$(pings g 192.0.2.1)" "$all"
  check "$1, ping from it" "$(pings k fd99::2)" "$all"
  check "$1, TCP to the kernel, IPv4 inside" "$(transfer g k 192.0.2.1 300000)" same
  check "$1, TCP from it, IPv4 inside" "$(transfer k g 192.0.2.2 300000)" same
  check "$1, TCP to the kernel, IPv6 inside" "$(transfer g k fd99::1 300000)" same
  check "$1, TCP from it, IPv6 inside" "$(transfer k g fd99::2 300000)" same
}
# seen NAMESPACE DEVICE MATCH... -- COMMAND...: how many packets matched on arrival, told by the kernel's flower.
seen() {
  local ns=$1 dev=$2 match=()
  shift 2
  while [ "$1" != -- ]; do match+=("$1"); shift; done
  shift
  ip netns exec "$ns" tc qdisc add dev "$dev" clsact 2>/dev/null # of a new device
  ip netns exec "$ns" tc filter add dev "$dev" ingress pref 7 protocol "${match[@]}" action pass || return
  "$@" >/dev/null 2>&1
  ip netns exec "$ns" tc -s filter show dev "$dev" ingress pref 7 | sed -n 's/.*Sent [0-9]* bytes \([0-9]*\) pkt.*/\1/p' | head -n 1
  ip netns exec "$ns" tc filter del dev "$dev" ingress pref 7
}

echo "# the kernel's device of Linux $(uname -r | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')"
for family in 4 6; do
  ours $family 42
  kernel $family 42
  both "IPv$family underlay"
  check "IPv$family underlay, MTU of both" "$(ip netns exec k cat /sys/class/net/gnv0/mtu) $(ip netns exec g cat /sys/class/net/gnv0/mtu)" "$([ $family = 4 ] && echo "1450 1450" || echo "1430 1430")"
  check "IPv$family underlay, ping of 3200 bytes in fragments" "$(pings g 192.0.2.1 -s 3200)" "$all"
  check "IPv$family underlay, ours drops nothing on reception" "$(gvtep -i g metrics | grep -c '^gvtep_dropped_packets_total.*direction="receive".* [1-9]')" 0
done
ours 4 42
kernel 4 42 udpcsum
check "outer checksums of the kernel" "$(pings g 192.0.2.1)" "$all"
ours 6 42
kernel 6 42 udp6zerocsumtx
check "IPv6 without outer checksum, refused" "$(pings k 192.0.2.2)" "$none"
ours 6 42 --udp6zerocsumrx --udp6zerocsumtx
kernel 6 42 udp6zerocsumtx udp6zerocsumrx
check "IPv6 without outer checksums, allowed on both sides" "$(pings k 192.0.2.2)" "$all"
ours 4 42
kernel 4 43
before=$(drops g receive unknown_vni)
check "the kernel sends VNI 43 to our 42" "$(pings k 192.0.2.2)" "$none"
check "counted as unknown_vni" "$(($(drops g receive unknown_vni) - before))" "[1-9]*"

echo "# TTL, TOS and ECN"
outer=(ip flower ip_proto udp dst_port 6081)
ours 4 42 --ttl inherit --tos inherit
kernel 4 42 ttl inherit tos inherit
pings g 192.0.2.1 >/dev/null
check "ours, TTL 33 and DSCP 10 inherited" "$(seen k veth0 "${outer[@]}" ip_ttl 33 ip_tos 0x28 -- ip netns exec g ping -q -c 5 -i 0.1 -t 33 -Q 0x28 192.0.2.1)" 5
check "the kernel's, the same" "$(seen g veth0 "${outer[@]}" ip_ttl 33 ip_tos 0x28 -- ip netns exec k ping -q -c 5 -i 0.1 -t 33 -Q 0x28 192.0.2.2)" 5
ours 4 42 --ttl 9 --tos 0xb8
check "ours, TTL 9 and DSCP 46 set" "$(seen k veth0 "${outer[@]}" ip_ttl 9 ip_tos 0xb8 -- ip netns exec g ping -q -c 5 -i 0.1 -Q 0x28 192.0.2.1)" "[1-9]*"
for ecn in 1 2 3; do
  check "ours, inner ECN $ecn, outer as RFC 6040" "$(seen k veth0 "${outer[@]}" ip_tos $((0xb8 + ecn)) -- ip netns exec g ping -q -c 5 -i 0.1 -Q $ecn 192.0.2.1)" 5
done
ours 4 42
kernel 4 42
# A router on the way marks congestion in all outer packets of one direction.
for x in "k g 192.0.2.2 the kernel to ours" "g k 192.0.2.1 ours to the kernel"; do
  read -r from to address way <<<"$x"
  pings "$from" "$address" >/dev/null
  ip netns exec "$from" tc filter add dev veth0 egress pref 9 protocol ip flower ip_proto udp dst_port 6081 action pedit ex munge ip tos set 3 pipe action csum ip4h
  for ecn in 1 2 3; do
    check "$way, inner ECN $ecn, outer CE" "$(seen "$to" gnv0 ip flower ip_proto icmp ip_tos 3/3 -- ip netns exec "$from" ping -q -c 5 -i 0.1 -Q $ecn "$address")" 5
  done
  check "$way, inner without ECN, outer CE: dropped" "$(pings "$from" "$address")" "$none"
  ip netns exec "$from" tc filter del dev veth0 egress pref 9
done
ecn=$(drops g receive ecn) # more, if the kernel sent others meanwhile
check "ours counted the five as ecn" "$([ "$ecn" -ge 5 ] && echo "5 or more" || echo "$ecn")" "5 or more"

echo "# what may be cut"
ours 6 42 --mtu 1500
kernel 6 42
ip -n k link set gnv0 mtu 1500
# Over IPv6 the kernel makes no outer fragments: it tells the path's MTU, and so do we. Each sender loses a packet until it knows.
until_ok 20 "ip netns exec k ping -c 1 -W 1 -M dont -s 1450 192.0.2.2"
check "the kernel, IPv4 without DF, longer than the path: in inner fragments" "$(pings k 192.0.2.2 -M dont -s 1450)" "$all"
ours 6 42 --mtu 1500 --df unset
until_ok 20 "ip netns exec k ping -c 1 -W 1 192.0.2.2"
check "ours with df unset, the same" "$(pings g 192.0.2.1 -M dont -s 1450)" "$all"

echo "# external mode"
ip -n k link del gnv0
ip -n k link add gnv0 type geneve external
inside
ours 4 42 --lladdr 02:00:00:00:00:02
near=$(ip netns exec k cat /sys/class/net/gnv0/address)
ip -n k neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev gnv0
ip -n g neigh replace 192.0.2.1 lladdr "$near" dev gnv0
way=(ip -n k route replace 192.0.2.2/32 encap ip id 42 dst 10.77.0.2)
"${way[@]}" dev gnv0
check "a route with VNI and remote" "$(pings k 192.0.2.2)" "$all"
check "flower finds VNI and remote of our packets" "$(seen k gnv0 ip flower enc_key_id 42 enc_src_ip 10.77.0.2 enc_dst_port 6081 -- pings k 192.0.2.2)" 5
for x in "0xff01:1:01020304 an option" "0x0102:5:0102030405060708,0xff01:2:0a0b0c0d two options"; do
  read -r opts name <<<"$x"
  "${way[@]}" geneve_opts "$opts" dev gnv0
  before=$(gvtep -i g metrics | grep '^gvtep_option_packets_total.*ignored' | awk '{ n += $2 } END { print n + 0 }')
  check "$name by geneve_opts, delivered" "$(pings k 192.0.2.2)" "$all"
  check "$name by geneve_opts, counted" "$(($(gvtep -i g metrics | grep '^gvtep_option_packets_total.*ignored' | awk '{ n += $2 } END { print n + 0 }') - before))" "[1-9]*"
done
"${way[@]}" dev gnv0
ours 4 42 --lladdr 02:00:00:00:00:02 --options "ff01:01:01020304,ff01:02:@dscp"
ip -n g neigh replace 192.0.2.1 lladdr "$near" dev gnv0
check "flower finds the options of our packets" "$(seen k gnv0 ip flower enc_key_id 42 geneve_opts ff01:01:01020304/ffff:ff:ffffffff,ff01:02:0000000a/ffff:ff:ffffffff -- pings k 192.0.2.2 -Q 0x28)" 5
check "flower finds no others" "$(seen k gnv0 ip flower enc_key_id 42 geneve_opts ff01:01:01020305/ffff:ff:ffffffff -- pings k 192.0.2.2)" 0
"${way[@]}" geneve_opts 0xff01:0x80:01020304 dev gnv0
before=$(drops g receive critical_option)
check "an unknown critical option" "$(pings k 192.0.2.2)" "$none"
check "counted as critical_option" "$(($(drops g receive critical_option) - before))" 5
ours 4 42 --lladdr 02:00:00:00:00:02 --match "accept ff01:80"
ip -n g neigh replace 192.0.2.1 lladdr "$near" dev gnv0
check "accepted by a rule" "$(pings k 192.0.2.2)" "$all"

echo "# IP inside"
for family in 4 6; do
  stop
  ours $family 44 --mode l3
  kernel $family 44 innerprotoinherit
  both "innerprotoinherit over IPv$family"
done

echo "# on top of ours"
ours 4 42
kernel 4 42
for x in "k 1" "g 2"; do
  read -r ns n <<<"$x"
  ip -n "$ns" link add link gnv0 name gnv0.5 type vlan id 5
  ip -n "$ns" addr add "198.51.100.$n/24" dev gnv0.5
  ip -n "$ns" link set gnv0.5 up
done
check "a VLAN device" "$(pings g 198.51.100.1)" "$all"
check "a VLAN device, TCP" "$(transfer k g 198.51.100.2 300000)" same
ip -n g link del gnv0.5
ip -n g link add br0 type bridge vlan_filtering 1
ip -n g link set gnv0 master br0
bridge -n g vlan add dev gnv0 vid 5
bridge -n g vlan add dev br0 vid 5 self
ip -n g link add link br0 name br0.5 type vlan id 5
ip -n g addr add 198.51.100.2/24 dev br0.5
ip -n g link set br0 up
ip -n g link set br0.5 up
check "a port of a bridge that filters VLANs" "$(pings g 198.51.100.1)" "$all"
ip -n g link del br0
ip -n g link add mac0 link gnv0 type macvlan mode bridge
ip -n g addr add 192.0.2.9/24 dev mac0
ip -n g link set mac0 up
check "macvlan" "$(pings k 192.0.2.9)" "$all"
ip -n g link del mac0
stop
ended
