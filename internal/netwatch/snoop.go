package netwatch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Snoop tells sink of the IP addresses that stations name in the ARP and ND that goes out through
// a device, until ctx ends or the device goes. It needs CAP_NET_RAW.
func Snoop(ctx context.Context, index int, sink Sink) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet socket")
	defer f.Close()
	if err := filter(fd); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	defer context.AfterFunc(ctx, func() { f.Close() })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	frame := make([]byte, 256)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), frame, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err = errors.Join(err, failed); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		a, ok := from.(*unix.SockaddrLinklayer)
		if !ok || a.Pkttype != unix.PACKET_OUTGOING { // what comes in is of others
			continue
		}
		if b, ok := bindingOf(frame[:n]); ok {
			b.Link = index
			sink.Bound(b)
		}
	}
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// filter lets through ARP, and IPv6 with ICMPv6 as its first header, both without a tag (a tag of
// a trunk is not in the frame but beside it, where the kernel put it).
func filter(fd int) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	raw := make([]unix.SockFilter, len(program))
	for i, p := range program {
		raw[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]})
}

// bindingOf reads the sender of an ARP packet or a neighbour advertisement or solicitation. Both
// the frame and what it says must name the same Ethernet address.
func bindingOf(f []byte) (b Binding, ok bool) {
	const head, arp = 14, 28
	if len(f) < head {
		return b, false
	}
	source := packet.MAC(f[6:12])
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		a := f[head:]
		if len(a) < arp || binary.BigEndian.Uint32(a) != 0x00010800 || a[4] != 6 || a[5] != 4 {
			return b, false
		}
		b = Binding{IP: netip.AddrFrom4([4]byte(a[14:18])), MAC: packet.MAC(a[8:14])}
	case unix.ETH_P_IPV6:
		const ip, nd = 40, 24
		p := f[head:]
		if len(p) < ip+nd || p[0]>>4 != 6 || p[6] != unix.IPPROTO_ICMPV6 || p[7] != 255 || p[ip+1] != 0 {
			return b, false
		}
		b.MAC = source
		switch p[ip] {
		case 135: // a solicitation is from an address that is in use; of one that is tried out it is ::
			b.IP = netip.AddrFrom16([16]byte(p[8:24]))
		case 136:
			b.IP = netip.AddrFrom16([16]byte(p[ip+8 : ip+24]))
		default:
			return b, false
		}
	default:
		return b, false
	}
	return b, b.MAC == source && !source.IsGroup() && !source.IsZero() && packet.IsStation(b.IP)
}
