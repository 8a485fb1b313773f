#!/usr/bin/env bash
# Open vSwitch as the other end (leftasexercise lab 11 with GENEVE), in user space, with a
# database and a daemon of its own.
#
#     a  gnv0 192.0.2.1                      box  192.0.2.3
#        |                                        |
#        |                                  ovs  br-int --- geneve0 (remote_ip 10.77.0.1, key 100)
#     a  eth0 10.77.0.1  ===== UDP 6081 =====  br-phy 10.77.0.2
#
# More than this lab shows is checked by scripts/interop/ovs.sh.
#
# usage: ovs.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"
export OVS_RUNDIR=$state OVS_DBDIR=$state OVS_LOGDIR=$state OVS_SYSCONFDIR=$state
vsctl() { printf 'ovs$ ovs-vsctl %s\n' "$*"; ovs-vsctl --timeout=10 "--db=unix:$state/db.sock" "$@"; }

up() {
  "$here/../tools/need.sh" ip ping ethtool ovs-vswitchd
  hosts a ovs box
  quiet a ip link add eth0 type veth peer name u0 netns "gvtep-$lab-ovs"
  quiet a ethtool -K eth0 tx off >/dev/null # the switch takes packets as they lie on a wire
  quiet a ip addr add 10.77.0.1/24 dev eth0
  quiet a ip link set eth0 up
  quiet box ip link add eth0 type veth peer name c0 netns "gvtep-$lab-ovs"
  quiet box ethtool -K eth0 tso off gso off >/dev/null
  quiet box ip addr add 192.0.2.3/24 dev eth0
  quiet box ip link set eth0 mtu 1450 up
  quiet ovs ip link set u0 up
  quiet ovs ip link set c0 up
  ovsdb-tool create "$state/conf.db" /usr/share/openvswitch/vswitch.ovsschema
  bg ovs ovsdb-server "$state/conf.db" "--remote=punix:$state/db.sock" --no-chdir -vconsole:off
  within 10 "[ -S $state/db.sock ]" || fail "ovsdb-server did not start"
  vsctl --no-wait init
  bg ovs ovs-vswitchd "unix:$state/db.sock" --no-chdir -vconsole:off
  vsctl add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy u0
  quiet ovs ip addr add 10.77.0.2/24 dev br-phy
  quiet ovs ip link set br-phy up
  vsctl add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int c0 \
    -- add-port br-int geneve0 -- set interface geneve0 type=geneve options:remote_ip=10.77.0.1 options:key=100
  gv a gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.2 --address 192.0.2.1/24
  within 10 "ip netns exec gvtep-$lab-a ping -c 1 -W 1 192.0.2.3" || true # the switch drops what waits for a neighbour of its own
}
check() {
  reaches a 192.0.2.3
  reaches box 192.0.2.1
  mac=$(quiet box cat /sys/class/net/eth0/address)
  ctl a fdb show dev gnv0 | grep "$mac dst 10.77.0.2" || fail "gvtep has not learned $mac behind the switch"
  vsctl show
}
lab "$@"
