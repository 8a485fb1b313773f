#!/usr/bin/env bash
# The kernel's own test of path MTUs (tools/testing/selftests/net/pmtu.sh of Debian's
# linux-source-6.1), with our device in the place of the kernel's: a program "ip" before
# the real one makes it.
#
# usage: selftests.sh [NAME...]    names of pmtu.sh; the geneve ones without Open vSwitch if there is none
# The script, out of a package of 140 MB, is kept in ${XDG_CACHE_HOME:-~/.cache}/gvtep.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gvtep/selftests-6.1
if [ ! -e "$cache/pmtu.sh" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && { apt-get -o APT::Sandbox::User=root download linux-source-6.1 || { apt-get update && apt-get -o APT::Sandbox::User=root download linux-source-6.1; }; }) >/dev/null
  dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xO ./usr/src/linux-source-6.1.tar.xz |
    tar -xJO --wildcards '*/tools/testing/selftests/net/pmtu.sh' >"$work/pmtu.sh"
  mkdir -p "$cache"
  mv "$work/pmtu.sh" "$cache/"
fi
MORE=$cache scripts/interop/guest.sh 6.1 pmtu-guest.sh "$@"
