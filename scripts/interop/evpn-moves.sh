# shellcheck shell=bash disable=SC2154 # $lab and others are evpn.sh's
# Sourced by evpn.sh after evpn-fabric.sh: stations that nobody has heard, that move, that age.
echo "# stations: suppression, moves, ageing"
answered() { gvtep -i "$lab-$1" -j tunnel show gnv0 | grep -o '"neigh_answered":[0-9]*' | cut -d: -f2; }
reaches ha 10.1.0.1 # so that it says ARP and ND to nobody but itself
mac() { evpn "$1" -j show mac vni 100 | grep -o "\"02:00:00:00:01:0$2\":{[^}]*}"; }
until_ok 10 "gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:01.*10.1.0.1.*fd10::1'"
check "c knows the addresses of the station behind a" "$(mac c 1)" '*"type":"remote","remoteVtep":"10.88.0.1"*"10.1.0.1"*"fd10::1"*'
ip -n "$lab-hc" neigh flush all
before=$(answered c)
check "ARP and ND for a station elsewhere, answered" "$(pings "$lab-hc" 10.1.0.1), $(pings "$lab-hc" fd10::1)" "$all, $all"
check "by gvtep itself" "$(($(answered c) - before)) answered" "[1-9]* answered"

legs a b
station a
reaches hc 10.1.0.77
until_ok 10 "gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:77.*10.88.0.1 '"
pinging hc 10.1.0.77 6
station b
check "pings to a station that moves from a to b" "$(lost)" "[0-9] of 60 lost"
until_ok 10 "gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:77.*10.88.0.2 '"
check "c has it behind b, with the sequence number of the move" "$(evpn c -j show mac vni 100 | grep -o '"02:00:00:00:01:77":{[^}]*}')" '*"remoteVtep":"10.88.0.2"*"remoteSequence":1*'
check "FRR shows the sequence number, too" "$(show 'show bgp l2vpn evpn' | grep -A2 '02:00:00:00:01:77\]$' | grep -o 'MM:[0-9]*' | head -n 1)" "MM:1"
until_ok 10 "! gvtep-evpn -i $lab-a show mac | grep '02:00:00:00:01:77 *local'"
check "a has withdrawn it" "$(evpn a show mac | grep '02:00:00:00:01:77')" "*remote*10.88.0.2*"
station a
until_ok 10 "gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:77.*10.88.0.1 '"
check "back, one more" "$(evpn c -j show mac vni 100 | grep -o '"02:00:00:00:01:77":{[^}]*}')" '*"remoteVtep":"10.88.0.1"*"remoteSequence":2*'
for n in b a; do # the third and the fourth move; the fifth one freezes it
  station $n
  until_ok 10 "gvtep-evpn -i $lab-$n show mac | grep '02:00:00:00:01:77 *local'"
done
station b
until_ok 10 "gvtep-evpn -i $lab-b show mac | grep '02:00:00:00:01:77.*duplicate' || gvtep-evpn -i $lab-a show mac | grep '02:00:00:00:01:77.*duplicate'"
check "the fifth move in 180 s makes it a duplicate" "$({ evpn a show mac; evpn b show mac; } | grep -c '02:00:00:00:01:77.*duplicate')" "[12]"
# What one says then is the fifth move at the other, which is cleared, too.
until_ok 10 "gvtep-evpn -i $lab-a clear 02:00:00:00:01:77; gvtep-evpn -i $lab-b clear 02:00:00:00:01:77; sleep 0.3; ! { gvtep-evpn -i $lab-a show mac; gvtep-evpn -i $lab-b show mac; } | grep duplicate"
check "until somebody clears it" "$({ evpn a show mac; evpn b show mac; } | grep -c duplicate)" 0

legs_gone
until_ok 10 "! gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:77'"
check "what the bridge forgets is withdrawn" "$(evpn c show mac | grep -c 02:00:00:00:01:77), $(gvtep -i "$lab-c" fdb show dev gnv0 | grep -c 02:00:00:00:01:77)" "0, 0"
in_ns a ip link set br0 type bridge ageing_time 100 # a second
until_ok 20 "! gvtep-evpn -i $lab-c show mac | grep '02:00:00:00:01:01'"
check "a station that is silent ages, and is withdrawn" "$(evpn c show mac | grep -c 02:00:00:00:01:01)" 0
in_ns a ip link set br0 type bridge ageing_time 30000
check "and is reached again" "$(reaches hc 10.1.0.1 && echo yes)" yes
