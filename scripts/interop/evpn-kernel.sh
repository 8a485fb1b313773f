# shellcheck shell=bash disable=SC2154
# Sourced by evpn.sh after evpn-encap.sh, when all have encap vxlan: FRR and the kernel's VXLAN as another VTEP.
echo "# FRR $(zebra -v | sed -n '1s/.*version \([0-9.]*\).*/\1/p') and the kernel's VXLAN as the other VTEP"
{ host 4 f && kernel_vtep; } || die "no FRR with a kernel VTEP"
until_ok 30 "ip netns exec $lab-hf ping -n -c 1 -W 0.5 10.1.0.1"
check "pings both ways, IPv4 and IPv6" "$(pings "$lab-hf" 10.1.0.1), $(pings "$lab-ha" 10.1.0.4), $(pings "$lab-hf" fd10::1), $(pings "$lab-ha" fd10::4)" "$all, $all, $all, $all"
check "TCP from the kernel's" "$(transfer "$lab-hf" "$lab-ha" 10.1.0.1 5000000)" same
check "TCP to the kernel's" "$(transfer "$lab-ha" "$lab-hf" 10.1.0.4 5000000)" same
until_ok 10 "vtysh --vty_socket $work/f -d zebra -c 'show evpn mac vni 100' | grep -i '02:00:00:00:01:01 *remote'"
check "FRR has the station behind a, and a the one behind FRR" "$(in_frr zebra 'show evpn mac vni 100' | grep -i '02:00:00:00:01:01' | xargs), $(evpn a show mac | grep '02:00:00:00:01:04' | xargs)" "*remote*10.88.0.1*, *remote*10.88.0.4*"
legs c f
station c
until_ok 10 "gvtep-evpn -i $lab-a show mac | grep '02:00:00:00:01:77.*10.88.0.3 '"
station f
until_ok 10 "gvtep-evpn -i $lab-a show mac | grep '02:00:00:00:01:77.*10.88.0.4 '"
check "a station moves from gvtep to the kernel" "$(evpn a -j show mac vni 100 | grep -o '"02:00:00:00:01:77":{[^}]*}')" '*"remoteVtep":"10.88.0.4"*"remoteSequence":1*'
check "and is reached" "$(pings "$lab-ha" 10.1.0.77)" "$all"
station c
until_ok 10 "vtysh --vty_socket $work/f -d zebra -c 'show evpn mac vni 100 mac 02:00:00:00:01:77' | grep 'Remote VTEP: 10.88.0.3'"
check "and back, as FRR has it" "$(in_frr zebra 'show evpn mac vni 100 mac 02:00:00:00:01:77' | grep -o 'Remote VTEP: [0-9.]*\|Remote Seq: [0-9]*' | xargs)" "*Remote VTEP: 10.88.0.3*Remote Seq: 2*"
check "and is reached from behind FRR" "$(pings "$lab-hf" 10.1.0.77)" "$all"
legs_gone
stop bgpd
stop zebra
