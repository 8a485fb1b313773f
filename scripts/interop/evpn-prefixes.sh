# shellcheck shell=bash disable=SC2154
# Sourced by evpn.sh after evpn-fabric.sh: networks of both families behind the VTEPs, by routes of type 5.
echo "# networks: a tunnel of mode l3 beside the other"
for x in "a 1" "b 2" "c 3"; do
  n=${x% *} i=${x#* } ns=$lab-${x% *}
  gvtep -i "$ns" tunnel add gnv5 id 3000 mode l3 local "10.88.0.$i" remote none || die "no gnv5 in $n"
  ip -n "$ns" addr add "172.20.$i.1/24" dev lo
  ip -n "$ns" addr add "fd20:$i::1/64" dev lo nodad
  ip -n "$ns" link set gnv5 up
  # gvtep adds no routes to the kernel: this one is for all networks of the others.
  ip -n "$ns" route add 172.20.0.0/16 dev gnv5 src "172.20.$i.1"
  ip -n "$ns" route add fd20::/16 dev gnv5 src "fd20:$i::1"
done
networks() { # networks NAME: those that it has behind others
  gvtep -i "$lab-$1" -j peer show dev gnv5 | grep -o '"routes":\[[^]]*\]' | grep -o '"[0-9a-f:.]*/[0-9]*"' | tr -d '"' | sort | xargs
}
until_ok 20 "[ \$(gvtep -i $lab-a -j peer show dev gnv5 | grep -o '/[62]4\"' | wc -l) = 4 ]"
check "a has the networks of the others" "$(networks a)" "172.20.2.0/24 172.20.3.0/24 fd20:2::/64 fd20:3::/64"
prefixes=$(show "show bgp l2vpn evpn route type prefix")
check "FRR has them as interface-less routes of GENEVE" "$(grep -c '\*>i *\[5\]:\[0\]:\[24\]:\[172.20.[123].0\]\|\*>i *\[5\]:\[0\]:\[64\]:\[fd20:[123]::\]' <<<"$prefixes"), $(grep -o 'RT:65000:3000 ET:19' <<<"$prefixes" | sort | uniq -c | xargs)" "6, 6 RT:65000:3000 ET:19"
sum=""
for from in "a 1" "b 2" "c 3"; do
  for to in 1 2 3; do
    [ "${from#* }" != $to ] || continue
    reaches "${from% *}" "172.20.$to.1" && reaches "${from% *}" "fd20:$to::1" && sum+=.
  done
done
check "all pairs ping between them, IPv4 and IPv6" "${#sum} of 6" "6 of 6"
check "no ping is lost" "$(pings "$lab-a" 172.20.3.1), $(pings "$lab-a" fd20:3::1)" "$all, $all"
check "the agent tells of them" "$(evpn a show routes vni 3000 type prefix | grep -c 'in gnv5'), $(evpn a -j status | grep -o '"vni":3000,[^}]*' | grep -o '"mode":"l3".*"networks":4')" '4, "mode":"l3"*"networks":4'
gvtep -i "$lab-c" tunnel del gnv5
until_ok 20 "! gvtep -i $lab-a peer show dev gnv5 | grep 10.88.0.3"
check "networks of a tunnel that is deleted are gone" "$(networks a)" "172.20.2.0/24 fd20:2::/64"
for n in a b; do gvtep -i "$lab-$n" tunnel del gnv5; done
