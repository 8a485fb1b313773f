# shellcheck shell=bash disable=SC2154
# Sourced by evpn.sh: three VTEPs that know nobody, and FRR's bgpd.
echo "# FRR $(bgpd -v | sed -n '1s/.*version \([0-9.]*\).*/\1/p') reflects, three VTEPs without a static peer"
reflector frr
for x in "a 1" "b 2" "c 3"; do
  # shellcheck disable=SC2086 # a name and a number
  vtep $x && agent $x
done
check "all pairs ping, IPv4 and IPv6" "$(pairs)" "6 of 6"
check "flood list of a" "$(gvtep -i "$lab-a" fdb show dev gnv0 | grep '^00:00' | sort | tr '\n' ' ')" "* dst 10.88.0.2 * dst 10.88.0.3 *"
json=$(show "show bgp l2vpn evpn json")
check "FRR shows ET:19" "$(grep -c '"ET:19\|ET:19' <<<"$json")" "[1-9]*"
route=$(show "show bgp l2vpn evpn route detail" | grep -A12 '^BGP routing table entry for 10.88.0.1:100:\[3\]')
check "the PMSI is ingress replication with the VNI as its label" "$(grep -o 'PMSI Tunnel Type: .*' <<<"$route" | head -n 1)" "PMSI Tunnel Type: Ingress Replication, label: 100"
