# shellcheck shell=bash
# To be sourced by the labs of this directory, which then say what up and check do, and end with: lab "$@"
# Hosts are namespaces, gvtep-LAB-NAME; LAB=NAME in the environment makes a lab beside the one of its own name.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=${BIN:-$here/../../bin}:$PATH:/usr/sbin:/sbin
name=$(basename "$0" .sh)
lab=${LAB:-$name}
state=/run/gvtep-lab-$lab

say() { printf '\n### %s\n' "$*"; }
fail() { printf '%s.sh: %s\n' "$name" "$*" >&2; exit 1; }
p() { printf '$ %s\n' "$*"; "$@"; } # a command, shown as at a prompt
in_() { printf '%s$ %s\n' "$1" "${*:2}"; ip netns exec "gvtep-$lab-$1" "${@:2}"; }
quiet() { ip netns exec "gvtep-$lab-$1" "${@:2}"; }
bg() { # bg HOST COMMAND...: until the lab goes
  printf '%s$ %s &\n' "$1" "${*:2}"
  ip netns exec "gvtep-$lab-$1" "${@:2}" >>"$state/log" 2>&1 &
  echo $! >>"$state/pids"
}
within() { timeout "$1" bash -c "until $2; do sleep 0.1; done" >/dev/null 2>&1; } # within SECONDS COMMAND

# hosts NAME...: namespaces with their loopback up.
hosts() {
  local h
  for h; do
    ip netns add "gvtep-$lab-$h"
    echo "$h" >>"$state/hosts"
    ip -n "gvtep-$lab-$h" link set lo up
  done
}
# lan HOST HOST...: a switch, a host "net" with a bridge, and eth0 of each host in it, 10.77.0.1/24 for the first and so on.
lan() {
  local h n=0
  hosts net
  quiet net ip link add lan type bridge mcast_snooping 0
  quiet net ip link set lan up
  for h; do
    n=$((n + 1))
    quiet "$h" ip link add eth0 type veth peer name "to-$h" netns "gvtep-$lab-net"
    quiet net ip link set "to-$h" master lan up
    quiet "$h" ip addr add "10.77.0.$n/24" dev eth0
    quiet "$h" ip link set eth0 up
  done
}
# box NAME HOST BRIDGE ADDRESS: a container behind a bridge of a host; its MTU is the bridge's.
box() {
  hosts "$1"
  quiet "$1" ip link add eth0 type veth peer name "to-$1" netns "gvtep-$lab-$2"
  quiet "$2" ip link set "to-$1" master "$3" up
  quiet "$1" ip addr add "$4" dev eth0
  quiet "$1" ip link set eth0 mtu 1450 up
}
# gv HOST WORD...: gvtep run there, and gvtep ctl HOST WORD...: a command to it.
gv() {
  bg "$1" gvtep -i "$lab-$1" run "${@:2}"
  gvtep -i "$lab-$1" wait --for ready --timeout 10s || { tail -n 5 "$state/log"; fail "gvtep on $1 is not ready"; }
}
ctl() { printf '%s$ gvtep %s\n' "$1" "${*:2}"; gvtep -i "$lab-$1" "${@:2}"; }
reaches() { in_ "$1" ping -q -c 3 -i 0.2 -W 2 "$2" | sed -n 's/.*, \([0-9]*\) received.*/\1 of 3 answers/p' | tee "$state/ping"; grep -q '^3 ' "$state/ping" || fail "$1 does not reach $2"; }
misses() { in_ "$1" ping -q -c 2 -i 0.2 -W 0.5 "$2" >/dev/null && fail "$1 reaches $2"; echo "no answer, as it should be"; }

down() {
  local pid h
  [ -d "$state" ] || { echo "there is no lab"; return; }
  while read -r pid; do # ours alone, and only if the number is still theirs
    case $(ip netns identify "$pid" 2>/dev/null) in "gvtep-$lab-"*) kill "$pid" && timeout 5 tail --pid="$pid" -f /dev/null ;; esac
  done <"$state/pids"
  while read -r h; do [ ! -e "/run/netns/gvtep-$lab-$h" ] || ip netns del "gvtep-$lab-$h"; done <"$state/hosts"
  rm -r "$state"
}
undo() { tail -n 30 "$state/log" || true; down || true; echo "$name.sh: failed" >&2; exit 1; }
raise() {
  # What is left of a lab that somebody took down by hand does not count.
  [ -e "/run/netns/gvtep-$lab-$(head -n 1 "$state/hosts" 2>/dev/null)" ] || rm -rf "$state"
  mkdir "$state" 2>/dev/null || fail "the lab is up already, take it down first, ${LAB:+LAB=$LAB }$0 down, or make another with LAB=NAME"
  touch "$state/pids" "$state/hosts" "$state/log"
  trap undo EXIT
  up
  trap - EXIT
}
lab() {
  [ "$(id -u)" = 0 ] || fail "namespaces need root: make build && sudo $0 $*"
  command -v gvtep >/dev/null || fail "gvtep is not there: make build, or set BIN"
  case ${1:-demo} in
  up) raise ;;
  test) check; printf '\n%s: ok\n' "$name" ;;
  down) down ;;
  demo) sed -n '/^#!/d;/^#/!q;s/^#//p' "$0"; raise; trap undo EXIT; check; trap - EXIT; down; printf '\n%s: ok\n' "$name" ;;
  *) fail "usage: $0 up|test|down|demo" ;;
  esac
}
