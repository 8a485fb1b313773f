#!/usr/bin/env bash
# Two hosts with a subnet of pods each, joined as flannel's `extension` backend joins them: the
# lab runs the commands of examples/flannel/net-conf.json as flanneld does, by `sh -c` with SUBNET
# and PUBLIC_IP in the environment.
#
#     pod-a 10.244.1.2                    pod-b 10.244.2.2
#        |                                   |
#     a  cni0 10.244.1.1                  b  cni0 10.244.2.1
#        gnv0 10.244.1.0, a TUN              gnv0 10.244.2.0
#        eth0 10.77.0.1                      eth0 10.77.0.2
#          |                                   |
#     ================== a switch ===================
#
# The kernel's counterpart is flannel's vxlan backend.
#
# usage: flannel.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

flanneld() { # HOST COMMAND SUBNET [PUBLIC_IP]
  printf '%s: flanneld runs %s for %s\n' "$1" "$2" "$3"
  quiet "$1" env GVTEP_INSTANCE="$lab-$1" SUBNET="$3" PUBLIC_IP="${4:-}" \
    sh -c "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["Backend"][sys.argv[2]])' "$here/../../examples/flannel/net-conf.json" "$2")"
}
up() {
  local n=0 h
  hosts a b
  lan a b
  for h in a b; do
    n=$((n + 1))
    quiet $h ip link add cni0 type bridge
    quiet $h ip addr add "10.244.$n.1/24" dev cni0
    quiet $h ip link set cni0 up
    quiet $h sysctl -q net.ipv4.ip_forward=1
    box pod-$h $h cni0 "10.244.$n.2/24"
    quiet pod-$h ip route add default via "10.244.$n.1"
    gv $h gnv0 --id 100 --mode l3 --local "10.77.0.$n" --remote none
    flanneld $h PreStartupCommand ""
    flanneld $h PostStartupCommand "10.244.$n.0/24"
  done
}
check() {
  flanneld a SubnetAddCommand 10.244.2.0/24 10.77.0.2
  flanneld b SubnetAddCommand 10.244.1.0/24 10.77.0.1
  flanneld b SubnetAddCommand 10.244.1.0/24 10.77.0.1 # flanneld has started anew and says it again
  reaches pod-a 10.244.2.2
  reaches pod-b 10.244.1.2
  reaches a 10.244.2.2
  ctl a peer show dev gnv0
  say "b's lease has ended"
  flanneld a SubnetRemoveCommand 10.244.2.0/24 10.77.0.2
  misses pod-a 10.244.2.2
  [ "$(ctl a -j peer show dev gnv0 | grep -c 10.77.0.2)" = 0 ] || fail "a still has the peer"
}
lab "$@"
