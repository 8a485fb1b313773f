package udp

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// heldPort is a source port that sockets of ours hold.
type heldPort struct {
	family int // 4 or 6
	port   uint16
}

// sharedSet is a set and how often it was asked for.
type sharedSet struct {
	set  *packet.PortSet
	refs int
}

// Ports returns the set of source ports for o, made on first use and shared
// by all who ask with equal options. Release gives it back.
//
// The numbers are picked at random from Min to Max, without those that are
// busy or in net.ipv4.ip_local_reserved_ports. Sets of one family prefer the
// numbers that we hold already, so that one fixed port can serve several
// tunnels. Two sets that differ in DF only have the same numbers in the same order, so
// that a hash picks the same from both. It is an error if no port at all can be had.
func (u *Underlay) Ports(o PortOptions) (*packet.PortSet, error) {
	if err := checkPorts(o); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := u.sets[o]; s != nil {
		s.refs++
		return s.set, nil
	}
	set, err := u.openPorts(o)
	if err != nil {
		return nil, fmt.Errorf("source ports %d-%d: %w", o.Min, o.Max, err)
	}
	u.sets[o] = &sharedSet{set: set, refs: 1}
	for _, p := range set.Ports {
		u.held[heldPort{o.Family, p}]++
	}
	return set, nil
}

// Release gives back what Ports returned. The sockets are closed with the
// last one; no Sender may have datagrams queued for the set then.
func (u *Underlay) Release(set *packet.PortSet) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for o, s := range u.sets {
		if s.set != set {
			continue
		}
		if s.refs--; s.refs > 0 {
			return
		}
		delete(u.sets, o)
		u.freeIDs = append(u.freeIDs, set.ID)
		u.gone[senderOf(o)] += datagrams(set)
		for _, p := range set.Ports {
			h := heldPort{o.Family, p}
			if u.held[h]--; u.held[h] == 0 {
				delete(u.held, h)
			}
		}
		closeDescriptors(set.FD)
		return
	}
}

func checkPorts(o PortOptions) error {
	switch {
	case o.Family != 4 && o.Family != 6:
		return fmt.Errorf("source ports: address family %d is neither 4 nor 6", o.Family)
	case o.Min == 0 || o.Max < o.Min:
		return fmt.Errorf("source ports: range %d-%d is empty or has port 0", o.Min, o.Max)
	case o.Count < 1:
		return fmt.Errorf("source ports: a set of %d ports cannot send", o.Count)
	case o.Local.IsValid() && (o.Local.Is4() != (o.Family == 4) || o.Local.Is4In6()):
		return fmt.Errorf("source ports: %s is no IPv%d address", o.Local, o.Family)
	}
	return nil
}

// openPorts opens the sockets of a new set. Caller holds u.mu.
func (u *Underlay) openPorts(o PortOptions) (*packet.PortSet, error) {
	local := senderOf(o).local
	prep, err := prepareTransmit(o, u.cfg.Sndbuf)
	if err != nil {
		return nil, err
	}
	set := &packet.PortSet{FD: make([][]int32, u.cfg.Workers), Sent: make([]packet.Counter, u.cfg.Workers)}
	var busy error
	for port := range u.candidates(o) {
		if len(set.Ports) == o.Count {
			break
		}
		sa, err := u.sockaddr(local, port, o.Device)
		if err != nil {
			closeDescriptors(set.FD)
			return nil, err
		}
		fds, err := openPort(u.cfg.Workers, prep, sa, u.held[heldPort{o.Family, port}] > 0)
		if errors.Is(err, unix.EADDRINUSE) {
			busy = fmt.Errorf("%w: port %d is held by %s", unix.EADDRINUSE, port, holder(local, port))
			if o.Min != o.Max {
				busy = unix.EADDRINUSE // naming one of many does not help
			}
			continue
		}
		if err != nil {
			closeDescriptors(set.FD)
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				return nil, fmt.Errorf("%w: no device of this host has %s ready", err, local)
			}
			return nil, denied(o.Min, err)
		}
		set.Ports = append(set.Ports, port)
		for w, fd := range fds {
			set.FD[w] = append(set.FD[w], fd)
		}
	}
	if len(set.Ports) == 0 {
		if busy == nil {
			return nil, errors.New("all are reserved by net.ipv4.ip_local_reserved_ports")
		}
		return nil, busy
	}
	set.ID = u.takeID()
	// The kernel refuses UDP_SEGMENT on a socket that sends no checksum.
	set.NoGSO = u.noGSO || o.ZeroCsum
	return set, nil
}

// takeID returns the number of a set that is closed, or a new one: senders keep a list for each
// number. Caller holds u.mu.
func (u *Underlay) takeID() int {
	if last := len(u.freeIDs) - 1; last >= 0 {
		id := u.freeIDs[last]
		u.freeIDs = u.freeIDs[:last]
		return id
	}
	u.nextID++
	return u.nextID - 1
}

// candidates yields the ports of the range in the order to try them: those of the twin,
// held ones, then all others at random; reserved ones are left out. Only as much
// is shuffled as is asked for: it is on the way of every start.
func (u *Underlay) candidates(o PortOptions) iter.Seq[uint16] {
	twin := o
	twin.DF = !o.DF
	var ours, first []uint16
	if s := u.sets[twin]; s != nil {
		first = s.set.Ports
	}
	for h := range u.held {
		if h.family == o.Family && o.Min <= h.port && h.port <= o.Max {
			ours = append(ours, h.port)
		}
	}
	slices.Sort(ours)
	reserved := reservedPorts()
	free := make([]uint16, 0, int(o.Max)-int(o.Min)+1)
	for p := int(o.Min); p <= int(o.Max); p++ {
		if !reserved.has(uint16(p)) {
			free = append(free, uint16(p))
		}
	}
	tried := make(map[uint16]bool, len(first))
	return func(yield func(uint16) bool) {
		for _, list := range [][]uint16{first, ours} {
			for _, p := range list {
				if !tried[p] && !yield(p) {
					return
				}
				tried[p] = true
			}
		}
		for i := range free {
			j := i + rand.IntN(len(free)-i)
			free[i], free[j] = free[j], free[i]
			if !tried[free[i]] && !yield(free[i]) {
				return
			}
		}
	}
}

// portRanges is a list of ports as the kernel writes it.
type portRanges [][2]uint16

func (r portRanges) has(p uint16) bool {
	return slices.ContainsFunc(r, func(x [2]uint16) bool { return x[0] <= p && p <= x[1] })
}

// reservedPorts reads net.ipv4.ip_local_reserved_ports, which is for IPv6 too.
func reservedPorts() portRanges {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err != nil {
		return nil
	}
	return parsePortRanges(text)
}

// parsePortRanges reads a list like 1,2-4,10-10 and skips what is not one.
func parsePortRanges(text []byte) (r portRanges) {
	for part := range bytes.SplitSeq(bytes.TrimSpace(text), []byte(",")) {
		lo, hi, isRange := bytes.Cut(part, []byte("-"))
		if !isRange {
			hi = lo
		}
		a, err := strconv.ParseUint(string(lo), 10, 16)
		b, err2 := strconv.ParseUint(string(hi), 10, 16)
		if err == nil && err2 == nil {
			r = append(r, [2]uint16{uint16(a), uint16(b)})
		}
	}
	return r
}

// transmit is what all sockets of a set have in common.
type transmit struct {
	domain int
	opts   []option
	sndbuf int
	device string
	filter unix.SockFprog
}

func prepareTransmit(o PortOptions, sndbuf int) (*transmit, error) {
	// A sending socket's port is known to everybody who hears it. What is
	// sent to it must not cost memory or be waited for: take 0 bytes of each.
	raw, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return nil, err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	t := &transmit{
		domain: unix.AF_INET,
		sndbuf: sndbuf,
		device: o.Device,
		filter: unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]},
	}
	// The kernel raises 0 to its smallest receive buffer.
	t.opts = []option{{unix.SOL_SOCKET, unix.SO_RCVBUF, 0, "SO_RCVBUF"}}
	add := func(level, name, value int, what string) {
		t.opts = append(t.opts, option{level, name, value, what})
	}
	if o.Family == 4 {
		discover := unix.IP_PMTUDISC_DONT
		if o.DF {
			discover = unix.IP_PMTUDISC_DO
		}
		add(unix.SOL_IP, unix.IP_MTU_DISCOVER, discover, "IP_MTU_DISCOVER")
		add(unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0, "IP_MULTICAST_LOOP")
		if o.ZeroCsum {
			add(unix.SOL_SOCKET, unix.SO_NO_CHECK, 1, "SO_NO_CHECK")
		}
	} else {
		t.domain = unix.AF_INET6
		discover := unix.IPV6_PMTUDISC_DONT
		if o.DF {
			discover = unix.IPV6_PMTUDISC_DO
		}
		add(unix.SOL_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY")
		add(unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, discover, "IPV6_MTU_DISCOVER")
		add(unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0, "IPV6_MULTICAST_LOOP")
		if o.ZeroCsum {
			add(unix.SOL_UDP, unix.UDP_NO_CHECK6_TX, 1, "UDP_NO_CHECK6_TX")
		}
	}
	if o.Mark != 0 {
		add(unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark), "SO_MARK (needs CAP_NET_ADMIN)")
	}
	return t, nil
}

// openPort opens the descriptors of one port, one per worker. joins tells that
// the port is ours already; else the first descriptor is bound alone, so a
// port of somebody else is never shared by mistake.
func openPort(workers int, t *transmit, sa unix.Sockaddr, joins bool) ([]int32, error) {
	fds := make([]int32, 0, workers)
	for range workers {
		fd, err := t.open(sa, joins || len(fds) > 0)
		if err != nil {
			closeDescriptors([][]int32{fds})
			return nil, err
		}
		fds = append(fds, int32(fd))
	}
	return fds, nil
}

func (t *transmit) open(sa unix.Sockaddr, joins bool) (_ int, err error) {
	fd, err := unix.Socket(t.domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	// Before bind, so that not one datagram gets in.
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &t.filter); err != nil {
		return -1, os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
	}
	if err := setOptions(fd, t.opts); err != nil {
		return -1, err
	}
	if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, t.sndbuf); err != nil {
		return -1, err
	}
	if t.device != "" {
		if err := unix.BindToDevice(fd, t.device); err != nil {
			return -1, fmt.Errorf("bind to device %s: %w", t.device, err)
		}
	}
	share := []option{{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"}}
	if joins {
		if err := setOptions(fd, share); err != nil {
			return -1, err
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	if !joins {
		err = setOptions(fd, share)
	}
	return fd, err
}
