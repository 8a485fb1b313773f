#!/usr/bin/env bash
# A virtual machine with Debian 12 and the kernel's own tunnel devices, which
# the machine that builds may lack, to run one of the scripts beside this one in.
#
# usage: guest.sh KERNEL SCRIPT [WORD...]    6.1 or 6.12, such as "guest.sh 6.1 kernel-guest.sh"; status 0 if all its checks hold
#        guest.sh shell KERNEL               a root shell in this terminal instead; "reboot -f" ends it
#        guest.sh image                      only make the image
# /test there has these scripts, and /test/bin gvtep. BIN=DIR has it here, bin/ if unset. For the image see scripts/lab/machine.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lab/machine.sh
. scripts/lab/machine.sh
LIMIT=${LIMIT:-1200} # seconds, against hanging

NAME=interop kernels=("" bookworm-backports)
packages=mount,iproute2,iputils-ping,kmod,socat,ethtool,procps,nftables,tcpdump
modules=(crypto lib arch/x86/crypto net/core net/ipv4 net/ipv6 net/sched net/bridge net/8021q net/802 net/llc net/xfrm net/netfilter net/key
  drivers/net/{geneve,veth,tun,dummy,macvlan,vrf} drivers/net/vxlan/vxlan)

populate() { install_kernels "$1"; }

[ "${1:-}" != populate ] || { populate "$2"; exit; }
trap '[ -z "$work" ] || rm -rf --one-file-system "$work"' EXIT
image
[ "${1:-}" != image ] || exit 0
[ $# -ge 2 ] || fail "usage: $0 KERNEL SCRIPT [WORD...] | shell KERNEL | image"
work=$(mktemp -d)
mkdir -p "$work/more/test/bin"
install -m 0755 "${BIN:-bin}/gvtep" "$work/more/test/bin/"
cp scripts/interop/*.sh "$work/more/test/"
# The kernel hands NAME=VALUE of its command line to init as environment.
cat >"$work/more/init" <<'END'
#!/bin/bash
export PATH=/test/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/netns
mount -t devpts pts /dev/pts
cd /test
ip link set lo up
modprobe -a tun veth
if [ -n "$guest_script" ]; then
  bash "/test/$guest_script" ${guest_words//,/ } </dev/null >/dev/ttyS1 2>&1
  stty -echo </dev/ttyS1 # waits until the serial line has taken all of it
else
  setsid bash -l </dev/ttyS0 >/dev/ttyS0 2>&1
fi
echo b >/proc/sysrq-trigger
sleep 60
END
chmod +x "$work/more/init"
if [ "$1" = shell ]; then
  machine infinity "$2" -append "console=ttyS0 panic=-1 quiet" -serial mon:stdio
else
  [ -z "${MORE:-}" ] || cp -r "$MORE/." "$work/more/test/" # files of the caller
  words="${*:3}"
  checked "$LIMIT" "$1" "guest_script=$2" "guest_words=${words// /,}"
fi
