package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A tunnel that is carried by another one of the same process.
//
//	a                                            b
//	gnv1 192.0.2.1/24 -- VNI 43 ---------------> gnv1 192.0.2.2/24
//	gnv0 10.66.0.1/24 -- VNI 42, carries it ---> gnv0 10.66.0.2/24
//	veth0 10.77.0.1/24 ========================= veth0 10.77.0.2/24

// nested starts both tunnels in one process at each end. bridged puts gnv0 of a into a
// bridge, which has the address then.
func nested(t *testing.T, bridged bool) (p pair) {
	t.Helper()
	p.a, p.b = underlay(t)
	for i, h := range []*host{p.a, p.b} {
		address, dev := fmt.Sprintf("10.66.0.%d/24", i+1), "gnv0"
		if bridged && i == 0 {
			dev = "br0"
			h.must("bridge", h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0x66, 1}}}))
		}
		g := h.daemon(built(t), newInstance(), "gnv1", "--config", file(t, "nested.toml", fmt.Sprintf(`
[[tunnel]]
name   = "gnv0"
id     = 42
remote = "10.77.0.%[2]d"
[[tunnel]]
name    = "gnv1"
id      = 43
remote  = "10.66.0.%[2]d"
address = "192.0.2.%[1]d/24"
`, i+1, 2-i)))
		within(t, 10*time.Second, "a device", func() bool { return h.has("gnv0") })
		if dev == "br0" {
			h.must("port", h.nl.LinkSetMaster(h.link("gnv0"), h.link("br0")))
			h.up("br0")
		}
		h.address(dev, address)
		g.ready()
		*[]**gvtep{&p.ga, &p.gb}[i] = g
	}
	return p
}

func (p pair) pings(wait string) bool {
	_, _, code := p.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", wait, "192.0.2.2")
	return code == 0
}

func TestNested(t *testing.T) {
	need(t, "ping")
	for _, bridged := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridged %v", bridged), func(t *testing.T) {
			p := nested(t, bridged)
			within(t, 15*time.Second, "a ping through both tunnels", func() bool { return p.pings("1") })
			for _, g := range []*gvtep{p.ga, p.gb} {
				within(t, 5*time.Second, "ready", func() bool { return g.status().Ready })
			}
			within(t, 5*time.Second, "an MTU for two headers", func() bool { return p.a.mtu("gnv1") == 1400 && p.b.mtu("gnv1") == 1400 })
			transfer(t, p.a, p.b, "192.0.2.2:7000", 8<<20)
			transfer(t, p.b, p.a, "192.0.2.1:7000", 8<<20)
			if n := p.ga.counters()["rx.reinjected"]; n != 0 {
				t.Errorf("%d datagrams of the carried tunnel count as reinjected", n)
			}

			// What a tenant of the tunnel below says is taken from the peer above only.
			p.b.address("gnv0", "10.66.0.99/24")
			inner := eth(broadcast, mac{2, 0, 0, 0, 0xb, 2}, 0x88b5, []byte("GENEVE-CHECK-NEST"))
			for _, v := range []struct{ name, from, header, counter string }{
				{"the carried tunnel, another source", "10.66.0.99", "0000 6558 00002b 00", "rx.reinjected"},
				{"the tunnel below", "10.66.0.2", "0000 6558 00002a 00", "rx.reinjected"},
				{"the tunnel below, from its peer's address", "10.77.0.2", "0000 6558 00002a 00", "rx.reinjected"},
				{"a tunnel that is none", "10.66.0.2", "0000 6558 00002c 00", "rx.reinjected"},
			} {
				before := p.ga.counters()
				c := p.b.listenUDP(net.JoinHostPort(v.from, "0"))
				for range 5 {
					if _, err := c.WriteToUDPAddrPort(append(unhex(v.header), inner...), netip.MustParseAddrPort("10.66.0.1:6081")); err != nil {
						t.Fatal(err)
					}
				}
				if !soon(2*time.Second, func() bool { return p.ga.counters()[v.counter]-before[v.counter] == 5 }) {
					t.Errorf("%s: counters moved by %v, want %s by 5", v.name, p.ga.moved(before, v.counter), v.counter)
				}
			}

			// A way below that leads into the tunnel above goes round.
			_, dst, _ := net.ParseCIDR("10.77.0.2/32")
			route := &netlink.Route{LinkIndex: p.a.index("gnv1"), Dst: dst, Scope: netlink.SCOPE_LINK}
			device := p.a.capture("gnv1", 10_000)
			p.a.must("route", p.a.nl.RouteAdd(route))
			within(t, 5*time.Second, "both are in the loop, and status says so", func() bool {
				s := p.ga.status()
				return !s.Ready && strings.Contains(s.Reason, "leads into a tunnel")
			})
			from := device.count()
			if p.pings("0.3") {
				t.Error("an answer although the way goes round: does this test make a loop?")
			}
			if n := device.count() - from; n > 20 {
				t.Errorf("one ping makes %d frames on the upper device", n)
			}
			p.a.must("route", p.a.nl.RouteDel(route))
			within(t, 15*time.Second, "a ping when the route is gone", func() bool { return p.pings("0.5") })
			within(t, 5*time.Second, "ready again", func() bool { return p.ga.status().Ready })
		})
	}
}
