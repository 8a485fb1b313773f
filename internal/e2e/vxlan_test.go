package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// encap vxlan beside the kernel's own VXLAN device, which is the other end, and beside GENEVE in
// one process.

// vxlan makes a VXLAN device of the kernel's on veth0. far is the other end's address, a
// multicast group, or "" for none.
func (h *host) vxlan(dev string, id int, near, far string, addresses ...string) {
	h.t.Helper()
	h.vxlanPort(4789, dev, id, near, far, addresses...)
}

func (h *host) vxlanPort(port int, dev string, id int, near, far string, addresses ...string) {
	h.t.Helper()
	v := &netlink.Vxlan{
		LinkAttrs: netlink.NewLinkAttrs(), VxlanId: id, Port: port, VtepDevIndex: h.index("veth0"),
		SrcAddr: net.ParseIP(near), Group: net.ParseIP(far), Learning: true,
	}
	v.Name = dev
	if err := h.nl.LinkAdd(v); err != nil {
		skip(h.t, "this kernel has no VXLAN device: %v", err)
	}
	h.address(dev, addresses...)
	h.up(dev)
}

// appends adds an entry to the table of a kernel's device, as bridge fdb append does.
func (h *host) appends(dev string, m mac, dst string) {
	h.t.Helper()
	h.must("fdb append", h.nl.NeighAppend(&netlink.Neigh{
		LinkIndex: h.index(dev), Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		HardwareAddr: m[:], IP: net.ParseIP(dst),
	}))
}

// has the kernel's device an address behind dst?
func (h *host) learned(dev string, m mac) (dst string) {
	h.t.Helper()
	all, err := h.nl.NeighList(h.index(dev), unix.AF_BRIDGE)
	h.must("fdb", err)
	for _, n := range all {
		if n.HardwareAddr.String() == m.String() && n.IP != nil {
			dst = n.IP.String()
		}
	}
	return dst
}

// isVXLAN checks all datagrams that a host has sent to port 4789: I flag, VNI, and all other
// bits 0 (RFC 7348 section 5).
func isVXLAN(t *testing.T, c *capture, vni int, wantSum csum) {
	t.Helper()
	n := 0
	want := fmt.Sprintf("08000000%06x00", vni)
	for _, f := range c.kept(0, func(f frame) bool { return f.out }) {
		d, ok := readUDP(f.data)
		if !ok || d.dst.Port() != 4789 {
			continue
		}
		n++
		if got := fmt.Sprintf("%x", d.payload[:8]); got != want || d.csum != wantSum {
			t.Fatalf("datagram %d to %s: header %s, checksum %v; want %s, %v", n, d.dst, got, d.csum, want, wantSum)
		}
	}
	if n == 0 {
		t.Error("nothing was sent to port 4789")
	}
}

// nothingDropped: no packet was dropped, and none was wrong for the stack of a host.
func nothingDropped(t *testing.T, g *gvtep, hosts ...*host) {
	t.Helper()
	for name, n := range g.counters() {
		if name != "rx.packets" && name != "tx.packets" && n != 0 {
			t.Errorf("%d dropped as %s, want none", n, name)
		}
	}
	for _, h := range hosts {
		if bad := h.sumFaults(); len(bad) != 0 {
			t.Errorf("host %s: wrong checksums: %v", h.name, bad)
		}
	}
}

// TestVXLANPair: the kernel's device and gvtep, one remote each. The words are those of ip link.
// With the stack's offloads on, the kernel leaves checksums unfinished and super-frames uncut.
//
//	a                                           b
//	vx0 192.0.2.1/24 . . . . . . . . . . . . .  gnv0 192.0.2.2/24
//	    fd92::1/64                                   fd92::2/64
//	kernel VXLAN                                gvtep
func TestVXLANPair(t *testing.T) {
	need(t, "ping")
	const size = 5 << 20
	for _, f := range families {
		for _, uncut := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s uncut %t", f.name, uncut), func(t *testing.T) {
				a, b := underlay(t)
				a.do(func() error { return ethtool("veth0", unix.ETHTOOL_STXCSUM, 1) })
				if uncut {
					for command, value := range labs["veth"] {
						a.do(func() error { return ethtool("veth0", command, value) })
					}
				}
				a.vxlan("vx0", 42, f.near, f.far, "192.0.2.1/24", "fd92::1/64")
				g := b.tunnel("gnv0", strings.Fields("type vxlan id 42 local "+f.far+" remote "+f.near+" dstport 4789 address 192.0.2.2/24 address fd92::2/64")...)
				if a, b := a.mtu("vx0"), b.mtu("gnv0"); a != b {
					t.Errorf("MTU %d, the kernel's device has %d", b, a)
				}
				wire := b.capture("veth0", 200)
				a.ping("192.0.2.2")
				b.ping("192.0.2.1")
				for _, inner := range inners {
					sendsTCP(t, a, b, net.JoinHostPort(inner.far, "7000"), size)
					sendsTCP(t, b, a, net.JoinHostPort(inner.near, "7000"), size)
					sendsRuns(t, a, b, net.JoinHostPort(inner.far, "7001"))
					sendsRuns(t, b, a, net.JoinHostPort(inner.near, "7001"))
				}
				isVXLAN(t, wire, 42, csumRight)
				nothingDropped(t, g, a, b)
				if got := g.behind(a.mac("vx0")); got != f.near {
					t.Errorf("gvtep has the kernel's address behind %q, want %s", got, f.near)
				}
				if got := a.learned("vx0", b.mac("gnv0")); got != f.far {
					t.Errorf("the kernel has gvtep's address behind %q, want %s", got, f.far)
				}
			})
		}
	}
}

// TestVXLANWithoutChecksums: noudpcsum sends 0, as RFC 7348 would have it, and takes it.
func TestVXLANWithoutChecksums(t *testing.T) {
	need(t, "ip", "ping")
	a, b := underlay(t)
	a.ok(5*time.Second, "ip", strings.Fields("link add vx0 type vxlan id 42 dstport 4789 local 10.77.0.1 remote 10.77.0.2 dev veth0 noudpcsum")...)
	a.address("vx0", "192.0.2.1/24")
	a.up("vx0")
	g := b.tunnel("gnv0", "type", "vxlan", "id", "42", "remote", "10.77.0.1", "noudpcsum", "address", "192.0.2.2/24")
	sent, back := b.capture("veth0", 200), a.capture("veth0", 200)
	b.ping("192.0.2.1")
	sendsTCP(t, b, a, "192.0.2.1:7000", 5<<20)
	sendsTCP(t, a, b, "192.0.2.2:7000", 5<<20)
	isVXLAN(t, sent, 42, csumZero)
	isVXLAN(t, back, 42, csumZero)
	nothingDropped(t, g, a, b)
}

// TestVXLANSegment: a and c are kernel devices, b is gvtep, with a multicast group or with
// head-end flooding. Everybody reaches everybody, and a station moves.
func TestVXLANSegment(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		for _, group := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s group %t", f.name, group), func(t *testing.T) {
				hosts := lan(t)
				base, far := strings.TrimSuffix(f.near, "1"), ""
				words := []string{"encap", "vxlan", "id", "42", "local", base + "2", "address", "192.0.2.2/24"}
				if group {
					far = map[string]string{"IPv4": "239.1.1.1", "IPv6": "ff05::1"}[f.name]
					words = append(words, "group", far, "dev", "veth0")
				} else {
					words = append(words, "remote", base+"1", "remote", base+"3")
				}
				for _, i := range []int{0, 2} {
					hosts[i].vxlan("vx0", 42, base+fmt.Sprint(i+1), far, fmt.Sprintf("192.0.2.%d/24", i+1))
					for j := range hosts {
						if j != i && !group {
							hosts[i].appends("vx0", mac{}, base+fmt.Sprint(j+1))
						}
					}
				}
				g := hosts[1].tunnel("gnv0", words...)
				for i, h := range hosts {
					for j := range hosts {
						if j != i {
							h.ping(fmt.Sprint("192.0.2.", j+1))
						}
					}
				}
				// A station that speaks at a, at c and then at b.
				station := mac{2, 0, 0, 0, 0x0f, 1}
				hello := eth(broadcast, station, typeLabel, fmt.Appendf(nil, "%-46s", "HELLO"))
				for _, i := range []int{0, 2, 0} {
					hosts[i].capture("vx0", 10).send(hello)
					within(t, 2*time.Second, "gvtep has the station behind "+hosts[i].name, func() bool { return g.behind(station) == base+fmt.Sprint(i+1) })
				}
				hosts[1].capture("gnv0", 10).send(hello)
				for _, i := range []int{0, 2} {
					within(t, 2*time.Second, hosts[i].name+" has the station behind gvtep", func() bool { return hosts[i].learned("vx0", station) == base+"2" })
				}
				if got := g.behind(station); got != "local" {
					t.Errorf("gvtep has the station behind %q, want local", got)
				}
			})
		}
	}
}

// TestVXLANTrunk: the VLANs of a trunk are so many devices of the kernel's, here with containers
// of the same addresses.
func TestVXLANTrunk(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	g := b.tunnel("gnvt", "type", "vxlan", "vlan", "10:5010", "vlan", "20:5020", "remote", "10.77.0.1")
	mtu := b.mtu("gnvt")
	var tenants []*host
	for i, vni := range []int{5010, 5020} {
		a.vxlan(fmt.Sprint("vx", vni), vni, "10.77.0.1", "10.77.0.2", fmt.Sprintf("192.0.%d.1/24", 2+i))
		tenants = append(tenants, b.access("gnvt", 10*(1+i), mtu, fmt.Sprintf("192.0.%d.2/24", 2+i)))
	}
	b.uplink("gnvt", 10, 20)
	for i, tenant := range tenants {
		near, far := fmt.Sprintf("192.0.%d.1", 2+i), fmt.Sprintf("192.0.%d.2", 2+i)
		a.ping(far)
		sendsTCP(t, a, tenant, far+":7000", 5<<20)
		sendsTCP(t, tenant, a, near+":7000", 5<<20)
	}
	for name, n := range g.counters() {
		if strings.HasPrefix(name, "rx.") && name != "rx.packets" && n != 0 {
			t.Errorf("%d dropped as %s, want none", n, name)
		}
	}
}

// TestVXLANHeader: what RFC 7348 section 5 says of a received header. The frame goes to the
// device, or is counted as dropped.
func TestVXLANHeader(t *testing.T) {
	need(t)
	a, b := underlay(t)
	g := b.tunnel("gnv0", "type", "vxlan", "id", "0x123456", "remote", "10.77.0.1")
	inner := b.capture("gnv0", 100)
	out := a.dialUDP("10.77.0.2:4789")
	for i, r := range []struct{ header, drop string }{
		{"0800000012345600", ""},
		{"ffffffff123456ff", ""},          // reserved bits are ignored
		{"8848abcd12345600", ""},          // so is group policy
		{"0000000012345600", "rx.no_vni"}, // no I flag
		{"f7ffffff123456ff", "rx.no_vni"}, // nothing but it
		{"0000655812345600", "rx.no_vni"}, // GENEVE
		{"0800000056341200", "rx.unknown_vni"},
		{"08000000123456", "rx.short"},
		{"0800000012345600", "rx.short_inner"},
	} {
		text := fmt.Sprintf("HEADER-%02d", i)
		datagram := append(unhex(r.header), eth(broadcast, mac{2, 0, 0, 0, 0, 9}, typeLabel, fmt.Appendf(nil, "%-46s", text))...)
		switch r.drop {
		case "rx.short":
			datagram = datagram[:7]
		case "rx.short_inner":
			datagram = datagram[:8+13]
		}
		before := g.counters()
		if _, err := out.Write(datagram); err != nil {
			t.Fatal(err)
		}
		want := counters{"rx.packets": 1}
		if r.drop != "" {
			want = counters{r.drop: 1}
		}
		if got := g.moved(before, "rx.packets", r.drop); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s %s: counters moved by %v, want %v", text, r.header, got, want)
		}
		arrived := len(inner.await(5*time.Second, map[bool]int{true: 1}[r.drop == ""], 0, func(f frame) bool { return strings.Contains(string(f.data), text) }))
		if arrived != map[bool]int{true: 1}[r.drop == ""] {
			t.Errorf("%s %s: %d frames on the device", text, r.header, arrived)
		}
	}
}

// TestVXLANBesideGENEVE: both in one process, with one VNI. A port has one encap.
func TestVXLANBesideGENEVE(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	a.vxlan("vx0", 42, "10.77.0.1", "10.77.0.2", "198.51.100.1/24")
	a.tunnel("gnv0", "id", "42", "remote", "10.77.0.2", "address", "192.0.2.1/24")
	g := b.configured("gnv0", file(t, "both.toml", `
[defaults]
remote = "10.77.0.1"
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.2/24"
[[tunnel]]
name    = "vx0"
id      = 42
encap   = "vxlan"
address = "198.51.100.2/24"
`))
	wire := b.capture("veth0", 100)
	a.ping("192.0.2.2")
	a.ping("198.51.100.2")
	var got []uint16
	for _, port := range []uint16{4789, 6081} {
		soon(5*time.Second, func() bool { return len(wire.sentTo(0, port)) > 0 })
		if len(wire.sentTo(0, port)) == 1 {
			got = append(got, port)
		}
	}
	if fmt.Sprint(got) != "[4789 6081]" {
		t.Errorf("datagrams to the ports %v, want 4789 and 6081", got)
	}
	nothingDropped(t, g, a, b)
	if shown := b.ok(5*time.Second, g.binary, "-i", g.instance, "show"); !strings.Contains(shown, "gnv0  GENEVE id 42") || !strings.Contains(shown, "vx0  VXLAN id 42") {
		t.Errorf("show does not tell the encaps:\n%s", shown)
	}
	for _, words := range []string{"id 7 dstport 4789 remote 10.77.0.1", "type vxlan id 7 dstport 6081 local 10.77.0.2 remote 10.77.0.1"} {
		_, stderr, code := b.run(5*time.Second, g.binary, append([]string{"-i", g.instance, "tunnel", "add", "gnv2"}, strings.Fields(words)...)...)
		if code == 0 || !strings.Contains(stderr, "one port is for one encap") || !oneLine(stderr) {
			t.Errorf("tunnel add gnv2 %s: exit status %d, %q", words, code, stderr)
		}
	}
	// What one gives up another may have.
	b.ok(5*time.Second, g.binary, "-i", g.instance, "tunnel", "del", "vx0")
	b.ok(5*time.Second, g.binary, "-i", g.instance, "tunnel", "add", "gnv2", "id", "7", "dstport", "4789", "remote", "10.77.0.1")
}

// TestVXLANImport: config import makes of a kernel's device a tunnel that takes its place, and
// the other end sees no difference.
func TestVXLANImport(t *testing.T) {
	need(t, "ip", "bridge", "ping")
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	for i, h := range hosts {
		h.vxlan("vx0", 42, fmt.Sprint("10.77.0.", i+1), "", fmt.Sprintf("192.0.2.%d/24", i+1))
		for j := range hosts {
			if j != i {
				h.appends("vx0", mac{}, fmt.Sprint("10.77.0.", j+1))
			}
		}
	}
	static := mac{2, 0, 0, 0, 0x0f, 2}
	b.appends("vx0", static, "10.77.0.3")
	b.ping("192.0.2.1")
	before := b.mac("vx0")
	links := file(t, "links.json", b.ok(5*time.Second, "ip", "-d", "-j", "addr", "show", "type", "vxlan"))
	table := file(t, "fdb.json", b.ok(5*time.Second, "bridge", "-j", "fdb", "show"))
	made := b.ok(5*time.Second, built(t), "config", "import", links, table)
	b.must("del", b.nl.LinkDel(b.link("vx0")))
	g := b.configured("vx0", file(t, "made.toml", made))
	if got := netip.MustParseAddr("10.77.0.3").String(); g.behind(static) != got {
		t.Errorf("the static address is behind %q, want %s\n%s", g.behind(static), got, made)
	}
	if got := b.mac("vx0"); got != before {
		t.Errorf("the device has the address %s, want %s", got, before)
	}
	for _, h := range []*host{a, c} {
		h.ping("192.0.2.2")
		sendsTCP(t, h, b, "192.0.2.2:7000", 1<<20)
	}
}
