package udp

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

var (
	groups4 = []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("239.1.2.4")}
	groups6 = []netip.Addr{netip.MustParseAddr("ff05::123"), netip.MustParseAddr("ff02::124")}
)

// lan is three hosts, each a namespace with a veth to a bridge in a fourth:
//
//	host 0  v0 10.9.0.1/24 fd09::1/64 --- p0 |
//	host 1  v0 10.9.0.2/24 fd09::2/64 --- p1 | br0
//	host 2  v0 10.9.0.3/24 fd09::3/64 --- p2 |
//
// The bridge floods groups. The test's goroutine is in the bridge's namespace.
type lan struct {
	t    testing.TB
	home netns.NsHandle // of the bridge
	nl   *netlink.Handle
	host [3]netns.NsHandle
	hnl  [3]*netlink.Handle
}

func newLAN(t testing.TB) *lan {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root to make network namespaces")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	must(t, err)
	n := &network{t: t}
	l := &lan{t: t}
	t.Cleanup(func() {
		for _, h := range append(l.hnl[:], l.nl) {
			if h != nil {
				h.Close()
			}
		}
		if err := netns.Set(before); err == nil {
			runtime.UnlockOSThread()
		}
		for _, ns := range append(l.host[:], l.home, before) {
			ns.Close()
		}
	})
	for i := range l.host {
		l.host[i] = n.make()
		l.hnl[i] = n.handle(l.host[i])
	}
	l.home = n.make()
	l.nl = n.handle(l.home)
	flood := false
	a := netlink.NewLinkAttrs()
	a.Name = "br0"
	if err := l.nl.LinkAdd(&netlink.Bridge{LinkAttrs: a, MulticastSnooping: &flood}); err != nil {
		skip(t, "no bridge in this kernel: ", err)
	}
	n.setUp(l.nl, "br0")
	for i := range l.host {
		l.plug(i)
		n.setUp(l.hnl[i], "v0", l.addrs(i)...)
	}
	return l
}

func (l *lan) addrs(i int) []string {
	return []string{fmt.Sprintf("10.9.0.%d/24", i+1), fmt.Sprintf("fd09::%d/64", i+1)}
}

// plug gives host i a v0 that is on the bridge.
func (l *lan) plug(i int) {
	l.t.Helper()
	n := &network{t: l.t}
	a := netlink.NewLinkAttrs()
	a.Name = fmt.Sprint("p", i)
	a.MasterIndex = n.link(l.nl, "br0").Attrs().Index
	must(l.t, l.nl.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "v0", PeerNamespace: netlink.NsFd(l.host[i])}))
	n.setUp(l.nl, a.Name)
}

func (l *lan) in(i int, f func()) {
	l.t.Helper()
	must(l.t, netns.Set(l.host[i]))
	defer func() { must(l.t, netns.Set(l.home)) }()
	f()
}

// sniffer is a packet socket on the bridge, which sees all there is.
func (l *lan) sniffer(family int) int {
	l.t.Helper()
	proto := uint16(unix.ETH_P_IP)
	if family == 6 {
		proto = unix.ETH_P_IPV6
	}
	proto = proto<<8 | proto>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto))
	must(l.t, err)
	l.t.Cleanup(func() { unix.Close(fd) })
	n := &network{t: l.t}
	must(l.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: n.link(l.nl, "br0").Attrs().Index}))
	must(l.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}))
	return fd
}

// station is what a tunnel endpoint has on one host.
type station struct {
	u        *Underlay
	anywhere *Listener   // the wildcard sockets
	groups   []*Listener // of the first one, two, ... groups
	sender   *Sender
	set      *packet.PortSet
	index    int32
	local    netip.Addr
}

func (l *lan) station(i, family, workers, groups int) *station {
	l.t.Helper()
	s := &station{}
	l.in(i, func() {
		s.u = newUnderlay(l.t, Config{Workers: workers, GSO: true, GRO: true, Rcvbuf: 1 << 20, Batch: 4})
		local, all := any4, groups4
		if family == 6 {
			local, all = any6, groups6
		}
		var err error
		s.anywhere, err = s.u.Listen(ListenOptions{Local: local, Port: 6081})
		must(l.t, err)
		for _, g := range all[:groups] {
			m, err := s.u.Listen(ListenOptions{Group: g, Port: 6081, Device: "v0"})
			must(l.t, err)
			s.groups = append(s.groups, m)
		}
		s.set, err = s.u.Ports(fixed(family, 4))
		must(l.t, err)
		s.sender = s.u.Sender(0)
		o := fixed(family, 4)
		o.Device = "v0"
		r, err := s.u.Route(netip.AddrPortFrom(all[0], 6081), o)
		must(l.t, err)
		s.index, s.local = int32(r.Ifindex), r.Source
	})
	return s
}

// send sends n datagrams as one run to a group.
func (s *station) send(t testing.TB, group netip.Addr, n int, data string) {
	t.Helper()
	path := &packet.Path{Remote: netip.AddrPortFrom(group, 6081), Local: s.local, Ifindex: s.index, Set: s.set}
	for range n {
		s.sender.Add(path, 0, 0, 9, []byte(data), nil)
	}
	if fs := s.sender.Flush(); len(fs) != 0 {
		t.Fatal(describe(fs))
	}
}

// drain empties all sockets of a listener and counts the datagrams by content.
func drain(t testing.TB, l *Listener) map[string]int {
	t.Helper()
	m := map[string]int{}
	for _, r := range l.receivers {
		for r != nil {
			trains, _, err := r.Receive(room())
			must(t, err)
			if len(trains) == 0 {
				break
			}
			for _, tr := range trains {
				for _, d := range datagramsOf(tr) {
					m[string(d)]++
				}
			}
		}
	}
	return m
}

// hear waits until a listener has got a datagram. It serves as proof that what
// was sent before it has arrived.
func hear(t testing.TB, l *Listener, data string) map[string]int {
	t.Helper()
	all := map[string]int{}
	for range 2000 {
		for k, n := range drain(t, l) {
			all[k] += n
		}
		if all[data] > 0 {
			return all
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%q never came, only %v", data, all)
	return nil
}

func bothFamilies(t *testing.T, f func(t *testing.T, l *lan, family int, groups []netip.Addr)) {
	t.Run("4", func(t *testing.T) { f(t, newLAN(t), 4, groups4) })
	t.Run("6", func(t *testing.T) { f(t, newLAN(t), 6, groups6) })
}

// TestGroup: every host gets one copy of what another sends, whatever the
// number of workers and on the group's socket only, and none of its own.
func TestGroup(t *testing.T) {
	bothFamilies(t, func(t *testing.T, l *lan, family int, groups []netip.Addr) {
		var hosts []*station
		for i, workers := range []int{1, 3, 4} {
			hosts = append(hosts, l.station(i, family, workers, 1))
		}
		fd := l.sniffer(family)
		const run = 20
		for i, h := range hosts {
			h.send(t, groups[0], run, fmt.Sprint("from ", i))
		}
		if w := sniff(t, fd); w.src != hosts[0].local || w.ttl != 9 {
			t.Errorf("%+v on the wire, want source %v and TTL 9", w, hosts[0].local)
		}
		for i, h := range hosts {
			got := hear(t, h.groups[0], fmt.Sprint("from ", (i+2)%3))
			time.Sleep(20 * time.Millisecond) // for what should not come
			for k, n := range drain(t, h.groups[0]) {
				got[k] += n
			}
			want := map[string]int{"from 0": run, "from 1": run, "from 2": run}
			delete(want, fmt.Sprint("from ", i))
			if !maps.Equal(got, want) {
				t.Errorf("host %d got %v, want %v", i, got, want)
			}
			if stray := drain(t, h.anywhere); len(stray) != 0 {
				t.Errorf("host %d: the wildcard sockets got %v", i, stray)
			}
		}
	})
}

// TestGroupsDoNotMix: two groups on one port, a wildcard socket that joined
// neither, and a second program in one of them.
func TestGroupsDoNotMix(t *testing.T) {
	bothFamilies(t, func(t *testing.T, l *lan, family int, groups []netip.Addr) {
		a, b := l.station(0, family, 2, 0), l.station(1, family, 3, 2)
		var second *Listener
		l.in(1, func() {
			u := newUnderlay(t, Config{Workers: 2})
			var err error
			second, err = u.Listen(ListenOptions{Group: groups[1], Port: 6081, Device: "v0"})
			must(t, err)
		})
		a.send(t, groups[0], 1, "first")
		a.send(t, groups[1], 1, "second")
		for i, c := range []struct {
			l         *Listener
			last      string
			unwelcome string
		}{{b.groups[0], "first", "second"}, {b.groups[1], "second", "first"}, {second, "second", "first"}} {
			m := hear(t, c.l, c.last)
			if m[c.last] != 1 || m[c.unwelcome] != 0 {
				t.Errorf("listener %d got %v, want %q once", i, m, c.last)
			}
		}
		for i, s := range []*station{a, b} {
			if m := drain(t, s.anywhere); len(m) != 0 {
				t.Errorf("wildcard sockets of host %d got %v", i, m)
			}
		}
		// A group has one socket, the first.
		for w := range 3 {
			if (b.groups[0].Receiver(w) != nil) != (w == 0) || (b.groups[1].Receiver(w) != nil) != (w == 0) {
				t.Errorf("worker %d has %v and %v", w, b.groups[0].Receiver(w), b.groups[1].Receiver(w))
			}
		}
	})
}

// TestGroupMembership: joined while it is open and not after, and the network
// is told both.
func TestGroupMembership(t *testing.T) {
	bothFamilies(t, func(t *testing.T, l *lan, family int, groups []netip.Addr) {
		fd := l.sniffer(family)
		s := l.station(0, family, 2, 1)
		// CHANGE_TO_EXCLUDE of no source is a join, CHANGE_TO_INCLUDE a leave
		// (RFC 3376 4.2.12, RFC 3810 5.2.12).
		if !reported(t, fd, groups[0], 4) {
			t.Error("no report of the join")
		}
		l.in(0, func() {
			if !joined(int(s.index), groups[0]) || joined(int(s.index), groups[1]) || joined(1, groups[0]) {
				t.Error("not in the first group only, on the device only")
			}
			must(t, s.groups[0].Close())
			if joined(int(s.index), groups[0]) {
				t.Error("still in the group after Close")
			}
		})
		if !reported(t, fd, groups[0], 3) {
			t.Error("no report of the leave")
		}
	})
}

// reported waits for an IGMPv3 or MLDv2 report with a record of this type for
// the group.
func reported(t testing.TB, fd int, group netip.Addr, record byte) bool {
	t.Helper()
	b := make([]byte, 2000)
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		k, err := receive(fd, b)
		if err != nil {
			return false
		}
		p := b[:k]
		switch {
		case k > 24 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_IGMP:
			p = p[int(p[0]&15)*4:]
			if p[0] != 0x22 {
				continue
			}
		case k > 56 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_HOPOPTS && p[40] == unix.IPPROTO_ICMPV6:
			if p = p[48:]; p[0] != 143 {
				continue
			}
		default:
			continue
		}
		size := group.BitLen() / 8
		for n, p := int(p[6])<<8|int(p[7]), p[8:]; n > 0 && len(p) >= 4+size; n-- {
			if p[0] == record && bytes.Equal(p[4:4+size], group.AsSlice()) {
				return true
			}
			p = p[4+size*(1+int(p[2])<<8|int(p[3])):]
		}
	}
	return false
}

// TestGroupBind: who is in whose way on a port.
func TestGroupBind(t *testing.T) {
	n := newNetwork(t)
	d := netlink.NewLinkAttrs()
	d.Name = "d0"
	must(t, n.nl.LinkAdd(&netlink.Ifb{LinkAttrs: d}))
	n.setUp(n.nl, "d0")
	for _, f := range []struct {
		any, local, group, other netip.Addr
	}{{any4, here4, groups4[0], groups4[1]}, {any6, here6, groups6[0], groups6[1]}} {
		on := func(o ListenOptions) func(*Underlay) (*Listener, error) {
			o.Port = 6081
			return func(u *Underlay) (*Listener, error) { return u.Listen(o) }
		}
		// A program of another kind: opts are set before it binds to at.
		foreign := func(at netip.Addr, opts ...int) func(*Underlay) (*Listener, error) {
			return func(u *Underlay) (*Listener, error) {
				fd, err := unix.Socket(familyOf(at), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				must(t, err)
				l := &Listener{u: u, receivers: []*Receiver{newReceiver(fd, 1, at.Is4(), true)}}
				for _, o := range opts {
					must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1))
				}
				sa, err := u.sockaddr(at, 6081, "v0")
				must(t, err)
				if s6, ok := sa.(*unix.SockaddrInet6); ok && at.IsLinkLocalMulticast() {
					s6.ZoneId = uint32(n.link(n.nl, "v0").Attrs().Index)
				}
				if err := unix.Bind(fd, sa); err != nil {
					l.Close()
					return nil, err
				}
				return l, nil
			}
		}
		group := on(ListenOptions{Group: f.group, Device: "v0"})
		for _, c := range []struct {
			name          string
			first, second func(*Underlay) (*Listener, error)
			conflict      bool
		}{
			{"wildcard, group", on(ListenOptions{Local: f.any}), group, false},
			{"group, wildcard", group, on(ListenOptions{Local: f.any}), true},
			{"wildcard on the device, group", on(ListenOptions{Local: f.any, Device: "v0"}), group, false},
			{"group, wildcard on another device", group, on(ListenOptions{Local: f.any, Device: "d0"}), false},
			{"address, group", on(ListenOptions{Local: f.local}), group, false},
			{"group, address", group, on(ListenOptions{Local: f.local}), false},
			{"group, another group", group, on(ListenOptions{Group: f.other, Device: "v0"}), false},
			{"group, on another device", group, on(ListenOptions{Group: f.group, Device: "d0"}), false},
			{"group twice", group, group, false},
			{"plain wildcard of another program, group", foreign(f.any), group, true},
			{"one with SO_REUSEADDR, group", foreign(f.any, unix.SO_REUSEADDR), group, true},
			{"one with SO_REUSEPORT, group", foreign(f.any, unix.SO_REUSEPORT), group, false},
			{"plain one on the group, group", foreign(f.group), group, true},
			{"group, plain wildcard of another program", group, foreign(f.any), true},
			{"group, one with SO_REUSEADDR", group, foreign(f.any, unix.SO_REUSEADDR), true},
		} {
			u := newUnderlay(t, Config{Workers: 2})
			a, err := c.first(u)
			if err != nil {
				t.Errorf("%s: the first: %v", c.name, err)
				continue
			}
			b, err := c.second(u)
			if c.conflict && !errors.Is(err, unix.EADDRINUSE) || !c.conflict && err != nil {
				t.Errorf("%v: %s: %v, conflict wanted: %v", f.group, c.name, err, c.conflict)
			}
			if b != nil {
				b.Close()
			}
			a.Close()
		}
	}
}

func TestGroupErrors(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{})
	for _, c := range []struct {
		o    ListenOptions
		want error
		text string
	}{
		{ListenOptions{Group: here4, Port: 6081, Device: "v0"}, nil, "not a multicast address"},
		{ListenOptions{Group: groups4[0], Port: 6081}, nil, "name the device"},
		{ListenOptions{Group: groups4[0], Device: "v0"}, nil, "port 0"},
		{ListenOptions{Group: groups4[0], Local: here6, Port: 6081, Device: "v0"}, nil, "other family"},
		{ListenOptions{Group: groups6[1].WithZone("lo"), Port: 6081, Device: "v0"}, nil, "zone is not"},
		{ListenOptions{Group: netip.AddrFrom16(groups4[0].As16()), Port: 6081, Device: "v0"}, nil, "not a plain"},
		{ListenOptions{Group: groups6[0], Port: 6081, Device: "nosuch"}, unix.ENODEV, "nosuch"},
	} {
		_, err := u.Listen(c.o)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !bytes.Contains([]byte(err.Error()), []byte(c.text)) {
			t.Errorf("Listen(%+v): %v, want %v and %q", c.o, err, c.want, c.text)
		}
	}
	l, err := u.Listen(ListenOptions{Group: groups6[1].WithZone("v0"), Port: 6081, Device: "v0"})
	must(t, err)
	must(t, l.Close())
}

// TestRenew takes from the sockets all that a device can lose.
func TestRenew(t *testing.T) {
	bothFamilies(t, func(t *testing.T, l *lan, family int, groups []netip.Addr) {
		n := &network{t: t}
		away := n.make() // where the device goes for a while
		t.Cleanup(func() { away.Close() })
		must(t, netns.Set(l.home))
		a, b := l.station(0, family, 1, 0), l.station(1, family, 2, 0)
		// The group's device has no address yet.
		must(t, l.nl.LinkDel(n.link(l.nl, "p1")))
		l.plug(1)
		var group *Listener
		var set *packet.PortSet
		l.in(1, func() {
			var err error
			group, err = b.u.Listen(ListenOptions{Group: groups[0], Port: 6081, Device: "v0"})
			must(t, err)
			set, err = b.u.Ports(PortOptions{Family: family, Device: "v0", Min: 50000, Max: 60000, Count: 2})
			must(t, err)
		})
		works := func(what string, want int, wantErr bool) {
			t.Helper()
			l.in(1, func() {
				if renewed, err := b.u.Renew(); renewed != want || (err != nil) != wantErr {
					t.Errorf("%s: Renew: %d, %v, want %d, error %v", what, renewed, err, want, wantErr)
				}
				if renewed, err := b.u.Renew(); renewed != 0 || (err != nil) != wantErr {
					t.Errorf("%s: Renew again: %d, %v, want 0, error %v", what, renewed, err, wantErr)
				}
			})
			if wantErr {
				return
			}
			// The bridge takes up to a second to see that its port has a link.
			came := false
			for deadline := time.Now().Add(3 * time.Second); !came && time.Now().Before(deadline); {
				a.send(t, groups[0], 1, what)
				time.Sleep(10 * time.Millisecond)
				came = drain(t, group)[what] > 0
			}
			if !came {
				t.Errorf("%s: nothing comes", what)
			}
			index := n.link(l.hnl[1], "v0").Attrs().Index
			for _, fd := range slices.Concat(set.FD...) {
				if bound, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); bound != index {
					t.Errorf("%s: a source port is bound to device %d (%v), want %d", what, bound, err, index)
				}
			}
		}
		n.setUp(l.hnl[1], "v0", l.addrs(1)...)
		works("late address", 0, false)

		v0 := n.link(l.hnl[1], "v0")
		must(t, l.hnl[1].LinkSetDown(v0))
		must(t, l.hnl[1].LinkSetUp(v0))
		works("down and up", 0, false)

		must(t, l.nl.LinkDel(n.link(l.nl, "p1")))
		works("gone", 0, true)
		l.plug(1)
		n.setUp(l.hnl[1], "v0", l.addrs(1)...)
		works("back with another index", 1+4, false)

		// With the same index, but what it was joined to is lost.
		v0 = n.link(l.hnl[1], "v0")
		must(t, l.hnl[1].LinkSetNsFd(v0, int(away)))
		h := n.handle(away)
		defer h.Close()
		must(t, h.LinkSetNsFd(n.link(h, "v0"), int(l.host[1])))
		if now := n.link(l.hnl[1], "v0").Attrs().Index; now != v0.Attrs().Index {
			t.Errorf("the device came back with index %d, not %d: nothing shown", now, v0.Attrs().Index)
		}
		n.setUp(l.hnl[1], "v0", l.addrs(1)...)
		works("back with the same index", 1, false)

		must(t, l.nl.LinkDel(n.link(l.nl, "p1")))
		must(t, group.Close())
	})
}

// TestStale: the sockets of an address, whose device is another one by now.
func TestStale(t *testing.T) {
	n := newNetwork(t)
	u := newUnderlay(t, Config{Workers: 4})
	o := ListenOptions{Local: here4, Port: 6081, Device: "v0"}
	bound, err := u.Listen(o)
	must(t, err)
	free, err := u.Listen(ListenOptions{Local: any6, Port: 6081})
	must(t, err)
	stale := func(when string, want bool) {
		t.Helper()
		if _, err := u.Renew(); err != nil {
			t.Errorf("%s: Renew: %v", when, err)
		}
		if bound.Stale() != want || free.Stale() {
			t.Errorf("%s: bound %t, without device %t, want %t, false", when, bound.Stale(), free.Stale(), want)
		}
	}
	stale("fresh", false)
	must(t, n.nl.LinkDel(n.link(n.nl, "v0")))
	stale("gone", false)
	peer := netlink.NewLinkAttrs()
	peer.Name = "v0"
	must(t, n.nl.LinkAdd(&netlink.Veth{LinkAttrs: peer, PeerName: "v1"}))
	stale("back without address", true)
	if _, err := u.Listen(o); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("Listen without the address: %v, want EADDRNOTAVAIL", err)
	}
	n.setUp(n.nl, "v0", "10.9.0.1/24")
	again, err := u.Listen(o)
	must(t, err)
	must(t, bound.Close())
	bound = again
	stale("anew", false)
}

// TestRenewAfterListen: the device comes back between the look for stale sockets and Renew.
// The group's socket must not take the new device first: those of the address would find it
// in their way for ever.
func TestRenewAfterListen(t *testing.T) {
	for _, c := range []struct{ any, group netip.Addr }{{any4, groups4[0]}, {any6, groups6[1]}} {
		t.Run(c.any.String(), func(t *testing.T) {
			n := newNetwork(t)
			u := newUnderlay(t, Config{Workers: 2})
			o := ListenOptions{Local: c.any, Port: 6081, Device: "v0"}
			bound, err := u.Listen(o)
			must(t, err)
			group, err := u.Listen(ListenOptions{Group: c.group, Port: 6081, Device: "v0"})
			must(t, err)
			renew := func(when string, want int) {
				t.Helper()
				if renewed, err := u.Renew(); renewed != want || err != nil {
					t.Errorf("%s: Renew: %d, %v, want %d", when, renewed, err, want)
				}
			}
			must(t, n.nl.LinkDel(n.link(n.nl, "v0")))
			peer := netlink.NewLinkAttrs()
			peer.Name = "v0"
			must(t, n.nl.LinkAdd(&netlink.Veth{LinkAttrs: peer, PeerName: "v1"}))
			n.setUp(n.nl, "v0", "10.9.0.1/24", "fd09::1/64")
			renew("before Listen", 0)
			again, err := u.Listen(o)
			must(t, err)
			renew("after Listen", 1)
			must(t, bound.Close())
			must(t, again.Close())
			must(t, group.Close())
		})
	}
}

func TestFindGroup(t *testing.T) {
	const table4 = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
		"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
		"12\tv0        :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t1\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
	const table6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n" +
		"12   v0              ff050000000000000000000000000123     1 00000004 0\n"
	for _, c := range []struct {
		index int
		group string
		want  bool
	}{
		{12, "239.1.2.3", true}, {12, "224.0.0.1", true}, {1, "224.0.0.1", true}, {1, "239.1.2.3", false}, {2, "239.1.2.3", false},
		{12, "239.1.2.4", false}, {12, "ff05::123", true}, {1, "ff05::123", false}, {12, "ff02::1", false}, {1, "ff02::1", true},
	} {
		g := netip.MustParseAddr(c.group)
		find, table := findGroup4, table4
		if g.Is6() {
			find, table = findGroup6, table6
		}
		if got := find([]byte(table), c.index, g); got != c.want {
			t.Errorf("device %d in %v: %v, want %v", c.index, g, got, c.want)
		}
	}
	if findGroup4(nil, 1, groups4[0]) || findGroup6([]byte("\n"), 1, groups6[0]) {
		t.Error("found in an empty table")
	}
}

// TestRouteByDevice: what --dev is for, and groups.
func TestRouteByDevice(t *testing.T) {
	n := newNetwork(t)
	d := netlink.NewLinkAttrs()
	d.Name, d.MTU = "d0", 1400
	must(t, n.nl.LinkAdd(&netlink.Ifb{LinkAttrs: d}))
	n.setUp(n.nl, "d0", "10.8.0.1/24", "fd08::1/64")
	u := newUnderlay(t, Config{})
	v0, d0 := n.link(n.nl, "v0").Attrs().Index, n.link(n.nl, "d0").Attrs().Index
	a8, a86 := netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("fd08::1")
	for _, c := range []struct {
		remote, local netip.Addr
		dev           string
		want          Route
	}{
		{there4, netip.Addr{}, "", Route{Ifindex: v0, Source: here4, MTU: 1500}},
		{there4, netip.Addr{}, "d0", Route{Ifindex: d0, Source: a8, MTU: 1400}},
		{groups4[0], netip.Addr{}, "v0", Route{Ifindex: v0, Source: here4, MTU: 1500}},
		{groups4[0], netip.Addr{}, "d0", Route{Ifindex: d0, Source: a8, MTU: 1400}},
		{groups4[0], here4, "d0", Route{Ifindex: d0, Source: here4, MTU: 1400}},
		{groups6[0], netip.Addr{}, "v0", Route{Ifindex: v0, Source: here6, MTU: 1500}},
		{groups6[0], netip.Addr{}, "d0", Route{Ifindex: d0, Source: a86, MTU: 1400}},
		{groups6[0], any6, "d0", Route{Ifindex: d0, Source: a86, MTU: 1400}},
	} {
		c.want.Link = c.want.MTU
		if got, err := routeOf(u, c.remote, c.local, c.dev); err != nil || got != c.want {
			t.Errorf("Route(%v, %v, %q) = %+v, %v, want %+v", c.remote, c.local, c.dev, got, err, c.want)
		}
	}
	if _, err := routeOf(u, there4, netip.Addr{}, "nosuch"); err == nil {
		t.Error("a route by a device that is not there")
	}
}

func TestPrefixes(t *testing.T) {
	n := newNetwork(t)
	n.setUp(n.nl, "v0", "10.9.0.7/24", "10.4.4.4/32", "fd07::1/48")
	ptp, err := netlink.ParseAddr("10.5.0.1/32")
	must(t, err)
	if ptp.Peer, err = netlink.ParseIPNet("10.6.0.9/30"); err != nil {
		t.Fatal(err)
	}
	must(t, n.nl.AddrAdd(n.link(n.nl, "v0"), ptp))
	u := newUnderlay(t, Config{})
	got, err := u.Prefixes("v0")
	must(t, err)
	got = slices.DeleteFunc(got, func(p netip.Prefix) bool { return p == netip.MustParsePrefix("fe80::/64") })
	want := []netip.Prefix{
		netip.MustParsePrefix("10.4.4.4/32"), netip.MustParsePrefix("10.6.0.8/30"), netip.MustParsePrefix("10.9.0.0/24"),
		netip.MustParsePrefix("fd07::/48"), netip.MustParsePrefix("fd09::/64"),
	}
	slices.SortFunc(want, netip.Prefix.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("Prefixes = %v, want %v", got, want)
	}
	if _, err := u.Prefixes("nosuch"); err == nil {
		t.Error("prefixes of a device that is not there")
	}
}
