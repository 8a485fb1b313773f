# shellcheck shell=bash disable=SC2154
# Sourced by evpn.sh after evpn-fabric.sh: whatever ends, frames flow.
echo "# whatever ends, frames flow"
pinging ha 10.1.0.2 8
sleep 0.5 # some before
stop evpn-b KILL
agent b 2
until_ok 10 "gvtep-evpn -i $lab-b status | grep established"
check "kill -9 of an agent, FRR without graceful restart for EVPN" "$(lost)" "0 of 80 lost"
pinging ha 10.1.0.2 8
stop rr KILL
reflector frr
until_ok 10 "gvtep-evpn -i $lab-b status | grep established"
check "kill -9 of FRR" "$(lost)" "0 of 80 lost"
stop gvtep-b KILL
vtep b 2
check "kill -9 of gvtep: its entries are there again" "$(until_ok 20 "gvtep -i $lab-b fdb show dev gnv0 | grep '02:00:00:00:01:01 dst 10.88.0.1'" && reaches hb 10.1.0.1 && echo yes)" yes
for n in a b c; do stop evpn-$n; done
reflector gobgp KILL
agent a 1 && agent b 2 && agent c 3
check "gobgpd reflects" "$(until_ok 20 "gvtep-evpn -i $lab-c status | grep established" && pairs)" "6 of 6"
pinging ha 10.1.0.2 8
stop evpn-b KILL
agent b 2
until_ok 10 "gvtep-evpn -i $lab-b status | grep established"
check "kill -9 of an agent, gobgpd keeps its routes" "$(lost)" "0 of 80 lost"
stop evpn-b INT
until_ok 15 "! gvtep -i $lab-a fdb show dev gnv0 | grep 'dst 10.88.0.2'"
check "an agent that leaves for good is gone" "$(gvtep -i "$lab-a" fdb show dev gnv0 | grep -c 'dst 10.88.0.2'), $(gvtep -i "$lab-b" fdb show dev gnv0 | grep -c dst)" "0, 0"
agent b 2
