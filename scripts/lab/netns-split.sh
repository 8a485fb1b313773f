#!/usr/bin/env bash
# The device in a container, the sockets on the host: the container has an overlay and
# nothing else, and could not reach the underlay if it wanted to.
#
#     box-a  gnv0 192.0.2.1                    box-b  gnv0 192.0.2.2
#        :                                        :
#     a  (gvtep)  eth0 10.77.0.1  ==== UDP 6081 ====  b  eth0 10.77.0.2
#
# The kernel's counterpart, on host a:
#     ip link add gnv0 type geneve id 100 remote 10.77.0.2
#     ip link set gnv0 netns box-a
#
# usage: netns-split.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

up() {
  hosts a b box-a box-b
  lan a b
  gv a gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.2 --device_netns "gvtep-$lab-box-a" --address 192.0.2.1/24
  gv b gnv0 --id 100 --local 10.77.0.2 --remote 10.77.0.1 --device_netns "gvtep-$lab-box-b" --address 192.0.2.2/24
}
check() {
  say "all that the container has"
  in_ box-a ip -br addr
  reaches box-a 192.0.2.2
  say "the underlay is not there"
  misses box-a 10.77.0.2
  [ "$(quiet a sh -c 'ls /sys/class/net' | xargs)" = "$(quiet a sh -c 'ls /sys/class/net | grep -v gnv' | xargs)" ] || fail "the device is on the host"
}
lab "$@"
