#!/usr/bin/env bash
# need.sh TOOL...: see to it that these programs are there. As root, Debian's
# packages of the missing ones are installed; otherwise they are named, with
# status 1. Says nothing when all are there.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # not in the path of Debian's ordinary users

declare -A package=( # where the program is not called like its package
  [ip]=iproute2 [ss]=iproute2 [bridge]=iproute2 [tc]=iproute2 [systemd-analyze]=systemd
  [ping]=iputils-ping [nft]=nftables [groff]=groff-base [gcc]="gcc libc6-dev"
  [clang]="clang llvm libbpf-dev" [llvm-strip]=llvm [setpriv]=util-linux
  [etcd]=etcd-server [etcdctl]=etcd-client [qemu-system-x86_64]=qemu-system-x86 [ovs-vswitchd]=openvswitch-switch [scapy3]=python3-scapy [vtysh]=frr
)
missing=()
for tool; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]:-$tool}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
read -ra missing <<<"${missing[*]}" # "gcc libc6-dev" are two

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "need.sh: missing here: ${missing[*]} (as root on Debian: apt-get install ${missing[*]})" >&2
  exit 1
fi

echo "need.sh: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1; }
# Programs are wanted, not services: what a package would start stays off.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  trap 'rm -f "$log" $policy' EXIT
fi
install() { apt install -y --no-install-recommends "${missing[@]}"; }
# A fresh system has no package lists, and old lists name files that are gone.
install || { apt update && install; } || {
  cat "$log" >&2
  echo "need.sh: could not install ${missing[*]}" >&2
  exit 1
}
