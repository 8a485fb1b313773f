#!/usr/bin/env bash
# Two tenants with the same addresses on the same hosts: two VNIs, one process on each host.
#
#     a  red  gnv100 192.0.2.1     blue gnv200 192.0.2.1
#        eth0 10.77.0.1
#     ====================== a switch =======================
#        eth0 10.77.0.2
#     b  red  gnv100 192.0.2.2     blue gnv200 192.0.2.2
#
# The devices are in namespaces of the tenants (a-red, a-blue ...), the sockets in those of the hosts.
# The kernel's counterpart, in the namespace of host a, and moved to a tenant's with "ip link set gnv100 netns":
#     ip link add gnv100 type geneve id 100 remote 10.77.0.2
#     ip link add gnv200 type geneve id 200 remote 10.77.0.2
#
# usage: many-vni.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

up() {
  hosts a b a-red a-blue b-red b-blue
  lan a b
  for x in "a 1 2" "b 2 1"; do
    read -r h n m <<<"$x"
    cat >"$state/$h.toml" <<END
[defaults]
local  = "10.77.0.$n"
remote = "10.77.0.$m"

[[tunnel]]
name    = "gnv100"
id      = 100
netns   = "gvtep-$lab-$h-red"
address = "192.0.2.$n/24"

[[tunnel]]
name    = "gnv200"
id      = 200
netns   = "gvtep-$lab-$h-blue"
address = "192.0.2.$n/24"
END
    gv "$h" --config "$state/$h.toml"
  done
}
check() {
  reaches a-red 192.0.2.2
  reaches b-blue 192.0.2.1
  say "the tenants are apart: without red on b, red of a reaches nobody, and blue goes on"
  quiet b-red ip link set gnv100 down
  misses a-red 192.0.2.2
  reaches a-blue 192.0.2.2
  quiet b-red ip link set gnv100 up
  within 10 "ip netns exec gvtep-$lab-a-red ping -c 1 -W 1 192.0.2.2" || fail "red does not come back"
  ctl a show
}
lab "$@"
