#!/usr/bin/env bash
# Three hosts that find each other by a multicast group: no host knows another's address.
#
#     a  gnv0 192.0.2.1      b  gnv0 192.0.2.2      c  gnv0 192.0.2.3
#        eth0 10.77.0.1         eth0 10.77.0.2         eth0 10.77.0.3
#          |                      |                      |
#     ====== a switch ====== group 239.255.0.1 ==============
#
# The kernel's counterpart (leftasexercise lab 10; its geneve has no groups):
#     ip link add gnv0 type vxlan id 100 group 239.255.0.1 ttl 5 dstport 4789 dev eth0
#
# usage: mcast.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

up() {
  hosts a b c
  lan a b c
  local n=0
  for h in a b c; do
    n=$((n + 1))
    gv $h gnv0 --id 100 --local 10.77.0.$n --group 239.255.0.1 --dev eth0 --ttl 5 --address 192.0.2.$n/24
  done
}
check() {
  say "each host has joined the group"
  in_ a ip maddr show dev eth0 | grep 239.255.0.1 || fail "a is not in the group"
  reaches a 192.0.2.2
  reaches c 192.0.2.1
  say "from the second packet on unicast: what c gets of the talk between a and b"
  before=$(quiet c cat /sys/class/net/gnv0/statistics/rx_packets)
  reaches a 192.0.2.2
  after=$(quiet c cat /sys/class/net/gnv0/statistics/rx_packets)
  echo "$((after - before)) packets"
  [ $((after - before)) -le 2 ] || fail "c gets what is not for it"
  ctl a fdb show dev gnv0
}
lab "$@"
