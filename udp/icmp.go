package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

// What routers and hosts say by ICMP about datagrams of ours. Source port sockets are not asked
// (IP_RECVERR): one peer's error would fail the next send to another. A raw socket gets a copy of
// each message and has no say in what is sent.

// icmpLimit is how many messages a second are looked at: they are a hint, and anybody can send them.
const icmpLimit = 50

// Errors calls tell for each ICMP error about a datagram that a source port of ours has sent, until
// ctx ends, from two goroutines. It fails without CAP_NET_RAW.
func (u *Underlay) Errors(ctx context.Context, tell func(netio.ICMP)) error {
	v4, err := listenICMP("ip4:icmp", 0)
	if err != nil {
		return err
	}
	defer v4.Close()
	done := make(chan struct{})
	v6, err := listenICMP("ip6:ipv6-icmp", 1)
	switch {
	case err == nil:
		defer v6.Close()
		go func() {
			defer close(done)
			u.readICMP(ctx, v6, true, tell)
		}()
	case errors.Is(err, unix.EAFNOSUPPORT):
		close(done)
	default:
		return err
	}
	defer context.AfterFunc(ctx, func() {
		v4.SetReadDeadline(time.Unix(1, 0))
		if v6 != nil {
			v6.SetReadDeadline(time.Unix(1, 0))
		}
	})()
	u.readICMP(ctx, v4, false, tell)
	<-done
	return nil
}

// listenICMP opens a raw socket for errors about UDP datagrams.
func listenICMP(network string, family int) (*net.IPConn, error) {
	c, err := net.ListenPacket(network, "")
	if err != nil {
		return nil, fmt.Errorf("icmp: %w", err)
	}
	conn := c.(*net.IPConn)
	raw, err := conn.SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) { inner = filterICMP(int(fd), family) })
		err = errors.Join(err, inner)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("icmp: %w", err)
	}
	return conn, nil
}

// filterICMP has the kernel drop all but errors that quote UDP, and keep few of those.
func filterICMP(fd, family int) error {
	// The filter sees the IPv4 header, but not that of IPv6.
	program := []bpf.Instruction{
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 11, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 12, SkipTrue: 2},
		bpf.LoadIndirect{Off: 8 + 9, Size: 1}, // the quoted packet's protocol
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	}
	if family == 1 {
		program = []bpf.Instruction{
			bpf.LoadAbsolute{Off: 0, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 4, SkipTrue: 2}, // 1 to 4 are the errors (RFC 4443)
			bpf.LoadAbsolute{Off: 8 + 6, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.RetConstant{Val: 1 << 16},
		}
	}
	code, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(code))
	for i, r := range code {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10))
}

func (u *Underlay) readICMP(ctx context.Context, c *net.IPConn, v6 bool, tell func(netio.ICMP)) {
	buf := make([]byte, 2048)
	for n, second := 0, time.Now(); ctx.Err() == nil; {
		size, from, err := c.ReadFromIP(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			continue
		}
		said, port, ok := parseICMP(buf[:size], v6)
		if !ok || !u.holds(v6, port) {
			continue
		}
		said.From, _ = netip.AddrFromSlice(from.IP)
		said.From = said.From.Unmap()
		tell(said)
		if n++; n < icmpLimit {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(second.Add(time.Second))):
		}
		n, second = 0, time.Now()
	}
}

// holds reports whether a source port is one of ours.
func (u *Underlay) holds(v6 bool, port uint16) bool {
	h := heldPort{4, port}
	if v6 {
		h.family = 6
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.held[h] > 0
}

// parseICMP reads an ICMP error that quotes a UDP datagram, and returns its source port, too.
func parseICMP(b []byte, v6 bool) (said netio.ICMP, port uint16, ok bool) {
	header := 8 // of ICMP, and then that of the quoted packet
	if len(b) < header+20 {
		return said, 0, false
	}
	said.IPv6, said.Type, said.Code = v6, b[0], b[1]
	quoted := b[header:]
	udp := 40
	var to []byte
	if v6 {
		if len(quoted) < udp+8 || quoted[0]>>4 != 6 || quoted[6] != unix.IPPROTO_UDP {
			return said, 0, false
		}
		to = quoted[24:40]
		if said.Type == 2 {
			said.MTU = int(binary.BigEndian.Uint32(b[4:]))
		}
	} else {
		udp = int(quoted[0]&0xf) * 4
		if udp < 20 || len(quoted) < udp+8 || quoted[0]>>4 != 4 || quoted[9] != unix.IPPROTO_UDP {
			return said, 0, false
		}
		to = quoted[16:20]
		if said.Type == 3 && said.Code == 4 {
			said.MTU = int(binary.BigEndian.Uint16(b[6:]))
		}
	}
	addr, _ := netip.AddrFromSlice(to)
	said.To = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(quoted[udp+2:]))
	return said, binary.BigEndian.Uint16(quoted[udp:]), true
}
