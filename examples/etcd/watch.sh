#!/usr/bin/env bash
# usage: watch.sh PREFIX VTEP DEV [LLADDR[,IP]...]
#
# Hosts find each other through etcd. Each keeps one key, PREFIX/VTEP, whose value is its
# own stations; the key goes with its lease when the host is gone. What the keys of all
# others say is written to gvtep's tunnel DEV, which starts with `remote none`.
# ETCDCTL_ENDPOINTS and the like are etcdctl's; GVTEP is the command, with -i if needed.
set -uo pipefail
prefix=$1 vtep=$2 dev=$3
shift 3
export ETCDCTL_API=3
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap exit INT TERM

# All there is, each time: what is no longer there goes by `sync`.
agree() {
  local all
  all=$(etcdctl get --prefix "$prefix/" | paste - -) || return # nothing is taken away because etcd does not answer
  awk -v self="$prefix/$vtep" -v n=${#prefix} '
    $1 == self { next }
    { peer = substr($1, n + 2); printf "{\"peer\":\"%s\"}\n", peer }
    { for (i = 2; i <= NF; i++) {
        split($i, s, ","); printf "{\"fdb\":\"%s\",\"dst\":\"%s\"}\n", s[1], peer
        if (s[2]) printf "{\"neigh\":\"%s\",\"lladdr\":\"%s\"}\n", s[2], s[1] } }
  ' <<<"$all" | ${GVTEP:-gvtep} batch - dev "$dev" owner etcd sync
}

# Tell of ourselves for as long as we live. A lease that was lost is taken anew.
tell() {
  trap 'kill $(jobs -p) 2>/dev/null' EXIT
  trap exit INT TERM
  while :; do
    lease=$(etcdctl lease grant "${TTL:-10}" | awk '{ print $2 }') &&
      etcdctl put --lease="$lease" "$prefix/$vtep" "$*" >/dev/null &&
      { etcdctl lease keep-alive "$lease" >/dev/null & wait $!; }
    sleep 1
  done
}
tell "$@" &
# Watch first, then look: no change is missed between the two.
while :; do
  coproc etcdctl watch --prefix "$prefix/"
  exec 3<&"${COPROC[0]}"
  until agree; do sleep 1; done
  while read -r -u 3 _; do
    while read -r -t 0.1 -u 3 _; do :; done # many changes at once are one
    until agree; do sleep 1; done
  done
  sleep 1
done
