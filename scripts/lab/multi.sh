#!/usr/bin/env bash
# Three hosts in one segment, each a peer of the others by its unicast address.
#
#     a  gnv0 192.0.2.1      b  gnv0 192.0.2.2      c  gnv0 192.0.2.3
#        eth0 10.77.0.1         eth0 10.77.0.2         eth0 10.77.0.3
#          |                      |                      |
#     ====================== a switch =======================
#
# The kernel's counterpart (leftasexercise lab 10 without multicast):
#     ip link add gnv0 type vxlan id 100 dstport 4789 local 10.77.0.1
#     bridge fdb append 00:00:00:00:00:00 dev gnv0 dst 10.77.0.2      # and so for each other host
#
# usage: multi.sh up | test | down | demo
# shellcheck source=scripts/lab/lab.sh
. "$(dirname "$0")/lab.sh"

up() {
  hosts a b c
  lan a b c
  gv a gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.2 --remote 10.77.0.3 --address 192.0.2.1/24
  gv b gnv0 --id 100 --local 10.77.0.2 --remote 10.77.0.1 --remote 10.77.0.3 --address 192.0.2.2/24
  gv c gnv0 --id 100 --local 10.77.0.3 --remote 10.77.0.1 --remote 10.77.0.2 --address 192.0.2.3/24
}
check() {
  for x in "a 192.0.2.2" "b 192.0.2.3" "c 192.0.2.1"; do
    # shellcheck disable=SC2086 # words they are
    reaches $x
  done
  say "what a knows: two flood entries, and behind whom each address is"
  ctl a fdb show dev gnv0 | tee "$state/fdb"
  [ "$(grep -c '^00:00:00:00:00:00 dst ' "$state/fdb")" = 2 ] || fail "a does not flood to two peers"
  for n in 2 3; do grep -q "^..:..:..:..:..:.. dst 10.77.0.$n self$" "$state/fdb" || fail "a has learned nothing behind 10.77.0.$n"; done
}
lab "$@"
