#!/usr/bin/env bash
# Containers of two hosts in one segment, each host with a bridge, as Docker has.
#
#     box1 192.0.2.11   box2 192.0.2.12        box3 192.0.2.13
#         \            /                           |
#          br0 --- gnv0                           br0 --- gnv0
#     a    eth0 10.77.0.1  ======  UDP 6081  ======  eth0 10.77.0.2    b
#
# The kernel's counterpart, on host a:
#     ip link add gnv0 type geneve id 100 remote 10.77.0.2
#     ip link set gnv0 master br0 up
#
# usage: bridge.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

up() {
  hosts a b
  lan a b
  for x in "a 1 2" "b 2 1"; do
    read -r h n m <<<"$x"
    quiet "$h" ip link add br0 type bridge
    quiet "$h" ip link set br0 up
    gv "$h" gnv0 --id 100 --local "10.77.0.$n" --remote "10.77.0.$m" --master br0
  done
  box box1 a br0 192.0.2.11/24
  box box2 a br0 192.0.2.12/24
  box box3 b br0 192.0.2.13/24
}
check() {
  reaches box1 192.0.2.12
  reaches box1 192.0.2.13
  reaches box3 192.0.2.12
  say "the bridge knows who is behind the tunnel, and gvtep behind which host"
  mac=$(quiet box3 cat /sys/class/net/eth0/address)
  in_ a bridge fdb show br br0 dev gnv0 | grep "$mac" || fail "the bridge has not learned $mac behind gnv0"
  ctl a fdb show dev gnv0 | grep "$mac dst 10.77.0.2" || fail "gvtep has not learned $mac behind 10.77.0.2"
  say "box3 moves to host a, with its address"
  addr=192.0.2.13/24
  quiet b ip link del to-box3
  quiet box3 ip link add eth0 address "$mac" type veth peer name to-box3 netns "gvtep-$lab-a"
  quiet a ip link set to-box3 master br0 up
  quiet box3 ip addr add $addr dev eth0
  quiet box3 ip link set eth0 mtu 1450 up
  reaches box3 192.0.2.11
  reaches box2 192.0.2.13
  if ctl a fdb show dev gnv0 | grep "$mac dst"; then fail "gvtep on a still looks for $mac behind b"; fi
  say "and back, so that this can run again"
  quiet a ip link del to-box3
  quiet box3 ip link add eth0 address "$mac" type veth peer name to-box3 netns "gvtep-$lab-b"
  quiet b ip link set to-box3 master br0 up
  quiet box3 ip addr add $addr dev eth0
  quiet box3 ip link set eth0 mtu 1450 up
  reaches box3 192.0.2.11
}
lab "$@"
