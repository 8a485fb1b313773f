#!/usr/bin/env bash
# Three hosts that know nobody find each other through etcd (examples/etcd/watch.sh). Nothing
# is flooded: each knows all stations, and answers ARP for them itself.
#
#     a  gnv0 192.0.2.1      b  gnv0 192.0.2.2      c  gnv0 192.0.2.3      store
#        eth0 10.77.0.1         eth0 10.77.0.2         eth0 10.77.0.3      eth0 10.77.0.4
#        watch.sh               watch.sh               watch.sh            etcd
#          |                      |                      |                   |
#     =================================== a switch ===================================
#
# usage: etcd.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

store() { bg store etcd --data-dir "$state/etcd" --listen-client-urls http://10.77.0.4:2379 --advertise-client-urls http://10.77.0.4:2379 --listen-peer-urls http://127.0.0.1:2380; }
watch() { # HOST NUMBER
  bg "$1" env ETCDCTL_API=3 ETCDCTL_ENDPOINTS=10.77.0.4:2379 TTL=3 GVTEP="gvtep -i $lab-$1" \
    "$here/../../examples/etcd/watch.sh" /overlay/100 "10.77.0.$2" gnv0 "02:00:00:00:00:0$2,192.0.2.$2"
}
up() {
  local n=0 h
  hosts a b c store
  lan a b c store
  store
  for h in a b c; do
    n=$((n + 1))
    gv $h gnv0 --id 100 --local "10.77.0.$n" --remote none --address "192.0.2.$n/24" --lladdr "02:00:00:00:00:0$n" \
      --flood off --bcast_flood off --mcast_flood off --neigh_suppress on
    watch $h $n
  done
}
knows() { within "$1" "[ \$(gvtep -i $lab-$2 fdb show dev gnv0 | grep -c '^02:00:00:00:00:0[123] ') = $3 ]" || { ctl "$2" fdb show dev gnv0; fail "$2 does not know $3 stations"; }; }
check() {
  say "each learns of the two others"
  for h in a b c; do knows 30 $h 2; done
  ctl a -d fdb show dev gnv0
  for x in "a 192.0.2.2" "b 192.0.2.3" "c 192.0.2.1"; do
    # shellcheck disable=SC2086 # words they are
    reaches $x
  done
  say "c is gone: its key goes with the lease, and the others forget it"
  mapfile -t pids < <(ip netns pids "gvtep-$lab-c")
  kill -9 "${pids[@]}"
  knows 30 a 1
  say "etcd is gone: what is known stays"
  mapfile -t pids < <(ip netns pids "gvtep-$lab-store")
  kill -9 "${pids[@]}"
  reaches a 192.0.2.2
  say "etcd is back: all goes on"
  store
  knows 30 b 1
  reaches b 192.0.2.1
}
lab "$@"
