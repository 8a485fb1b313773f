// Package fastpath is a netio.FastPath: two BPF programs at tcx (fast.c), one where frames
// leave by a tunnel's device, one where datagrams come in by an underlay device, and the
// maps that tell them what to do.
//
// Nothing is pinned. Links, programs and maps live as long as somebody has their descriptors:
// the process and, over a restart, the service manager (keep.go). Without them the packets go to
// queues and sockets as before.
//
// One goroutine loads, attaches and detaches, because that waits for the kernel's lock of
// all devices. Set and Remove change maps only.
package fastpath

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -type peer -type admit -type admitted -type traffic -type station -type place -type tap -type setting bpf fast.c -- -O2 -g -Wall -Werror -mcpu=v3
