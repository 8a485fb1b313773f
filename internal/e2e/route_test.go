package e2e

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route to the remote that leads into the tunnel itself. A packet that
// followed it would be wrapped again and again.
//
//	a                                          b
//	gnv0  192.0.2.1/24 . . . . . . . . . . .   gnv0  192.0.2.2/24
//	  ^ 10.77.0.2/32 or fd77::2/128 dev gnv0
//	veth0 10.77.0.1/24, fd77::1/64  =======    veth0 10.77.0.2/24, fd77::2/64

// looped makes a pair without any chatter, and returns the route that makes
// the loop in a.
func looped(t *testing.T, f family, words ...string) (p pair, route *netlink.Route) {
	t.Helper()
	p = newPair(t, f, words...)
	p.a.neighbour("gnv0", "192.0.2.2", p.b.mac("gnv0"))
	p.b.neighbour("gnv0", "192.0.2.1", p.a.mac("gnv0"))
	p.a.neighbour("gnv0", f.far, p.b.mac("gnv0"))
	return p, loopRoute(p.a, f)
}

func loopRoute(a *host, f family) *netlink.Route {
	bits := map[bool]int{true: 32, false: 128}[f.name == "IPv4"]
	dst := &net.IPNet{IP: net.ParseIP(f.far), Mask: net.CIDRMask(bits, bits)}
	return &netlink.Route{LinkIndex: a.index("gnv0"), Dst: dst, Scope: netlink.SCOPE_LINK}
}

// probe sends one UDP packet to the other end's discard port, so to say.
func probe(t *testing.T, c *net.UDPConn, text string) {
	t.Helper()
	if _, err := c.WriteTo([]byte(text), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 9}); err != nil {
		t.Fatal(err)
	}
}

func TestRouteIntoTunnel(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		for _, df := range []string{"set", "unset"} {
			t.Run(f.name+", df "+df, func(t *testing.T) {
				p, route := looped(t, f, "--df", df)
				ping := func(wait string) bool {
					_, _, code := p.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", wait, "192.0.2.2")
					return code == 0
				}
				if !ping("5") {
					t.Fatal("no answer before the route")
				}
				p.b.listenUDP("192.0.2.2:9")
				c := p.a.listenUDP("192.0.2.1:0")
				device, wire := p.a.capture("gnv0", 10_000), p.a.capture("veth0", 10_000)
				here := func(f frame) bool { return !chatter(f.data) }
				// What one packet makes on each link while all is well.
				probe(t, c, "NORMAL")
				wire.await(5*time.Second, 1, 0, here)
				if !fastpath() { // what leaves the fast way is not seen on the device
					device.await(5*time.Second, 1, 0, here)
				}
				if d, w := len(device.kept(0, here)), len(wire.kept(0, here)); d != 1 && !fastpath() || w != 1 {
					t.Fatalf("without the route one packet is %d on the device and %d on the wire, want 1 and 1", d, w)
				}
				for i, pause := range []time.Duration{0, 300 * time.Millisecond} {
					d, w := device.count(), wire.count()
					p.a.must("route", p.a.nl.RouteAdd(route))
					time.Sleep(pause) // at once, and when it has been noticed
					// By its text: an answer to a ping of before may be captured late.
					text := fmt.Sprint("LOOPED", i)
					ours := func(f frame) bool { return bytes.Contains(f.data, []byte(text)) }
					probe(t, c, text)
					time.Sleep(700 * time.Millisecond)
					for _, link := range []struct {
						name string
						c    *capture
						from int
					}{{"device", device, d}, {"wire", wire, w}} {
						if n := len(link.c.kept(link.from, ours)); n > 2 {
							t.Errorf("%s after the route: one packet makes %d on the %s, want at most one more than itself", pause, n, link.name)
						}
						if n := link.c.count() - link.from; n > 10 {
							t.Errorf("%s after the route: %d frames on the %s in all", pause, n, link.name)
						}
					}
					if pause > 0 {
						if ping("0.3") {
							t.Error("an answer although the route leads nowhere: does this test make a loop?")
						}
						if n := p.ga.counters()["tx.loop"]; n == 0 {
							t.Errorf("counters %v, want tx.loop", p.ga.counters())
						}
						if text := p.a.ok(5*time.Second, p.ga.binary, "-i", p.ga.instance, "show"); !strings.Contains(text, "ERROR") {
							t.Errorf("gvtep show does not say that something is wrong:\n%s", text)
						}
					}
					if mtu := p.a.mtu("gnv0"); mtu != f.mtu {
						t.Errorf("%s after the route: MTU %d, want %d: a path through the tunnel is none to follow", pause, mtu, f.mtu)
					}
					// Below an MTU of 1280 the kernel takes IPv6 and its routes from a device.
					if err := p.a.nl.RouteDel(route); err != nil && err != unix.ESRCH {
						t.Fatal(err)
					}
					mended := time.Now()
					within(t, 10*time.Second, "an answer after the route is gone", func() bool { return ping("0.3") })
					t.Logf("%s until an answer after the route is gone", time.Since(mended).Round(time.Millisecond))
				}
			})
		}
	}
}

// The route is there before the tunnel is: refused, or harmless, and status says that the
// tunnel reaches nobody.
func TestRouteIntoTunnelAtStart(t *testing.T) {
	need(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p, route := looped(t, f, "--persist", "on")
			p.ga.stop()
			p.a.must("route", p.a.nl.RouteAdd(route))
			g := p.a.launch(p.ga.binary, newInstance(), "gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--persist", "on")
			if !soon(3*time.Second, func() bool {
				var s healthAnswer
				return g.ask("/v1/status", &s) == nil && !s.Ready && strings.Contains(s.Reason, "leads into a tunnel")
			}) {
				code, err := g.end(syscall.SIGTERM, time.Second)
				if err != nil || code != 2 || !oneLine(g.stderr.String()) {
					t.Errorf("neither running and not ready nor refused: exit status %d, %v, %q", code, err, g.stderr.String())
				}
				return
			}
			device, wire := p.a.capture("gnv0", 1000), p.a.capture("veth0", 1000)
			c := p.a.listenUDP("192.0.2.1:0")
			probe(t, c, "LOOPED")
			time.Sleep(700 * time.Millisecond)
			for _, link := range []*capture{device, wire} {
				if n := len(link.kept(0, func(f frame) bool { return bytes.Contains(f.data, []byte("LOOPED")) })); n > 2 {
					t.Errorf("one packet makes %d on %s, want at most one more than itself", n, link.name)
				}
			}
		})
	}
}
