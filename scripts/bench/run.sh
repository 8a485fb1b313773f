#!/usr/bin/env bash
# The benchmark: gvtep against the kernel's VXLAN, the bare veth and
# wireguard-go, in namespaces of its own. As root; docs/benchmarks.md tells
# what is measured and how.
#
# usage: run.sh [--quick] [--runs 9] [--secs 3] [--only tcp1,udp64] [--labs veth,wire] (--help: all)
#
# Progress goes to stderr, the table to stdout:  run.sh --runs 9 >table.md
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/tools/need.sh ip ethtool iperf3 ping >&2
CGO_ENABLED=0 go build -o bin/bench ./scripts/bench
exec bin/bench "$@"
