package ping

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/doctor"
)

// Here is this host, in the network namespace of the caller, which Netns names for people.
type Here struct {
	Client *control.Client
	Netns  string
}

// Facts are those of a tunnel.
func (h Here) Facts(ctx context.Context, tunnel string) (*doctor.Facts, error) {
	return doctor.Look(ctx, h.Client, tunnel, h.Netns)
}

// Station is what the host's neighbour table says.
func (h Here) Station(dev string, addr netip.Addr) string {
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return ""
	}
	all, _ := netlink.NeighList(link.Index, 0)
	i := slices.IndexFunc(all, func(n netlink.Neigh) bool {
		a, ok := netip.AddrFromSlice(n.IP)
		return ok && a.Unmap() == addr && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE|netlink.NUD_NOARP) == 0 && len(n.HardwareAddr) == 6
	})
	if i < 0 {
		return ""
	}
	return all[i].HardwareAddr.String()
}

const (
	// echoTries is how often a ping without an answer is sent, and echoWait how long an answer is
	// waited for each time.
	echoTries = 3
	echoWait  = 300 * time.Millisecond
)

// Echo sends pings. Without permission for it there is no answer.
func (h Here) Echo(ctx context.Context, to netip.Addr, dev string, sizes ...int) []time.Duration {
	answers := make([]time.Duration, len(sizes))
	s, err := openEcho(to, dev)
	if err != nil {
		return answers
	}
	defer unix.Close(s.fd)
	for range echoTries {
		sent := make([]time.Time, len(sizes))
		left := 0
		for i, size := range sizes {
			if answers[i] == 0 {
				sent[i] = time.Now()
				if unix.Sendto(s.fd, s.request(i, size), 0, s.to) == nil {
					left++
				}
			}
		}
		for end := time.Now().Add(echoWait); left > 0 && time.Now().Before(end) && ctx.Err() == nil; {
			i, ok := s.receive(end)
			if ok && i < len(sizes) && answers[i] == 0 {
				answers[i] = max(time.Since(sent[i]), 1)
				left--
			}
		}
		if !slices.Contains(answers, 0) || ctx.Err() != nil {
			break
		}
	}
	return answers
}

// echoSocket sends ICMP echo requests to one address.
type echoSocket struct {
	fd   int
	addr netip.Addr
	to   unix.Sockaddr
	id   uint16
}

func openEcho(to netip.Addr, dev string) (s echoSocket, err error) {
	s.addr, s.id = to, uint16(rand.Uint32())
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if to.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	if s.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto); err != nil {
		return s, err
	}
	if dev != "" {
		err = unix.SetsockoptString(s.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, dev)
	}
	// Never cut, whatever the kernel believes of the path (ip(7): IP_PMTUDISC_PROBE).
	if to.Is4() {
		s.to = &unix.SockaddrInet4{Addr: to.As4()}
		unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	} else {
		s.to = &unix.SockaddrInet6{Addr: to.WithZone("").As16(), ZoneId: zoneOf(to)}
		unix.SetsockoptInt(s.fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	if err != nil {
		unix.Close(s.fd)
	}
	return s, err
}

func zoneOf(a netip.Addr) uint32 {
	if link, err := net.InterfaceByName(a.Zone()); err == nil {
		return uint32(link.Index)
	}
	return 0
}

// Types of ICMP messages (RFC 792, RFC 4443).
const (
	echo4, echoReply4 = 8, 0
	echo6, echoReply6 = 128, 129
	icmpHeader        = 8
)

// request is the nth, of so many bytes with its IP header. The kernel makes the sum of ICMPv6.
func (s *echoSocket) request(n, size int) []byte {
	header := 20
	if s.addr.Is6() {
		header = 40
	}
	b := make([]byte, max(size-header, icmpHeader))
	b[0] = echo4
	if s.addr.Is6() {
		b[0] = echo6
	}
	binary.BigEndian.PutUint16(b[4:], s.id)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	if s.addr.Is4() {
		binary.BigEndian.PutUint16(b[2:], internetSum(b))
	}
	return b
}

// receive waits for an answer, and returns to which request.
func (s *echoSocket) receive(until time.Time) (n int, ok bool) {
	left := unix.NsecToTimeval(max(int64(time.Until(until)), int64(time.Millisecond)))
	unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left)
	b := make([]byte, 128) // the rest of it says nothing
	got, from, err := unix.Recvfrom(s.fd, b, 0)
	if err != nil {
		return 0, false
	}
	return s.parse(b[:min(got, len(b))], from)
}

// parse reads what came, with its IPv4 header, without one of IPv6.
func (s *echoSocket) parse(b []byte, from unix.Sockaddr) (n int, ok bool) {
	want := byte(echoReply6)
	var sender netip.Addr
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		sender, want = netip.AddrFrom4(from.Addr), echoReply4
		if len(b) < 20 || len(b) < int(b[0]&0xf)*4 {
			return 0, false
		}
		b = b[int(b[0]&0xf)*4:]
	case *unix.SockaddrInet6:
		sender = netip.AddrFrom16(from.Addr)
	}
	if len(b) < icmpHeader || b[0] != want || sender != s.addr.WithZone("") || binary.BigEndian.Uint16(b[4:]) != s.id {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(b[6:])), true
}

// internetSum is the checksum of RFC 1071.
func internetSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
