#!/usr/bin/env bash
# GENEVE over ESP in transport mode; guest.sh runs this in its machine.
#
#      namespace k                                namespace g
#    +-----------------------+                  +-----------------------+
#    | gnv0   192.0.2.1/24   |. . . VNI 42  . . | gnv0   192.0.2.2/24   |
#    | veth0  10.77.0.1/24   |=== ESP(6081) ====| veth0  10.77.0.2/24   |
#    +-----------------------+                  +-----------------------+
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=scripts/interop/checks.sh
. ./checks.sh
modprobe -a esp4 xfrm_user nf_tables nft_ct nft_counter nf_tables_netdev 2>/dev/null
ip netns add k
ip netns add g
ip -n k link add veth0 type veth peer name veth0 netns g
for x in "k 1 2" "g 2 1"; do
  read -r ns n m <<<"$x"
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add "10.77.0.$n/24" dev veth0
  ip -n "$ns" link set veth0 up
  ip netns exec "$ns" gvtep -i "$ns" run gnv0 --id 42 --local "10.77.0.$n" --remote "10.77.0.$m" --address "192.0.2.$n/24" >>/tmp/log 2>&1 &
  gvtep -i "$ns" wait gnv0 --for ready --timeout 20s
done
# What comes to port 6081 without having been ESP is counted, and, with "rules", dropped.
for ns in k g; do
  ip netns exec "$ns" nft -f - <<'END'
table inet gvtep {
  counter clear { }
  chain input {
    type filter hook input priority filter
    udp dport 6081 meta ipsec missing counter name clear drop
  }
}
END
done
clear() { for ns in k g; do ip netns exec $ns nft list counter inet gvtep clear; done | awk '/packets/ { n += $2 } END { print n }'; }
# keys SPI HARD-LIMIT: for both directions, on both sides, in place of those before.
keys() {
  local ns ends
  for ns in k g; do
    ip -n $ns xfrm state flush
    for ends in "src 10.77.0.1 dst 10.77.0.2" "src 10.77.0.2 dst 10.77.0.1"; do
      # shellcheck disable=SC2086 # words they are
      ip -n $ns xfrm state add $ends proto esp spi "$1" mode transport aead 'rfc4106(gcm(aes))' "0x$(printf '%040d' "$1")" 128 limit time-hard "$2" || return
    done
  done
}
echo "# IPsec, ESP in transport mode"
check "without keys, but with the rule for it: nothing in" "$(pings k 192.0.2.2)" "$none"
check "such packets are dropped by the firewall" "$(clear)" "[1-9]*"
for x in "k 1 2" "g 2 1"; do
  read -r ns n m <<<"$x"
  ip -n "$ns" xfrm policy add src "10.77.0.$n" dst "10.77.0.$m" proto 17 dport 6081 dir out tmpl proto esp mode transport
  ip -n "$ns" xfrm policy add src "10.77.0.$m" dst "10.77.0.$n" proto 17 dport 6081 dir in tmpl proto esp mode transport
done
keys 1000 600
check "keys" "exit $?" "exit 0"
before=$(clear)
until_ok 30 "ip netns exec k ping -c 1 -W 1 192.0.2.2"
check "ping" "$(pings k 192.0.2.2)" "$all"
until_ok 60 "gvtep -i k -j show | grep -q '\"path_mtu\": *14'"
mtu=$(gvtep -i k -j show | sed -n 's/.*"path_mtu": *\([0-9]*\).*/\1/p' | head -n 1)
check "the path MTU is right by itself" "$mtu" "14[0-9][0-9]"
check "MTU of the device" "$(cat /proc/self/mounts >/dev/null; ip netns exec k cat /sys/class/net/gnv0/mtu)" "$((mtu - 50))"
check "a packet as long as that" "$(pings k 192.0.2.2 -M "do" -s $((mtu - 78)))" "$all"
check "TCP" "$(transfer k g 192.0.2.2 500000)" same
check "TCP back" "$(transfer g k 192.0.2.1 500000)" same
check "ESP is what was on the wire" "$(ip -n k -s xfrm state | sed -n 's/.*(bytes), \([0-9]*\)(packets).*/\1/p' | sort -n | tail -n 1) packets" "[1-9][0-9]* packets"
check "nothing in the clear" "$(($(clear) - before))" 0
keys 1001 2
sleep 4
check "keys that have expired: nothing out" "$(pings k 192.0.2.2)" "$none"
check "keys that have expired: nothing in the clear" "$(($(clear) - before))" 0
keys 1002 600
until_ok 30 "ip netns exec k ping -c 1 -W 1 192.0.2.2"
check "new keys: it goes on" "$(pings k 192.0.2.2)" "$all"
ended
