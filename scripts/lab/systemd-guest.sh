#!/usr/bin/env bash
# What systemd.sh runs in its virtual machine, as root: one line for each check,
# "ok NAME: what was seen" or "FAILED ...", and "end: N checks, M failed" at last.
set -uo pipefail
cd "$(dirname "$0")" || exit
near=10.99.0.1 far=10.99.0.2 near6=fd99::1 far6=fd99::2 # inside the tunnel
checks=0 failed=0

note() { printf '   %s\n' "$*"; }
check() { # check NAME SEEN WANTED, a pattern of case
  checks=$((checks + 1))
  # shellcheck disable=SC2254 # a pattern it is
  case $2 in
  $3) printf 'ok %s: %s\n' "$1" "$2" ;;
  *)
    failed=$((failed + 1))
    printf 'FAILED %s: %s, not %s\n' "$1" "${2:-nothing}" "$3" ;;
  esac
}
finish() {
  [ $failed = 0 ] || journalctl -q --no-pager -n 100 -o short-monotonic -u 'gvtep@*' | sed 's/^/   | /'
  echo "end: $checks checks, $failed failed"
  stty -echo # which waits until the serial line has taken all of it
  exit
}
# until_ok SECONDS COMMAND: as often as it takes; how long it took, or nothing.
until_ok() {
  local limit=$1 start=$EPOCHREALTIME
  shift
  timeout "$limit" bash -c "until $*; do sleep 0.1; done" >/dev/null 2>&1 || return 1
  awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "after %.1f s\n", b - a }'
}
status() { timeout -k 5 120 "$@" >/tmp/out 2>&1; local s=$?; [ $s != 124 ] || systemctl list-jobs; [ $s = 0 ] || sed 's/^/   | /' /tmp/out >&2; echo $s; } # exit status, and why

unit() { systemctl show -P "$1" gvtep@demo; }
pid() { unit MainPID; }
device() { cat /sys/class/net/gnv0/{ifindex,address} 2>/dev/null | xargs; }
sockets() { awk '$2 ~ /:17C1$/ { print $10 }' /proc/net/udp | sort -n | xargs; } # inodes of those on port 6081
field() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$2/status" | xargs; }
# pings COUNT: 500 a second, in the background, their summary in /tmp/pings. An
# emulated machine on a busy host does not reach that; ping is late then.
pings() {
  ping -q -n -i 0.002 -c "$1" -W 10 $far >/tmp/pings 2>&1 &
  pinger=$!
  sleep 2
}
loss() { sed -n 's/^\([0-9]* packets.*loss\).*/\1/p'; }
# same COUNT WHAT COMMAND: while COUNT pings cross, COMMAND leaves device and sockets what they are.
same() {
  local count=$1 what=$2 was_device was_sockets
  shift 2
  was_device=$(device) was_sockets=$(sockets)
  pings "$count"
  check "$what" "exit $(status "$@")" "exit 0"
  wait "$pinger"
  check "$what, pings asked for at 500/s" "$(loss </tmp/pings)" "$count packets transmitted, $count received, 0% packet loss"
  check "$what, ifindex and MAC" "$(device)" "${was_device:-some}"
  check "$what, inodes of sockets" "$(sockets)" "${was_sockets:-some}"
  note "$(sed -n 's/.*time \([0-9]*\)ms$/\1/p' /tmp/pings | awk -v n="$count" '{ printf "%.0f pings/s were reached", n * 1000 / $1 }'), $(grep ^rtt /tmp/pings)"
}

echo "# $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release), Linux $(uname -r), $(systemctl --version | head -n 1), $(nproc) CPUs"
ip netns add far
ip link add veth0 type veth peer name veth0 netns far
ip addr add 10.77.0.1/24 dev veth0
ip link set veth0 up
ip -n far addr add 10.77.0.2/24 dev veth0
ip -n far link set veth0 up
ip -n far link set lo up

echo "# installing"
check "install" "exit $(status dpkg -i gvtep_0.0.1*.deb)" "exit 0"
check "version" "$(gvtep version)" "gvtep v0.0.1 *"
check "user" "$(getent passwd gvtep)" "gvtep:x:*nologin"
check "/etc/gvtep" "$(stat -c '%a %U:%G' /etc/gvtep /etc/gvtep/example.toml | xargs)" "755 root:root 640 root:gvtep"
check "files as packaged" "exit $(status dpkg --verify gvtep)" "exit 0"
check "nothing enabled" "$(systemctl is-enabled gvtep@demo)" "disabled"

config() { # config LOCAL REMOTE ADDRESS ADDRESS [LINE]
  printf '%s\n' '[socket]' 'workers = 2' '[[tunnel]]' 'name = "gnv0"' 'id = 100' \
    "local = \"$1\"" "remote = \"$2\"" "address = [\"$3/24\", \"$4/64\"]" "${5:-}"
}
config 10.77.0.1 10.77.0.2 $near $near6 | install -m 0640 -g gvtep /dev/stdin /etc/gvtep/demo.toml
config 10.77.0.2 10.77.0.1 $far $far6 | install -m 0640 -g gvtep /dev/stdin /etc/gvtep/far.toml
mkdir -p /etc/systemd/system/gvtep@far.service.d
printf '[Service]\nNetworkNamespacePath=/run/netns/far\n' >/etc/systemd/system/gvtep@far.service.d/here.conf
systemctl daemon-reload

metrics() { gvtep -i "$1" metrics >"/tmp/metrics-$1-$2" || : >"/tmp/metrics-$1-$2"; } # metrics INSTANCE WHEN
metric() { awk -v name="$3" '$1 == name { print $2 }' "/tmp/metrics-$1-$2"; } # metric INSTANCE WHEN NAME{LABELS}
# calls INSTANCE PATH: whether a system call carried more than one datagram's worth, from before to after.
calls() {
  awk -v name="gvtep_io_batch_packets_" -v path="{path=\"$2\"}" '
    FNR == 1 { file++ }
    $1 == name "sum" path { packets[file] = $2 }
    $1 == name "count" path { calls[file] = $2 }
    END {
      p = packets[2] - packets[1]; c = calls[2] - calls[1]
      printf "%s in a call: %.1f on average, %d packets\n", (c > 0 && p >= 2 * c) ? "several" : "single", c ? p / c : 0, p
    }' "/tmp/metrics-$1-before" "/tmp/metrics-$1-after"
}
# carry FROM TO FAMILY ADDRESS: a file by TCP from one instance to the address of
# the other. The kernel hands over and takes super-frames, which are cut and joined.
carry() {
  local what="IPv$3 from $1 to $2" i path receiver
  local -A net=([demo]=/proc/1/ns/net [far]=/run/netns/far)
  for i in "$1" "$2"; do metrics "$i" before; done
  rm -f /tmp/carried
  nsenter "--net=${net[$2]}" timeout 150 socat -u "TCP$3-LISTEN:7000,reuseaddr" CREATE:/tmp/carried &
  receiver=$!
  check "$what: send" "exit $(status nsenter "--net=${net[$1]}" socat -u OPEN:/tmp/carry "TCP$3:$4:7000,retry=300,interval=0.1")" "exit 0"
  wait "$receiver"
  for i in "$1" "$2"; do metrics "$i" after; done
  check "$what: 20 MB, arrived as sent" "$(stat -c %s /tmp/carried) $(sha256sum </tmp/carried)" "20000000 $(sha256sum </tmp/carry)"
  for path in tap_receive udp_transmit; do check "$what: $path of $1" "$(calls "$1" $path)" "several *"; done
  for path in udp_receive tap_transmit; do check "$what: $path of $2" "$(calls "$2" $path)" "several *"; done
}

echo "# starting"
check "check" "exit $(status gvtep check /etc/gvtep/demo.toml)" "exit 0"
check "enable --now" "exit $(status systemctl enable --now gvtep@demo gvtep@far)" "exit 0"
check "active" "$(systemctl is-active gvtep@demo gvtep@far | xargs)" "active active"
check "ready as soon as started" "exit $(status gvtep -i demo status)" "exit 0"
[ $failed = 0 ] || finish # the rest would say the same, slowly
check "ping" "$(ping -q -n -i 0.2 -c 10 -W 10 $far | loss)" "10 packets transmitted, 10 received, 0% packet loss"
note "status: $(unit StatusText)"
check "fields in the journal" "$(journalctl -q -o cat -u gvtep@demo GVTEP_DEVICE=gnv0 GVTEP_VNI=100 | head -n 1)" "?*"

echo "# carrying"
head -c 20000000 /dev/urandom >/tmp/carry
carry demo far 4 $far
carry far demo 4 $near
carry demo far 6 "[$far6]"
carry far demo 6 "[$near6]"
# Linux has USO for these devices since 6.2 and refuses the whole set if asked before.
uso=0 names='"vnet_hdr","csum","tso4","tso6"'
case $(uname -r) in [1-5].* | 6.[01].*) ;; *) uso=1 names+=',"uso"' ;; esac
for i in demo far; do
  check "$i: offloads of the device" "$(gvtep -i $i -j show | grep -o '"offload":\[[^]]*\]')" "\"offload\":\[$names\]"
  for o in tap_vnet_hdr:1 tap_tso:1 tap_uso:$uso udp_gso:1 udp_gro:1; do
    check "$i: in use, ${o%:*}" "$(metric $i after "gvtep_offload_enabled{offload=\"${o%:*}\"}")" "${o#*:}"
  done
  check "$i: bad_offload" "$(awk '/^gvtep_dropped_packets_total.*reason="bad_offload"/ { n += $NF } END { print n + 0 }' "/tmp/metrics-$i-after")" "0"
done
rm -f /tmp/carry /tmp/carried

echo "# what it may"
uid=$(id -u gvtep) main=$(pid)
check "user of the process" "$(field Uid "$main")" "$uid $uid $uid $uid"
check "groups" "$(field Gid "$main") and $(field Groups "$main")" "$(id -g gvtep) * and *$(id -g gvtep)"
for set in CapEff CapPrm CapBnd; do check "$set" "$(field $set "$main")" "0000000000001000"; done # CAP_NET_ADMIN
check "no new privileges" "$(field NoNewPrivs "$main")" "1"
modes=$(cat "/proc/$main/task/"*/status | grep -c '^Seccomp:.2$')
check "threads under the call filter" "$modes of $(find "/proc/$main/task" -mindepth 1 -maxdepth 1 | wc -l)" "$modes of $modes"
# And that this filter forbids something: a call of debuggers that anyone may use
# on oneself, made by another program under the same unit.
mkdir -p /etc/systemd/system/gvtep@filter.service.d
printf '[Service]\nType=oneshot\nExecStart=\nExecStart=/test/trace self\n' >/etc/systemd/system/gvtep@filter.service.d/here.conf
systemctl daemon-reload
note "without the unit, pidfd_getfd: $(./trace self)"
check "pidfd_getfd under the unit: start" "exit $(status systemctl start gvtep@filter)" "exit 0"
check "pidfd_getfd under the unit" "$(journalctl -q -o cat -u gvtep@filter | grep -xE 'allowed|operation not permitted')" "operation not permitted"
rm -r /etc/systemd/system/gvtep@filter.service.d
systemctl daemon-reload

echo "# IPsec"
# esp IP-COMMAND NEAR FAR: ESP in transport mode between two addresses.
esp() {
  local ip=$1 near=$2 far=$3 ends
  for ends in "src $near dst $far" "src $far dst $near"; do
    # shellcheck disable=SC2086 # words they are
    $ip xfrm state add $ends proto esp spi 1 mode transport \
      auth 'hmac(sha256)' "0x$(printf '%064d' 1)" enc 'cbc(aes)' "0x$(printf '%032d' 2)" || return
  done
  $ip xfrm policy add src "$near" dst "$far" dir out tmpl proto esp mode transport &&
    $ip xfrm policy add src "$far" dst "$near" dir in tmpl proto esp mode transport
}
path_mtu() { gvtep -i demo -j show | sed -n 's/.*"path_mtu": *\([0-9]*\).*/\1/p' | head -n 1; }
esp "ip" 10.77.0.1 10.77.0.2 && esp "ip -n far" 10.77.0.2 10.77.0.1
check "ESP in transport mode" "exit $?" "exit 0"
check "ESP: ping of 1400 bytes" "$(until_ok 30 "ping -n -c 1 -W 1 -s 1372 $far")" "after *"
check "ESP: ping of 1400 bytes, again" "$(ping -q -n -c 10 -i 0.2 -W 5 -s 1372 $far | loss)" "10 packets transmitted, 10 received, 0% packet loss"
head -c 2000000 /dev/urandom >/tmp/less
rm -f /tmp/carried
ip netns exec far timeout 150 socat -u TCP4-LISTEN:7001,reuseaddr CREATE:/tmp/carried &
receiver=$!
check "ESP: send" "exit $(status socat -u OPEN:/tmp/less "TCP4:$far:7001,retry=300,interval=0.1")" "exit 0"
wait "$receiver"
check "ESP: 2 MB by TCP" "$(stat -c %s /tmp/carried) $(sha256sum </tmp/carried)" "2000000 $(sha256sum </tmp/less)"
check "ESP is what was on the wire" "$(ip -s xfrm state | sed -n 's/.*(bytes), \([0-9]*\)(packets).*/\1/p' | sort -n | tail -n 1) packets" "[1-9][0-9][0-9]* packets"
check "ESP: path MTU" "$(path_mtu)" "14[0-9][0-9]"
for ip in "ip" "ip -n far"; do $ip xfrm policy flush && $ip xfrm state flush; done
check "without ESP: path MTU" "$(export -f path_mtu; until_ok 60 "[ \"\$(path_mtu)\" = 1500 ]")" "after *"
check "without ESP: ping of 1450 bytes" "$(until_ok 30 "ping -n -c 1 -W 1 -s 1422 $far")" "after *"

echo "# a bridge that filters VLANs"
# The underlay is in VLAN 10 of the bridge whose VLAN 20 the tunnel carries on:
#
#   tenant 192.0.2.1 -- br0 (VLAN 20) -- gnv0          gnv0 -- br0 -- tenant 192.0.2.2
#         10.78.0.1 -- br0.10 -- br0 -- wan === VLAN 10 === wan -- br0 -- br0.10 10.78.0.2
ip netns add left && ip netns add right
ip -n left link add wan type veth peer name wan netns right
ends=()
vlans() { # vlans NAMESPACE NUMBER
  ip -n "$1" link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0 &&
    ip -n "$1" link set wan master br0 &&
    ip -n "$1" link add tenant type veth peer name port &&
    ip -n "$1" link set port master br0 &&
    bridge -n "$1" vlan add dev wan vid 10 &&
    bridge -n "$1" vlan add dev br0 vid 10 self &&
    bridge -n "$1" vlan add dev port vid 20 pvid untagged &&
    ip -n "$1" link add link br0 name br0.10 type vlan id 10 &&
    ip -n "$1" addr add "10.78.0.$2/24" dev br0.10 &&
    ip netns add "$1-tenant" && ip -n "$1" link set tenant netns "$1-tenant" &&
    ip -n "$1-tenant" addr add "192.0.2.$2/24" dev tenant && ip -n "$1-tenant" link set tenant up &&
    for dev in lo wan br0 br0.10 port; do ip -n "$1" link set "$dev" up || return; done || return
  ip netns exec "$1" gvtep -i "$1" run gnv0 --id 7 --local "10.78.0.$2" --remote "10.78.0.$((3 - $2))" >"/tmp/$1.log" 2>&1 &
  ends+=($!)
  until_ok 30 "ip -n $1 link show gnv0" >/tmp/out && ip -n "$1" link set gnv0 master br0 && bridge -n "$1" vlan add dev gnv0 vid 20 pvid untagged
}
vlans left 1
check "VLANs: one end" "exit $?" "exit 0"
vlans right 2
check "VLANs: other end" "exit $?" "exit 0"
check "VLANs: ping" "$(until_ok 60 "ip netns exec left-tenant ping -n -c 1 -W 1 192.0.2.2")" "after *"
check "VLANs: more pings" "$(ip netns exec left-tenant ping -q -n -c 20 -i 0.2 -W 5 192.0.2.2 | loss)" "20 packets transmitted, 20 received, 0% packet loss"
check "VLANs: ready" "$(until_ok 30 "gvtep -i left status && gvtep -i right status")" "after *"
check "VLANs: nothing was taken for a loop" "$(gvtep -i left metrics | awk '/^gvtep_dropped_packets_total.*(loop|reinjected)/ { n += $NF } END { print n + 0 }')" "0"
# The tunnel's VLAN is the underlay's: then the way to the peer may lead into the tunnel.
bridge -n left vlan add dev gnv0 vid 10
check "VLANs: one in common, ping" "$(until_ok 20 "ip netns exec left-tenant ping -n -c 1 -W 1 192.0.2.2")" "after *"
check "VLANs: one in common, and the uplink has the peer: still ready" "$(ip netns exec left-tenant ping -q -n -c 5 -i 0.2 -W 5 192.0.2.2 | loss)" "5 packets transmitted, 5 received, 0% packet loss"
kill "${ends[@]}"
wait "${ends[@]}"
check "VLANs: end" "exit $?" "exit 0"
for i in left right left-tenant right-tenant; do ip netns del "$i"; done

echo "# reloading"
config 10.77.0.1 10.77.0.2 $near $near6 'ttl = 9' >/etc/gvtep/demo.toml
same 1500 "reload" systemctl reload gvtep@demo
check "reload: the new setting" "$(gvtep -i demo diff)" "no change"
config 10.77.0.1 10.77.0.2 $near $near6 'ttl = 1000' >/etc/gvtep/demo.toml
check "reload of a faulty file" "exit $(status systemctl reload gvtep@demo)" "exit [1-9]*"
check "after it" "$(systemctl is-active gvtep@demo)" "active"
check "the fault is in the journal" "$(journalctl -q -o cat -u gvtep@demo | grep -m 1 -oE 'demo.toml:[0-9]+:[0-9]+')" "demo.toml:9:*"
config 10.77.0.1 10.77.0.2 $near $near6 >/etc/gvtep/demo.toml

echo "# restarting"
was=$(pid)
same 5000 "restart" systemctl restart gvtep@demo
check "another process" "$([ "$(pid)" != "$was" ] && echo "$was, then $(pid)")" "*then [1-9]*"
check "descriptors in the store" "$(unit NFileDescriptorStore)" "[1-9]*"

echo "# dying"
was=$(pid)
kill -9 "$was"
check "kill -9: it is back" "$(until_ok 60 "[ \$(systemctl show -P MainPID gvtep@demo) != $was ] && gvtep -i demo status")" "after *"
check "kill -9: ping" "$(until_ok 60 "ping -n -c 1 -W 1 $far")" "after *"
check "kill -9: restarts" "$(unit NRestarts)" "1"

was=$(pid)
worker=$(grep -lx 'gvtep-w1' "/proc/$was/task/"*/comm | head -n 1 | cut -d/ -f5)
./trace stop "${worker:-0}" >/tmp/trace 2>&1 &
tracer=$!
check "one worker stopped" "$(until_ok 10 "grep -q '^stopped' /tmp/trace"): $(cut -d' ' -f3 "/proc/$was/task/${worker:-0}/stat") of $(cat "/proc/$was/task/"*/comm | grep -c '^gvtep-w')" "after *: t of 2"
check "it is noticed" "$(until_ok 60 "! gvtep -i demo status")" "after *"
check "the watchdog ends it" "$(until_ok 90 "[ \$(systemctl show -P MainPID gvtep@demo) != $was ]")" "after *"
check "systemd says why" "$(journalctl -q -o cat -u gvtep@demo | grep -m 1 -o 'Watchdog timeout')" "Watchdog timeout"
check "watchdog: it is back" "$(until_ok 60 "gvtep -i demo status")" "after *"
check "watchdog: ping" "$(until_ok 60 "ping -n -c 1 -W 1 $far")" "after *"
kill $tracer 2>/dev/null

echo "# upgrading"
echo '# mine' >>/etc/gvtep/example.toml
was=$(pid)
same 2000 "upgrade" dpkg -i gvtep_0.0.2*.deb
check "another process" "$([ "$(pid)" != "$was" ] && echo "$was, then $(pid)")" "*then [1-9]*"
check "the new version runs" "$(gvtep -i demo version --daemon | tail -n 1)" "daemon v0.0.2"
check "my configuration" "$(tail -n 1 /etc/gvtep/example.toml), $(stat -c '%a %U:%G' /etc/gvtep/example.toml)" "# mine, 640 root:gvtep"

echo "# going"
check "stop" "exit $(status systemctl stop gvtep@demo)" "exit 0"
check "no device, no socket" "$(device)$(sockets)" ""
check "no runtime directory" "$(ls -d /run/gvtep/demo 2>/dev/null)" ""
check "not failed" "$(systemctl is-failed gvtep@demo)" "inactive"
systemctl start gvtep@demo
check "remove" "exit $(status dpkg --remove gvtep)" "exit 0"
check "remove: nothing runs" "$(systemctl is-active gvtep@demo gvtep@far | xargs), $(device)" "inactive inactive, "
check "purge" "exit $(status dpkg --purge gvtep)" "exit 0"
check "purge: what stays is mine" "$(cd /etc && echo gvtep/* systemd/system/multi-user.target.wants/gvtep*)" "gvtep/demo.toml gvtep/far.toml systemd/system/multi-user.target.wants/gvtep\\*"
check "no unit failed" "$(systemctl list-units --failed --plain --no-legend | xargs)" ""
finish
