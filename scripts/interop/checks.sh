# shellcheck shell=bash disable=SC2034
# To be sourced: one line for each check, "ok NAME: what was seen" or "FAILED NAME: ...",
# and "end: N checks, M failed" at last, which is all that a caller has to look for.
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
ended() { printf 'end: %d checks, %d failed\n' "$checks" "$failed"; }
# until_ok SECONDS COMMAND: as often as it takes.
until_ok() {
  local limit=$1
  shift
  timeout "$limit" bash -c "until $*; do sleep 0.1; done" >/dev/null 2>&1
}
loss() { sed -n 's/^\([0-9]* packets transmitted, [0-9]* received\).*\(, [0-9]*% packet loss\).*/\1\2/p'; }
# pings NAMESPACE ADDRESS [WORD...]: five, one after another.
pings() { ip netns exec "$1" ping -q -n -c 5 -i 0.1 -W 2 "${@:3}" "$2" 2>&1 | loss; }
all="5 packets transmitted, 5 received, 0% packet loss"
none="5 packets transmitted, 0 received, 100% packet loss"
# transfer FROM TO ADDRESS BYTES: by TCP between two namespaces, "same" if what came is what was sent.
transfer() {
  local from=$1 to=$2 address=$3 bytes=$4 dir sink
  [[ $address != *:* ]] || address="[$address]"
  dir=$(mktemp -d)
  head -c "$bytes" /dev/urandom >"$dir/sent"
  ip netns exec "$to" timeout 20 socat -u "$([ "${address#[}" = "$address" ] && echo TCP4 || echo TCP6)-LISTEN:7000,reuseaddr" "CREATE:$dir/got" &
  sink=$!
  ip netns exec "$from" timeout 20 socat -u "OPEN:$dir/sent" "TCP:$address:7000,retry=100,interval=0.1" || true
  wait "$sink" || true
  if cmp -s "$dir/sent" "$dir/got"; then echo "same"; else echo "$(stat -c %s "$dir/got" 2>/dev/null || echo 0) bytes of $bytes, or others"; fi
  rm -r "$dir"
}
# drops INSTANCE [in|out] REASON: how many.
drops() {
  gvtep -i "$1" metrics | awk -v want="direction=\"$2\",reason=\"$3\"}" '/^gvtep_dropped_packets_total/ && index($1, want) { n += $2 } END { print n + 0 }'
}
# options INSTANCE CLASS ACTION: packets with options of a class.
options() {
  gvtep -i "$1" metrics | awk -v want="gvtep_option_packets_total{action=\"$3\",class=\"$2\"}" -v other="gvtep_option_packets_total{class=\"$2\",action=\"$3\"}" '$1 == want || $1 == other { n = $2 } END { print n + 0 }'
}
