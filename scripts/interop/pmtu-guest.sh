#!/usr/bin/env bash
# Runs the kernel's pmtu.sh in the machine of guest.sh, with gvtep for its geneve devices.
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=scripts/interop/checks.sh
. ./checks.sh
# "ip" as the test calls it: what makes a geneve device starts gvtep with the same
# words, and what deletes a namespace ends it.
mkdir -p /tmp/wrap
cat >/tmp/wrap/ip <<'END'
#!/bin/bash
real=/usr/sbin/ip
case "$*" in
"link add "*" type geneve "*)
  shift 2
  name=$1 words=("${@:4}")
  gvtep -i "$name-$$" run "$name" "${words[@]}" --noup >>/tmp/log 2>&1 &
  until $real link show "$name" >/dev/null 2>&1 || ! kill -0 $! 2>/dev/null; do sleep 0.1; done
  exec $real link show "$name" ;;
"netns del "*)
  pids=$($real netns pids "$3" 2>/dev/null)
  [ -z "$pids" ] || kill $pids 2>/dev/null ;;
esac
exec $real "$@"
END
chmod +x /tmp/wrap/ip
modprobe -a bridge
names=("$@")
[ $# -gt 0 ] || names=(pmtu_ipv{4,6}_geneve{4,6}_exception pmtu_ipv{4,6}_br_geneve{4,6}_exception)
echo "# pmtu.sh of Linux 6.1"
for name in "${names[@]}"; do
  PATH=/tmp/wrap:$PATH timeout 300 bash ./pmtu.sh "$name" >/tmp/out 2>&1
  for kind in "" " with nexthop objects"; do
    line=$(grep '^TEST: ' /tmp/out | if [ -n "$kind" ]; then grep 'nexthop objects'; else grep -v 'nexthop objects'; fi | tail -n 1)
    check "$name$kind" "$(sed -n 's/.*\[ *\([A-Z]*\) *\].*/\1/p' <<<"$line")" OK
    [[ $line == *"OK"* ]] || sed 's/^/   | /' /tmp/out
  done
done
[ "$failed" = 0 ] || tail -n 20 /tmp/log
ended
