#!/usr/bin/env bash
# The Debian package under a real systemd: a virtual machine with Debian 12 in
# its memory, and in it two instances of gvtep@.service.
#
#      the machine                                namespace far
#    +-----------------------+                  +-----------------------+
#    | gnv0   10.99.0.1/24   |. . . VNI 100 . . | gnv0   10.99.0.2/24   |
#    |        fd99::1/64     |                  |        fd99::2/64     |
#    |   gvtep@demo          |                  |   gvtep@far           |
#    | veth0  10.77.0.1/24   |==== UDP 6081 ====| veth0  10.77.0.2/24   |
#    +-----------------------+                  +-----------------------+
#
# usage: systemd.sh test    install, run the checks of systemd-guest.sh, print their results; status 0 if all hold
#        systemd.sh shell   the same machine with a root shell in this terminal, to look around; "poweroff" ends it
#        systemd.sh image   only make the image
# The image, 120 MB, is made once, from Debian's archive, and kept in ${XDG_CACHE_HOME:-~/.cache}/gvtep.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lab/machine.sh
. scripts/lab/machine.sh
LIMIT=900 # seconds for the whole machine, against hanging: tcg takes some 200 s of CPU time for all of it

NAME=vm kernels=("")
packages=systemd,systemd-sysv,udev,iproute2,iputils-ping,kmod,socat
modules=(drivers/net/tun drivers/net/veth fs/autofs/autofs4 net/ipv4/udp_diag net/ipv4/inet_diag
  net/bridge/bridge net/8021q/8021q net/802/stp net/802/garp net/802/mrp net/llc/llc
  net/ipv4/esp4 net/xfrm/xfrm_algo net/xfrm/xfrm_user crypto/authenc crypto/echainiv crypto/drbg crypto/jitterentropy_rng)

populate() {
  local root=$1 unit
  install_kernels "$root"
  # Nobody is there to answer questions or to log in, and there are no disks.
  for unit in systemd-firstboot serial-getty@ttyS0 getty@tty1; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
  done
  : >"$root/etc/machine-id"
  echo gvtep-vm >"$root/etc/hostname"
  ln -sf lib/systemd/systemd "$root/init"
}

more() { # more UNIT-COMMAND STDIN-TTY: the programs to test and the service that runs this command
  local dir=$work/more/test unit=$work/more/etc/systemd/system
  mkdir -p "$dir" "$unit/multi-user.target.wants"
  # Two versions, for an upgrade: they differ in nothing but the number.
  ARCH=amd64 DIST=$dir VERSION=0.0.1 scripts/packaging/package.sh deb
  ARCH=amd64 DIST=$dir VERSION=0.0.2 scripts/packaging/package.sh deb
  CGO_ENABLED=0 GOARCH=amd64 "${GO:-go}" build -o "$dir/trace" ./scripts/tools/trace
  install -m 0755 scripts/lab/systemd-guest.sh "$dir/check"
  printf '%s\n' "[Unit]" "Description=$1" "[Service]" "Type=exec" "Environment=HOME=/root" "ExecStart=$1" \
    "ExecStopPost=/bin/systemctl poweroff --force" "StandardInput=tty-force" "StandardOutput=tty" "TTYPath=$2" \
    >"$unit/test.service"
  ln -s ../test.service "$unit/multi-user.target.wants/"
}

if [ "${1:-}" = populate ]; then
  populate "$2"
  exit
fi
trap '[ -z "$work" ] || rm -rf --one-file-system "$work"' EXIT
case ${1:-} in
image) image ;;
test | shell)
  image
  work=$(mktemp -d)
  if [ "$1" = test ]; then
    more /test/check /dev/ttyS1
    checked "$LIMIT" 6.1
  else
    more "/bin/bash -l" /dev/ttyS0
    machine infinity 6.1 -append "console=ttyS0 panic=-1 quiet" -serial mon:stdio
  fi ;;
*) fail "usage: $0 test|shell|image" ;;
esac
