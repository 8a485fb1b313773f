# shellcheck shell=bash disable=SC2154,SC2034
# Sourced by evpn.sh: IPv6 underneath.
echo "# IPv6 underlay, gobgpd reflects what it is asked for, two neighbours of which one is not there"
for x in "a 1" "b 2" "c 3"; do
  n=${x% *}
  stop "evpn-$n" INT
  stop "gvtep-$n"
done
reflector gobgp # bgpd without zebra knows no interfaces, and resets sessions of IPv6
family6=1
for x in "a 1" "b 2" "c 3"; do
  n=${x% *}
  vtep "$n" "${x#* }"
  agent "$n" "${x#* }" 'rt-constraint = true'
done
check "all pairs ping" "$(pairs)" "6 of 6"
check "gobgpd was asked for two targets by each" "$(in_ns rr gobgp global rib -a rtc | grep -c '65000:100$\|65000:100 \|65000:268435556')" "[2-6]"
check "flood list of a" "$(gvtep -i "$lab-a" fdb show dev gnv0 | grep '^00:00' | sort | tr '\n' ' ')" "* dst fd88::2 * dst fd88::3 *"
