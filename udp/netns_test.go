package udp

import (
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// network is two namespaces, here and there, joined by a veth:
//
//	here  v0 10.9.0.1/24 fd09::1/64 --- v1 10.9.0.2/24 fd09::2/64  there
//
// The test's goroutine is in here.
type network struct {
	t           testing.TB
	here, there netns.NsHandle
	nl, nlThere *netlink.Handle
}

// newNetwork makes both and takes them away at the end of the test.
func newNetwork(t testing.TB) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root to make network namespaces")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t}
	t.Cleanup(func() {
		for _, h := range []*netlink.Handle{n.nl, n.nlThere} {
			if h != nil {
				h.Close()
			}
		}
		if err := netns.Set(home); err == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
		n.here.Close()
		n.there.Close()
	})
	n.there = n.make()
	n.here = n.make()
	n.nl, n.nlThere = n.handle(n.here), n.handle(n.there)

	peer := netlink.NewLinkAttrs()
	peer.Name = "v0"
	must(t, n.nl.LinkAdd(&netlink.Veth{LinkAttrs: peer, PeerName: "v1"}))
	v1 := n.link(n.nl, "v1")
	must(t, n.nl.LinkSetNsFd(v1, int(n.there)))
	n.setUp(n.nl, "v0", "10.9.0.1/24", "fd09::1/64")
	n.setUp(n.nlThere, "v1", "10.9.0.2/24", "fd09::2/64")
	// The route of an IPv6 address appears some time after it.
	for range 200 {
		r, err := n.nl.RouteGet(netip.MustParseAddr("fd09::1").AsSlice())
		if err == nil && len(r) == 1 && r[0].Type == unix.RTN_LOCAL {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return n
}

func (n *network) make() netns.NsHandle {
	n.t.Helper()
	ns, err := netns.New()
	must(n.t, err)
	h := n.handle(ns)
	defer h.Close()
	must(n.t, h.LinkSetUp(n.link(h, "lo")))
	return ns
}

func (n *network) handle(ns netns.NsHandle) *netlink.Handle {
	n.t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	must(n.t, err)
	return h
}

func (n *network) link(h *netlink.Handle, name string) netlink.Link {
	n.t.Helper()
	l, err := h.LinkByName(name)
	must(n.t, err)
	return l
}

func (n *network) setUp(h *netlink.Handle, name string, addrs ...string) {
	n.t.Helper()
	l := n.link(h, name)
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		addr, err := netlink.ParseAddr(a)
		must(n.t, err)
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		must(n.t, h.AddrAdd(l, addr))
	}
	must(n.t, h.LinkSetUp(l))
}

// inThere runs f in the other namespace.
func (n *network) inThere(f func()) {
	n.t.Helper()
	must(n.t, netns.Set(n.there))
	defer func() { must(n.t, netns.Set(n.here)) }()
	f()
}

// addRoute adds a route of a type that refuses (unreachable, prohibit, blackhole).
func (n *network) addRoute(dst string, kind int) {
	n.t.Helper()
	d, err := netlink.ParseIPNet(dst)
	must(n.t, err)
	must(n.t, n.nl.RouteAdd(&netlink.Route{Dst: d, Type: kind}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newUnderlay(t testing.TB, cfg Config) *Underlay {
	t.Helper()
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	u, err := New(cfg)
	must(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// routeOf asks for the route from a socket of one port.
func routeOf(u *Underlay, remote, local netip.Addr, dev string) (Route, error) {
	o := fixed(4, 1)
	if remote.Is6() {
		o.Family = 6
	}
	o.Local, o.Device = local, dev
	return u.Route(netip.AddrPortFrom(remote, 6081), o)
}

func fixed(family, count int) PortOptions {
	return PortOptions{Family: family, DF: true, Min: 49152, Max: 65535, Count: count}
}

// take receives from all receivers until want datagrams came, and returns copies
// of the trains. It waits longer than the second after which a lost ARP request
// is sent again.
func take(t testing.TB, l *Listener, want int) (got []packet.Train) {
	t.Helper()
	deadline := time.Now().Add(4 * time.Second)
	n := 0
	for n < want && time.Now().Before(deadline) {
		for _, r := range l.receivers {
			trains, _, err := r.Receive(room())
			must(t, err)
			for _, tr := range trains {
				tr.Data = append([]byte(nil), tr.Data...)
				got = append(got, tr)
				n += len(datagramsOf(tr))
			}
		}
		time.Sleep(time.Millisecond)
	}
	if n != want {
		t.Fatalf("%d datagrams came, want %d", n, want)
	}
	return got
}

// datagramsOf takes a train apart.
func datagramsOf(tr packet.Train) (out [][]byte) {
	if tr.Size == 0 {
		return [][]byte{tr.Data}
	}
	for at := 0; at < len(tr.Data); at += tr.Size {
		out = append(out, tr.Data[at:min(at+tr.Size, len(tr.Data))])
	}
	return out
}

func openFDs(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(d)
}

// skip is t.Skip, unless nothing may be skipped: CI installs what is needed.
func skip(t testing.TB, args ...any) {
	t.Helper()
	if os.Getenv("GVTEP_TEST_REQUIRE") != "" {
		t.Fatal(append([]any{"GVTEP_TEST_REQUIRE is set: "}, args...)...)
	}
	t.Skip(args...)
}

// room is a buffer to receive into.
func room() []byte { return make([]byte, netio.ReceiveBuffer) }
