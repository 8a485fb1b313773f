// Package udp is the underlay: the UDP sockets that GENEVE datagrams leave by
// and arrive at, and what the kernel knows about the way to a remote.
//
// Receive sockets and sending sockets are different ones. A receive socket
// holds the well-known port; a sending socket holds one of a set of source
// ports, which stand for the entropy of the inner flow (RFC 8926 section
// 3.3), and never receives anything. Every worker has a descriptor of its
// own for each of them, so no two threads ever share one.
//
// Sockets are opened in the network namespace of the calling thread. All
// methods of an Underlay must be called in the namespace that New was called
// in; a Sender and a Receiver may be used in any.
package udp

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

// Defaults of Config.
const (
	// DefaultRcvbuf holds about 20,000 small datagrams (768 bytes of kernel
	// memory each, and the kernel doubles the figure): 50 ms at 400,000 a
	// second, longer than a worker is ever kept from its socket.
	DefaultRcvbuf = 8 << 20
	// DefaultSndbuf lets about 20 full runs of one source port wait in the
	// device's queue: 1 ms at 10 Gbit/s. More would only add delay.
	DefaultSndbuf = 1 << 20
	// DefaultBatch is the number of datagrams or trains one receive takes at
	// most. BenchmarkReceive on 2 MiB of L2, 64-byte datagrams, ns each:
	// 1495 with a batch of 1, 857 of 8, 760 of 16, 733 of 32, 690 of 64, 698 of
	// 128. Trains do not care (80 ns a datagram from 4 on), but each entry of
	// the batch has a 64 KiB buffer, so 32 is where the gain ends.
	DefaultBatch = netio.ReceiveBatch
)

// Config is what holds for all sockets of an Underlay.
type Config struct {
	Workers int  // descriptors for each receive address and source port; at least 1
	Rcvbuf  int  // bytes of receive buffer a receive socket; 0: DefaultRcvbuf
	Sndbuf  int  // bytes of send buffer a source port socket; 0: DefaultSndbuf
	Batch   int  // entries of one receive, if its buffer has room; 0: DefaultBatch
	GSO     bool // send runs with UDP_SEGMENT where the kernel can
	GRO     bool // receive trains with UDP_GRO where the kernel can
}

// What Underlay is asked for, and answers.
type (
	ListenOptions = netio.ListenOptions
	PortOptions   = netio.PortOptions
	Route         = netio.Route
)

// Underlay opens sockets and knows the routes. Its methods may be called
// concurrently; none of them is for the path of a packet.
type Underlay struct {
	cfg     Config
	maxSegs int              // datagrams one UDP_SEGMENT send may carry
	noGSO   bool             // not wanted, or the kernel has no UDP_SEGMENT
	routes  *netlink.Handle  // its socket stays in the namespace of New
	tables  *nl.SocketHandle // as well; for what routes has no call for

	mu        sync.Mutex
	listeners map[*Listener]struct{}
	sets      map[PortOptions]*sharedSet
	held      map[heldPort]int // source ports held by our sets, and by how many
	nextID    int
	freeIDs   []int             // of sets that are closed
	gone      map[sender]uint64 // datagrams sent from sets that are closed
	inherited []int             // receive sockets of an earlier process that no Listen has taken
}

// New prepares an underlay; it opens no UDP socket yet.
func New(cfg Config) (*Underlay, error) {
	if cfg.Workers < 1 {
		return nil, fmt.Errorf("udp: %d workers: at least 1 is needed", cfg.Workers)
	}
	if cfg.Rcvbuf == 0 {
		cfg.Rcvbuf = DefaultRcvbuf
	}
	if cfg.Sndbuf == 0 {
		cfg.Sndbuf = DefaultSndbuf
	}
	if cfg.Batch == 0 {
		cfg.Batch = DefaultBatch
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("udp: open a netlink socket: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("udp: open a netlink socket: %w", err)
	}
	return &Underlay{
		cfg:       cfg,
		maxSegs:   maxSegments(),
		noGSO:     !cfg.GSO || !kernelHasGSO(),
		routes:    h,
		tables:    &nl.SocketHandle{Socket: s},
		listeners: map[*Listener]struct{}{},
		sets:      map[PortOptions]*sharedSet{},
		held:      map[heldPort]int{},
		gone:      map[sender]uint64{},
	}, nil
}

// Close closes every socket that is still open. No Sender or Receiver may be
// in use any more.
func (u *Underlay) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for l := range u.listeners {
		l.closeSockets()
	}
	for _, s := range u.sets {
		closeDescriptors(s.set.FD)
	}
	clear(u.listeners)
	clear(u.sets)
	clear(u.held)
	for _, fd := range u.inherited {
		unix.Close(fd)
	}
	u.routes.Close()
	u.tables.Close()
	return nil
}

// Sender returns a sending half for a worker, 0 to Workers-1. Make one per
// worker and keep it; one more, for what a worker sends seldom, may be another thread's.
func (u *Underlay) Sender(worker int) *Sender {
	return newSender(worker, u.maxSegs, sendmsgs)
}

// kernelHasGSO asks for UDP_SEGMENT (Linux 4.18). An older kernel would
// ignore the control message and send a run as one huge datagram.
func kernelHasGSO() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// maxSegments is UDP_MAX_SEGMENTS of the running kernel: 128 from Linux 6.9
// on, 64 before (include/linux/udp.h).
func maxSegments() int {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return 64
	}
	return segmentsOf(unix.ByteSliceToString(u.Release[:]))
}

func segmentsOf(release string) int {
	major, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(rest)
	if a > 6 || a == 6 && b >= 9 {
		return 128
	}
	return 64
}

// familyOf is the address family of a socket for addr.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sockaddr turns an address into what bind wants. A zone, or else the device
// the socket is bound to, scopes an IPv6 link-local address.
func (u *Underlay) sockaddr(a netip.Addr, port uint16, device string) (unix.Sockaddr, error) {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
	if zone := a.Zone(); zone != "" || a.IsLinkLocalUnicast() && device != "" {
		if zone == "" {
			zone = device
		}
		index, err := u.zoneIndex(zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = uint32(index)
	}
	return sa, nil
}

// zoneIndex is the ifindex that a zone names, by name or by number.
func (u *Underlay) zoneIndex(zone string) (int, error) {
	if n, err := strconv.Atoi(zone); err == nil {
		return n, nil
	}
	link, err := u.routes.LinkByName(zone)
	if err != nil {
		return 0, fmt.Errorf("no device %q for a link-local address: %w", zone, err)
	}
	return link.Attrs().Index, nil
}

// option is one integer socket option.
type option struct {
	level, name, value int
	what               string
}

// setOptions sets options in order and names the one that failed.
func setOptions(fd int, opts []option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt "+o.what, err)
		}
	}
	return nil
}

// setBuffer raises a socket buffer beyond the system's limit if we may
// (CAP_NET_ADMIN), else up to it.
func setBuffer(fd, force, plain, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, bytes) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt buffer size", unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, bytes))
}

// closeDescriptors closes all descriptors of a set.
func closeDescriptors(fds [][]int32) {
	for _, row := range fds {
		for i, fd := range row {
			if fd >= 0 {
				unix.Close(int(fd))
				row[i] = -1
			}
		}
	}
}
