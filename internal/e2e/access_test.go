package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Containers on the access ports of a VLAN switch whose uplink is a trunk. The
// development machines' kernel has neither a bridge with VLAN filtering nor
// 8021q devices, so the switch is two programs at tc: what comes from a port
// gets its tag and goes to the trunk; what comes from the trunk loses it and
// goes to the port. Super-frames pass both ways uncut, as in a bridge.
//
//	container 192.0.2.1           host
//	eth0 ------------------ acc10 --+ push 10        +-- gvtep
//	                                +------- trunk --+
//	eth0 ------------------ acc20 --+ push 20
//	container 192.0.2.1 too

// access makes a container on a port of the switch.
func (h *host) access(trunk string, vid int, mtu int, address string) *host {
	h.t.Helper()
	c := newHost(h.t, fmt.Sprintf("%s-vlan%d", h.name, vid))
	var there int
	c.do(func() error {
		ns, err := netns.Get()
		there = int(ns)
		return err
	})
	defer unix.Close(there)
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = fmt.Sprint("acc", vid), "eth0", netlink.NsFd(there)
	veth.MTU = mtu
	h.must("veth", h.nl.LinkAdd(veth))
	h.up(veth.Name)
	c.must("mtu", c.nl.LinkSetMTU(c.link("eth0"), mtu))
	c.up("eth0")
	c.address("eth0", address)
	h.filter(veth.Name, netlink.HANDLE_MIN_INGRESS, []instruction{
		{code: mov, dst: 2, imm: 0x0081}, // 0x8100 in network order
		{code: mov, dst: 3, imm: int32(vid)},
		{code: call, imm: vlanPush},
		{code: mov, dst: 1, imm: int32(h.index(trunk))},
		{code: mov, dst: 2, imm: 0},
		{code: call, imm: redirect},
		{code: exit},
	})
	return c
}

// uplink makes the other half of the switch, for the ports there are.
func (h *host) uplink(trunk string, vids ...int) {
	h.t.Helper()
	program := []instruction{
		{code: movReg, dst: 6, src: 1},
		{code: load32, dst: 7, src: 1, off: 24}, // vlan_tci of struct __sk_buff
		{code: and, dst: 7, imm: 0x0fff},
	}
	for _, vid := range vids {
		program = append(program,
			instruction{code: jumpUnless, dst: 7, off: 6, imm: int32(vid)},
			instruction{code: movReg, dst: 1, src: 6},
			instruction{code: call, imm: vlanPop},
			instruction{code: mov, dst: 1, imm: int32(h.index(fmt.Sprint("acc", vid)))},
			instruction{code: mov, dst: 2, imm: 0},
			instruction{code: call, imm: redirect},
			instruction{code: exit},
		)
	}
	h.filter(trunk, netlink.HANDLE_MIN_INGRESS, append(program, instruction{code: mov, dst: 0, imm: 0}, instruction{code: exit}))
}

// instruction is one of the kernel's BPF (linux/bpf.h, struct bpf_insn).
type instruction struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

// What the programs are made of: codes of instructions, and numbers of helpers.
const (
	mov        = 0xb7
	movReg     = 0xbf
	and        = 0x57
	load32     = 0x61
	store32    = 0x62
	add        = 0x07
	packet8    = 0x30 // r0 = what is in the packet of r6, in host order; its end ends the program
	packet16   = 0x28
	packet32   = 0x20
	jumpUnless = 0x55 // equal
	call       = 0x85
	exit       = 0x95

	storeBytes = 9

	vlanPush = 18
	vlanPop  = 19
	redirect = 23
)

// filter runs a program on what comes in through a device (netlink.HANDLE_MIN_INGRESS) or
// leaves by it (HANDLE_MIN_EGRESS). It goes with the device.
func (h *host) filter(dev string, direction uint32, program []instruction) {
	h.t.Helper()
	var code []byte
	for _, i := range program {
		code = append(code, i.code, i.dst|i.src<<4)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.off))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.imm))
	}
	license, log := []byte("GPL\x00"), make([]byte, 1<<16)
	attr := struct {
		kind, count   uint32
		code, license unsafe.Pointer
		level, size   uint32
		log           unsafe.Pointer
		_             [80]byte
	}{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(program)),
		code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0]),
		level: 1, size: uint32(len(log)), log: unsafe.Pointer(&log[0]),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	if errno != 0 {
		h.t.Fatalf("host %s: BPF program for %s: %v\n%s", h.name, dev, errno, unix.ByteSliceToString(log))
	}
	defer unix.Close(int(fd))
	attrs := netlink.QdiscAttrs{LinkIndex: h.index(dev), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	if err := h.nl.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); !errors.Is(err, unix.EEXIST) { // it serves both directions
		h.must("clsact", err)
	}
	h.must("filter", h.nl.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: attrs.LinkIndex, Parent: direction, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          int(fd), Name: "e2e", DirectAction: true,
	}))
}
