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
# MIRROR is the archive if set. ACCEL=kvm instead of tcg is faster where nested KVM works; that /dev/kvm
# opens and makes a machine does not mean that the machine ever runs, so it is not guessed.
set -euo pipefail
cd "$(dirname "$0")/../.."
SUITE=bookworm ACCEL=${ACCEL:-tcg}
LIMIT=900 # seconds for the whole machine, against hanging: tcg takes some 200 s of CPU time for all of it
fail() { printf 'systemd.sh: %s\n' "$*" >&2; exit 1; }

packages=systemd,systemd-sysv,udev,iproute2,iputils-ping,kmod,socat
without=(/usr/share/{doc,man,locale,i18n,zoneinfo,info,lintian} /usr/lib/x86_64-linux-gnu/gconv)
modules=(drivers/net/tun drivers/net/veth fs/autofs/autofs4 net/ipv4/udp_diag net/ipv4/inet_diag
  net/bridge/bridge net/8021q/8021q net/802/stp net/802/garp net/802/mrp net/llc/llc
  net/ipv4/esp4 net/xfrm/xfrm_algo net/xfrm/xfrm_user crypto/authenc crypto/echainiv crypto/drbg crypto/jitterentropy_rng)

# populate DIR: what makes a root file system of Debian's packages start here.
# mmdebstrap runs it, with apt set up for that file system.
populate() {
  local root=$1 work release unit m
  work=$(mktemp -d)
  release=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: linux-image-//p')
  (cd "$work" && apt-get -o APT::Sandbox::User=root download "linux-image-$release" && dpkg-deb -x ./*.deb .)
  cp "$work/boot/vmlinuz-$release" "$KERNEL"
  for m in "${modules[@]}"; do
    install -D -m 0644 "$work/lib/modules/$release/kernel/$m.ko" "$root/lib/modules/$release/kernel/$m.ko"
  done
  cp "$work/lib/modules/$release/"modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
  chroot "$root" depmod "$release"
  rm -r "$work"
  # Nobody is there to answer questions or to log in, and there are no disks.
  for unit in systemd-firstboot serial-getty@ttyS0 getty@tty1; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
  done
  : >"$root/etc/machine-id"
  echo gvtep-vm >"$root/etc/hostname"
  ln -sf lib/systemd/systemd "$root/init"
}

# image sees to it that $cache holds the kernel and the file system: as an
# initramfs it needs no disk, no driver and no loader.
image() {
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/gvtep/vm-$({ declare -f populate image; declare -p packages without modules SUITE; } | sha256sum | cut -c-12)
  [ ! -e "$cache/root.cpio" ] || return 0
  [ "$(id -u)" = 0 ] || fail "making the image takes root"
  echo "systemd.sh: making the image, once: $cache"
  mkdir -p "${cache%/*}"
  work=$(mktemp -d "${cache%/*}/new.XXXXXX")
  local options=() path proxy
  for path in "${without[@]}"; do options+=("--dpkgopt=path-exclude=$path/*"); done
  proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy)
  [ -z "$proxy" ] || options+=("--aptopt=Acquire::http::Proxy \"$proxy\"")
  KERNEL=$work/vmlinuz timeout 900 mmdebstrap --quiet --variant=essential --include="$packages" "${options[@]}" \
    --customize-hook="$(realpath "$0") populate \"\$1\"" "$SUITE" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "could not make the image"; }
  rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root"/{boot,dev}/*
  mknod -m 600 "$work/root/dev/console" c 5 1
  (cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/root.cpio"
  rm -rf "$work/root"
  rm -rf "${cache%-*}"-* # of earlier recipes
  mv "$work" "$cache"
  work=
}

# machine [QEMU-OPTION...]: run it, with what is below $work/more laid over the image.
machine() {
  (cd "$work/more" && find . | cpio -o -H newc --quiet -R 0:0) >"$work/more.cpio"
  cat "$cache/root.cpio" "$work/more.cpio" >"$work/initrd"
  timeout -k 5 "$LIMIT" qemu-system-x86_64 -accel "$ACCEL" -cpu "$([ "$ACCEL" = kvm ] && echo host || echo max)" \
    -smp 2 -m 1536 -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$cache/vmlinuz" -initrd "$work/initrd" "$@"
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

run() {
  local status=0
  more /test/check /dev/ttyS1
  : >"$work/results"
  tail -f "$work/results" &
  trap 'kill $!; rm -rf "$work"' EXIT
  machine -append "console=ttyS0 panic=-1 quiet" -serial "file:$work/console" -serial "file:$work/results" </dev/null || status=$?
  sleep 1 # for tail
  if [ $status != 0 ] || ! tr -d '\r' <"$work/results" | tail -n 1 | grep -qx 'end: [1-9][0-9]* checks, 0 failed'; then
    [ $status != 124 ] || echo "systemd.sh: the machine was not done after $LIMIT s"
    printf '\n### the last lines of its console\n'
    tail -n 20 "$work/console"
    fail "not all is well, see above"
  fi
}

if [ "${1:-}" = populate ]; then
  populate "$2"
  exit
fi
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
case ${1:-} in
image) image ;;
test | shell)
  image
  work=$(mktemp -d)
  if [ "$1" = test ]; then
    run
  else
    more "/bin/bash -l" /dev/ttyS0
    LIMIT=infinity machine -append "console=ttyS0 panic=-1 quiet" -serial mon:stdio
  fi ;;
*) fail "usage: $0 test|shell|image" ;;
esac
