# shellcheck shell=bash disable=SC2154
# Sourced by evpn.sh after evpn-fabric.sh: routes of another encapsulation, and VXLAN.
echo "# encapsulations"
stop evpn-c INT
stop gvtep-c
vtep c 3 --encap vxlan
agent c 3
until_ok 20 "gvtep-evpn -i $lab-a -j show routes type imet | grep '10.88.0.3.*refused'"
check "a route of another encapsulation is counted" "$(evpn a metrics | grep 'refused_routes{reason="encap"}')" "* [1-9]*"
check "and not installed" "$(gvtep -i "$lab-a" fdb show dev gnv0 | grep -c 'dst 10.88.0.3')" 0
for x in "a 1" "b 2"; do
  stop "evpn-${x% *}" INT
  stop "gvtep-${x% *}"
  # shellcheck disable=SC2086 # a name and a number
  vtep $x --encap vxlan && agent $x
done
check "with encap vxlan all pairs ping" "$(pairs)" "6 of 6"
check "and the routes say so" "$(evpn a -j show routes type imet | grep -o '"encap":"[a-z]*"' | sort -u)" '"encap":"vxlan"'
