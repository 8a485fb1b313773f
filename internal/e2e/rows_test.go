package e2e

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Which socket a tunnel has, and which packets are its own: rows M14 to M17,
// M22 and S23.

// ping must be answered.
func (h *host) ping(to string) {
	h.t.Helper()
	h.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", to)
}

// sentTo returns where the GENEVE packets go that a host has sent from a frame
// of the capture on: source address > destination, each once.
func (c *capture) sentTo(from int, ports ...uint16) (all []string) {
	for _, f := range c.kept(from, func(f frame) bool { return f.out }) {
		// Hosts send IPv6 into a new device when they like (MLD, router solicitations);
		// what these tests send themselves is IPv4 and ARP.
		d, ok := readUDP(f.data)
		stray := len(d.payload) >= 22 && bytes.Equal(d.payload[20:22], []byte{0x86, 0xdd})
		if ok && !stray && slices.Contains(ports, d.dst.Port()) {
			all = append(all, fmt.Sprintf("%s > %s", d.src.Addr(), d.dst))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestPeerPort: row M14, each end listens on a port of its own.
//
//	a listens on 7081, b on 6081, c on 9000
func TestPeerPort(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			hosts := lan(t)
			base := strings.TrimSuffix(f.near, "1")
			g := hosts[0].configured("gnv0", file(t, "a.toml", fmt.Sprintf(`
[[tunnel]]
name    = "gnv0"
id      = 42
dstport = 7081
address = "192.0.2.1/24"
  [[tunnel.peer]]
  remote  = "%[1]s2"
  dstport = 6081
  [[tunnel.peer]]
  remote  = "%[1]s3"
  dstport = 9999
`, base)))
			for i, port := range []int{6081, 9000} {
				hosts[i+1].configured("gnv0", file(t, "peer.toml", fmt.Sprintf(`
[socket]
port = %d
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.%d/24"
peer    = [{remote = %q, dstport = 7081}]
`, port, i+2, f.near)))
			}
			wire := hosts[0].capture("veth0", 1000)
			hosts[0].ping("192.0.2.2")
			// Nobody listens on the port that a has for c, until it is told another.
			if _, _, code := hosts[0].run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.3", "192.0.2.3"); code == 0 {
				t.Error("c answers, which listens on another port")
			}
			from := wire.count()
			hosts[0].ok(5*time.Second, g.binary, "-i", g.instance, "peer", "set", base+"3", "dev", "gnv0", "port", "9000")
			hosts[0].ping("192.0.2.3")
			hosts[0].ping("192.0.2.2")
			want := fmt.Sprint([]string{
				f.near + " > " + net.JoinHostPort(base+"2", "6081"), f.near + " > " + net.JoinHostPort(base+"3", "9000"),
			})
			var got []string
			soon(time.Second, func() bool { got = wire.sentTo(from, 6081, 7081, 9000, 9999); return len(got) >= 2 })
			if fmt.Sprint(got) != want {
				t.Errorf("a sends %v, want %s", got, want)
			}
		})
	}
}

// TestTwoLocals: row M15, two processes on one host have the same port, VNI and
// remote, on an address each.
//
//	a gnv0 192.0.2.1     local 10.77.0.1 --+-- gnv0 192.0.2.2     b, one process
//	  gnv1 198.51.100.1  local 10.77.0.3 --+-- gnv1 198.51.100.2
func TestTwoLocals(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			a.address("veth0", f.alien+map[bool]string{true: "/64", false: "/24"}[f.name == "IPv6"])
			b.neighbour("veth0", f.alien, a.mac("veth0"))
			a.tunnel("gnv0", "id", "42", "local", f.near, "remote", f.far, "address", "192.0.2.1/24")
			a.tunnel("gnv1", "id", "42", "local", f.alien, "remote", f.far, "address", "198.51.100.1/24")
			b.configured("gnv0", file(t, "b.toml", fmt.Sprintf(`
[defaults]
local = %q
[[tunnel]]
name    = "gnv0"
id      = 42
remote  = %q
address = "192.0.2.2/24"
[[tunnel]]
name    = "gnv1"
id      = 42
remote  = %q
address = "198.51.100.2/24"
`, f.far, f.near, f.alien)))
			wire := a.capture("veth0", 1000)
			for i, to := range []string{"192.0.2.2", "198.51.100.2"} {
				from := wire.count()
				a.ping(to)
				want := []string{f.near, f.alien}[i] + " > " + net.JoinHostPort(f.far, "6081")
				var got []string
				soon(time.Second, func() bool { got = wire.sentTo(from, 6081); return len(got) > 0 })
				if len(got) != 1 || got[0] != want {
					t.Errorf("to %s: %v on the wire, want only %s", to, got, want)
				}
			}
		})
	}
}

// TestTwoDevices: row M16, two tunnels of one process with the same VNI, port
// and remote address, on an underlay device each.
//
//	      veth0 10.77.0.1 ------ veth0 10.77.0.2  b gnv0 192.0.2.2
//	a
//	      veth1 10.77.0.1 ------ veth0 10.77.0.2  c gnv0 192.0.2.2
func TestTwoDevices(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			c := newHost(t, "c")
			plug(c, a, "veth1")
			bits := map[bool]string{true: "/64", false: "/24"}[f.name == "IPv6"]
			c.address("veth0", f.far+bits)
			a.address("veth1", f.near+bits)
			c.neighbour("veth0", f.near, a.mac("veth1"))
			a.neighbour("veth1", f.far, c.mac("veth0"))
			a.configured("gnv0", file(t, "a.toml", fmt.Sprintf(`
[defaults]
remote = %q
[[tunnel]]
name = "gnv0"
id   = 42
dev  = "veth0"
[[tunnel]]
name = "gnv1"
id   = 42
dev  = "veth1"
`, f.far)))
			b.tunnel("gnv0", "id", "42", "remote", f.near, "address", "192.0.2.2/24")
			c.tunnel("gnv0", "id", "42", "remote", f.near, "address", "198.51.100.2/24")
			a.address("gnv0", "192.0.2.1/24")
			a.address("gnv1", "198.51.100.1/24")
			wires := []*capture{a.capture("veth0", 1000), a.capture("veth1", 1000)}
			for i, to := range []string{"192.0.2.2", "198.51.100.2"} {
				from := []int{wires[0].count(), wires[1].count()}
				a.ping(to)
				if got := wires[1-i].sentTo(from[1-i], 6081); len(got) > 0 {
					t.Errorf("to %s: %v on the other device", to, got)
				}
				if got := wires[i].await(time.Second, 1, from[i], func(f frame) bool { d, ok := readUDP(f.data); return ok && f.out && d.dst.Port() == 6081 }); len(got) == 0 {
					t.Errorf("to %s: nothing on its device", to)
				}
			}
		})
	}
}

// TestMark: row M17, the mark of outer packets chooses their route, and can be
// changed while the tunnel is there.
func TestMark(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			// The way to b is in a table that only mark 7 leads to.
			far := net.ParseIP(f.far)
			family, bits := netlink.FAMILY_V4, 32
			if f.name == "IPv6" {
				family, bits = netlink.FAMILY_V6, 128
			}
			routes, err := a.nl.RouteList(a.link("veth0"), family)
			a.must("routes", err)
			for _, r := range routes {
				if r.Dst != nil && r.Dst.Contains(far) && r.Table == 254 {
					a.must("route del", a.nl.RouteDel(&r))
				}
			}
			a.must("route", a.nl.RouteAdd(&netlink.Route{LinkIndex: a.index("veth0"), Table: 7,
				Dst: &net.IPNet{IP: far, Mask: net.CIDRMask(bits, bits)}}))
			rule := netlink.NewRule()
			rule.Family, rule.Mark, rule.Table, rule.Priority = family, 7, 7, 100
			a.must("rule", a.nl.RuleAdd(rule))

			g := a.tunnel("gnv0", "id", "42", "local", f.near, "remote", f.far, "address", "192.0.2.1/24", "fwmark", "0x7")
			b.tunnel("gnv0", "id", "42", "local", f.far, "remote", f.near, "address", "192.0.2.2/24")
			if want := f.mtu; a.mtu("gnv0") != want {
				t.Errorf("MTU %d, want %d by the marked route", a.mtu("gnv0"), want)
			}
			a.ping("192.0.2.2")
			set := func(mark string) {
				a.ok(5*time.Second, g.binary, "-i", g.instance, "tunnel", "set", "gnv0", "fwmark", mark)
			}
			set("8")
			before := g.counters()
			if _, _, code := a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.3", "192.0.2.2"); code == 0 {
				t.Error("an answer although mark 8 leads nowhere")
			}
			if moved := g.counters().since(before); moved["tx.no_route"] == 0 {
				t.Errorf("counters moved by %v, want no_route", moved)
			}
			set("7")
			a.ping("192.0.2.2")
		})
	}
}

// TestAdoptTUN: row M22 for mode l3.
func TestAdoptTUN(t *testing.T) {
	need(t, "ip", "ping")
	f := families[0]
	a, b := underlay(t)
	a.ok(5*time.Second, "ip", "tuntap", "add", "dev", "gnv0", "mode", "tun", "multi_queue", "vnet_hdr")
	a.address("gnv0", "192.0.2.1/24")
	index := a.index("gnv0")
	b.tunnel("gnv0", "id", "42", "mode", "l3", "local", f.far, "remote", f.near, "address", "192.0.2.2/24")
	for range 2 {
		g := a.tunnel("gnv0", "id", "42", "mode", "l3", "local", f.near, "remote", f.far)
		a.ping("192.0.2.2")
		g.stop()
		if !a.has("gnv0") || a.index("gnv0") != index || !a.hasAddress("gnv0", "192.0.2.1/24") {
			t.Fatal("the device is gone, or is another, or has lost its address")
		}
	}
	p := a.start(nil, built(t), "-i", newInstance(), "run", "gnv0", "id", "42", "local", f.near, "remote", f.far)
	if code, err := p.wait(5 * time.Second); err != nil || code != 2 || !oneLine(p.stderr.String()) {
		t.Errorf("a TUN for mode l2: exit status %d, %v, %q; want 2 and one line", code, err, p.stderr.String())
	}
}

// TestAnyRemote: row S23, one device takes packets from whoever speaks, over
// both families, and answers each.
func TestAnyRemote(t *testing.T) {
	need(t, "ping")
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	g := a.tunnel("gnv0", "id", "42", "accept", "any", "address", "192.0.2.1/24")
	b.tunnel("gnv0", "id", "42", "remote", "10.77.0.1", "address", "192.0.2.2/24")
	c.tunnel("gnv0", "id", "42", "remote", "fd77::1", "address", "192.0.2.3/24")
	b.ping("192.0.2.1")
	c.ping("192.0.2.1")
	a.ping("192.0.2.2")
	a.ping("192.0.2.3")
	if b, c := g.behind(b.mac("gnv0")), g.behind(c.mac("gnv0")); b != "10.77.0.2" || c != "fd77::3" {
		t.Errorf("learned behind %q and %q, want 10.77.0.2 and fd77::3", b, c)
	}
	// What came in by a tunnel does not go out by one: b does not reach c.
	if _, _, code := b.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.3", "192.0.2.3"); code == 0 {
		t.Error("b reaches c through a")
	}
}
