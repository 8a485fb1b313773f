package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// routed is two hosts with a router between them, whose link to b carries less, and a
// tunnel over it.
//
//	a  gnv0 192.0.2.1, fd92::1                     b  gnv0 192.0.2.2, fd92::2
//	veth0 ======== MTU 1500 ====== r ==== MTU =========== veth0
//	10.77.1.1, fd77:1::1                           10.77.2.1, fd77:2::1
type routed struct {
	a, r, b *host
	g       *gvtep
}

func newRouted(t *testing.T, near, far string, mtu int) routed {
	t.Helper()
	a, r, b := newHost(t, "a"), newHost(t, "r"), newHost(t, "b")
	cable(a, "veth0", r, "left")
	cable(b, "veth0", r, "right")
	b.must("mtu", b.nl.LinkSetMTU(b.link("veth0"), mtu))
	r.must("mtu", r.nl.LinkSetMTU(r.link("right"), mtu))
	r.sysctl("net/ipv4/ip_forward", "1")
	r.sysctl("net/ipv6/conf/all/forwarding", "1")
	a.address("veth0", "10.77.1.1/24", "fd77:1::1/64")
	r.address("left", "10.77.1.2/24", "fd77:1::2/64")
	b.address("veth0", "10.77.2.1/24")
	r.address("right", "10.77.2.2/24")
	a.ip("route add default via 10.77.1.2")
	b.ip("route add default via 10.77.2.2")
	if mtu >= 1280 { // else there is no IPv6
		b.address("veth0", "fd77:2::1/64")
		r.address("right", "fd77:2::2/64")
		a.ip("-6 route add default via fd77:1::2")
		b.ip("-6 route add default via fd77:2::2")
	}
	g := a.tunnel("gnv0", "--id", "42", "--local", near, "--remote", far, "--address", "192.0.2.1/24", "--address", "fd92::1/64")
	b.tunnel("gnv0", "--id", "42", "--local", far, "--remote", near, "--address", "192.0.2.2/24", "--address", "fd92::2/64")
	return routed{a, r, b, g}
}

// ip runs ip(8) on a host.
func (h *host) ip(line string) {
	h.t.Helper()
	h.ok(5*time.Second, "ip", strings.Fields(line)...)
}

// pathMTU is what the tunnel tells about its first peer.
func (g *gvtep) pathMTU(dev string) int {
	var s struct {
		Gvtep struct {
			Peers []struct {
				PathMTU int `json:"path_mtu"`
			} `json:"peers"`
		}
	}
	if g.ask("/v1/tunnels/"+dev, &s) != nil || len(s.Gvtep.Peers) == 0 {
		return -1
	}
	return s.Gvtep.Peers[0].PathMTU
}

// carries sends a megabyte by TCP.
func carries(t *testing.T, from, to *host, address string) {
	t.Helper()
	listener := to.listenTCP(addrPort(address, "7"))
	defer listener.Close()
	sent := strings.Repeat("path", 1<<18)
	got := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		all, err := io.ReadAll(conn)
		if err != nil {
			all = append(all, err.Error()...)
		}
		got <- string(all)
	}()
	conn := from.dialTCP(addrPort(address, "7"))
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := io.WriteString(conn, sent)
	conn.Close()
	if text := <-got; err != nil || text != sent {
		t.Errorf("TCP to %s: %v, %d bytes of %d arrived", address, err, len(text), len(sent))
	}
}

// TestSmallPath: a link on the way is smaller than what IPv6 needs inside. The device
// keeps its MTU and its addresses, who sends too much is told, and what everybody may
// send comes through in outer fragments.
func TestSmallPath(t *testing.T) {
	need(t, "ip", "ping")
	for _, c := range []struct {
		near, far string
		path, mtu int // of the path, and of the device
	}{
		{"10.77.1.1", "10.77.2.1", 1300, 1450},
		{"10.77.1.1", "10.77.2.1", 1200, 1450},
		{"fd77:1::1", "fd77:2::1", 1300, 1430},
	} {
		t.Run(fmt.Sprint(c.near, " ", c.path), func(t *testing.T) {
			l := newRouted(t, c.near, c.far, c.path)
			l.a.pings("192.0.2.2")
			l.a.pings("fd92::2")
			// Both ends learn it with the first that is too long.
			within(t, 10*time.Second, fmt.Sprintf("path MTU %d", c.path), func() bool {
				l.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.2", "-s", "1372", "192.0.2.2")
				return l.g.pathMTU("gnv0") == c.path
			})
			within(t, 5*time.Second, "1280 bytes of IPv6", func() bool {
				_, _, code := l.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.5", "-s", "1232", "fd92::2")
				return code == 0
			})
			l.a.pings("192.0.2.2", "-M", "dont", "-s", "1252")
			l.a.pings("fd92::2", "-s", "1232")
			within(t, 5*time.Second, "a longer packet of IPv6, cut by its sender", func() bool {
				_, _, code := l.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.5", "-M", "dont", "-s", "1370", "fd92::2")
				return code == 0
			})
			carries(t, l.a, l.b, "192.0.2.2")
			carries(t, l.a, l.b, "fd92::2")
			carries(t, l.b, l.a, "fd92::1")
			if mtu := l.a.mtu("gnv0"); mtu != c.mtu {
				t.Errorf("MTU %d, want %d: what was learned of a path is no reason to change it", mtu, c.mtu)
			}
			if !l.a.hasAddress("gnv0", "fd92::1/64") {
				t.Error("the IPv6 address is gone")
			}
			if got := l.g.pathMTU("gnv0"); got != c.path {
				t.Errorf("path MTU %d, want %d", got, c.path)
			}
		})
	}
}

// TestSmallRoute: an administrator writes a small MTU to the route for a moment. IPv6
// lives through it.
func TestSmallRoute(t *testing.T) {
	need(t, "ip", "ping")
	a, b := underlay(t)
	p := pair{
		a, b,
		a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24", "--address", "fd92::1/64"),
		b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--address", "fd92::2/64"),
	}
	p.a.pings("fd92::2")
	p.a.ip("route replace 10.77.0.2 dev veth0 mtu 1300")
	within(t, 5*time.Second, "MTU 1280", func() bool { return p.a.mtu("gnv0") == 1280 })
	p.a.pings("fd92::2", "-s", "1232")
	p.a.pings("192.0.2.2", "-s", "1252")
	if got := p.ga.pathMTU("gnv0"); got != 1300 {
		t.Errorf("path MTU %d, want 1300", got)
	}
	p.a.ip("route del 10.77.0.2 dev veth0 mtu 1300")
	within(t, 5*time.Second, "MTU 1450", func() bool { return p.a.mtu("gnv0") == 1450 })
	p.a.pings("fd92::2", "-s", "1402")
	if !p.a.hasAddress("gnv0", "fd92::1/64") {
		t.Error("the IPv6 address is gone")
	}
	// Without IPv6 it may be less.
	p.a.sysctl("net/ipv6/conf/gnv0/disable_ipv6", "1")
	p.a.ip("route replace 10.77.0.2 dev veth0 mtu 1300")
	within(t, 5*time.Second, "MTU 1250", func() bool { return p.a.mtu("gnv0") == 1250 })
}

// TestPolicyRoute: what routes the datagrams is a rule by protocol and port. In one case
// its table has a smaller MTU, in the other it alone has a way.
func TestPolicyRoute(t *testing.T) {
	need(t, "ip", "ping")
	for _, c := range []struct {
		name     string
		f        family
		ip, far  string
		onlyWay  bool
		overhead int
	}{
		{"smaller, IPv4", families[0], "-4", "10.77.0.2", false, 50},
		{"smaller, IPv6", families[1], "-6", "fd77::2", false, 70},
		{"only way, IPv4", families[0], "-4", "10.88.0.2", true, 50},
		{"only way, IPv6", families[1], "-6", "fd88::2", true, 70},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := underlay(t)
			b.address("veth0", "10.88.0.2/32", "fd88::2/128")
			for _, h := range []*host{a, b} {
				h.ip(c.ip + " rule add ipproto udp dport 6081 lookup 100")
			}
			mtu := 1400
			if c.onlyWay {
				a.ip(c.ip + " route add " + c.far + " via " + c.f.far + " dev veth0 mtu 1400 table 100")
			} else {
				a.ip(c.ip + " route add " + c.far + " dev veth0 mtu 1400 table 100")
			}
			b.ip(c.ip + " route add " + c.f.near + " dev veth0 mtu 1400 table 100")
			g := a.tunnel("gnv0", "--id", "42", "--local", c.f.near, "--remote", c.far, "--address", "192.0.2.1/24")
			b.tunnel("gnv0", "--id", "42", "--local", c.far, "--remote", c.f.near, "--address", "192.0.2.2/24")
			a.pings("192.0.2.2", "-s", "1300")
			carries(t, a, b, "192.0.2.2")
			carries(t, b, a, "192.0.2.1")
			if got := g.pathMTU("gnv0"); got != mtu {
				t.Errorf("path MTU %d, want %d", got, mtu)
			}
			if got := a.mtu("gnv0"); got != mtu-c.overhead {
				t.Errorf("MTU %d, want %d: an administrator wrote it", got, mtu-c.overhead)
			}
			if n := g.counters()["tx.no_route"]; n != 0 {
				t.Errorf("%d no_route", n)
			}
		})
	}
}

// TestMultipath: the way is chosen by port, and one of two carries less.
func TestMultipath(t *testing.T) {
	need(t, "ip")
	for _, mtus := range [][]int{{1500, 1400}, {1400, 1500}} { // one of them asked by address only is wrong
		t.Run(fmt.Sprint(mtus), func(t *testing.T) { multipath(t, mtus) })
	}
}

func multipath(t *testing.T, mtus []int) {
	a, b := newHost(t, "a"), newHost(t, "b")
	for i, mtu := range mtus {
		dev := fmt.Sprint("link", i)
		cable(a, dev, b, dev)
		a.must("mtu", a.nl.LinkSetMTU(a.link(dev), mtu))
		b.must("mtu", b.nl.LinkSetMTU(b.link(dev), mtu))
		a.address(dev, fmt.Sprintf("10.77.%d.1/24", i))
		b.address(dev, fmt.Sprintf("10.77.%d.2/24", i))
	}
	for i, h := range []*host{a, b} {
		h.address("lo", fmt.Sprintf("10.88.0.%d/32", i+1))
		h.up("lo")
		h.sysctl("net/ipv4/fib_multipath_hash_policy", "1")
		h.ip(fmt.Sprintf("route add 10.88.0.%d src 10.88.0.%d nexthop via 10.77.0.%d dev link0 nexthop via 10.77.1.%d dev link1", 2-i, i+1, 2-i, 2-i))
	}
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.88.0.1", "--remote", "10.88.0.2", "--address", "192.0.2.1/24")
	b.tunnel("gnv0", "--id", "42", "--local", "10.88.0.2", "--remote", "10.88.0.1", "--address", "192.0.2.2/24")
	for range 4 { // each a flow of its own, and a source port
		carries(t, a, b, "192.0.2.2")
	}
	if path, mtu := g.pathMTU("gnv0"), a.mtu("gnv0"); path != 1400 || mtu != 1350 {
		t.Errorf("path MTU %d, MTU %d; want 1400 and 1350, the smaller way's", path, mtu)
	}
}
