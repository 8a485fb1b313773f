package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestL3: row K-6, and row M20 with it: an L3 and an L2 tunnel between the same
// two hosts, in one process on one set of sockets.
//
//	a                                                  b
//	gnv0 TUN 192.0.2.1/24 fd92::1/64 -- VNI 42, IP --- gnv0 192.0.2.2/24 fd92::2/64
//	gnv1 TAP 198.51.100.1/24 -- VNI 43, Ethernet ----- gnv1 198.51.100.2/24
//	veth0 10.77.0.1/24, fd77::1/64 =================== veth0 10.77.0.2/24, fd77::2/64
func TestL3(t *testing.T) {
	need(t, "ping", "iperf3", "tshark")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			p := pair{a: a, b: b}
			for i, g := range []**gvtep{&p.ga, &p.gb} {
				*g = []*host{a, b}[i].configured("gnv0", file(t, "both.toml", fmt.Sprintf(`
[socket]
workers = 2
[defaults]
local  = %q
remote = %q
ttl    = "inherit"
tos    = "inherit"
[[tunnel]]
name    = "gnv0"
id      = 42
mode    = "l3"
address = ["192.0.2.%[3]d/24", "fd92::%[3]d/64"]
[[tunnel]]
name    = "gnv1"
id      = 43
address = "198.51.100.%[3]d/24"
`, []string{f.near, f.far}[i], []string{f.far, f.near}[i], i+1)))
			}
			for _, h := range []*host{a, b} {
				l := h.link("gnv0").Attrs()
				if len(l.HardwareAddr) != 0 || l.RawFlags&unix.IFF_NOARP == 0 || l.RawFlags&unix.IFF_POINTOPOINT == 0 {
					t.Errorf("%s: the TUN has the address %s and flags %#x, want none, NOARP and POINTOPOINT", h.name, l.HardwareAddr, l.RawFlags)
				}
				if l.MTU != f.mtu+14 || h.mtu("gnv1") != f.mtu {
					t.Errorf("%s: MTU %d and %d, want %d without Ethernet inside and %d with it", h.name, l.MTU, h.mtu("gnv1"), f.mtu+14, f.mtu)
				}
			}
			var s struct{ Sockets []any }
			if err := p.ga.ask("/v1/status", &s); err != nil || len(s.Sockets) != 1 {
				t.Errorf("%d addresses are listened on (%v), want one for both tunnels", len(s.Sockets), err)
			}

			wire, tun := b.capture("veth0", 6000), a.capture("gnv0", 6000)
			// The longest packet, TTL and DSCP with ECN of the inner one.
			a.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "-M", "do", "-s", fmt.Sprint(f.mtu+14-28), "-t", "33", "-Q", "0x2a", "192.0.2.2")
			a.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "-M", "do", "-s", fmt.Sprint(f.mtu+14-48), "-t", "34", "-Q", "0x2e", "fd92::2")
			b.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "198.51.100.1")
			inherited := map[string]bool{}
			for _, fr := range wire.kept(0, func(f frame) bool { return !f.out }) {
				if d, ok := readUDP(fr.data); ok && len(d.payload) > 1000 {
					inherited[fmt.Sprintf("%d %#x", d.ttl, d.tos)] = true
				}
			}
			if len(inherited) != 2 || !inherited["33 0x2a"] || !inherited["34 0x2e"] {
				t.Errorf("outer TTL and TOS %v, want 33 0x2a and 34 0x2e as inside", inherited)
			}
			iperf(t, p)
			a.ok(20*time.Second, "iperf3", "-c", "fd92::2", "-t", "1", "--connect-timeout", "2000")
			if super := tun.await(5*time.Second, 1, 0, func(f frame) bool { return f.out && len(f.data) > 3000 }); len(super) == 0 {
				t.Error("no super-frame came to the device")
			}
			path, _ := wire.write(func(f frame) bool { _, udp := readUDP(f.data); return udp })
			seen := map[string]int{}
			for line := range strings.Lines(wireshark(t, "-r", path, "-T", "fields", "-E", "occurrence=f", "-E", "separator=,",
				"-e", "udp.dstport", "-e", "geneve.vni", "-e", "geneve.proto_type", "-e", "udp.checksum.status", "-o", "udp.check_checksum:TRUE")) {
				seen[strings.TrimSpace(line)]++
			}
			t.Logf("tshark: %v", seen)
			for _, kind := range []string{"6081,0x00002a,0x0800,1", "6081,0x00002a,0x86dd,1", "6081,0x00002b,0x6558,1"} {
				if seen[kind] == 0 {
					t.Errorf("tshark sees no packet %s: %v", kind, seen)
				}
				delete(seen, kind)
			}
			if len(seen) > 0 {
				t.Errorf("tshark sees %v as well", seen)
			}
			if faults := wireshark(t, "-r", path, "-Y", `_ws.malformed || _ws.expert.severity == "Error"`, "-d", "tcp.port==5201,data", "-d", "udp.port==5201,data"); faults != "" {
				t.Errorf("tshark finds faults:\n%.2000s", faults)
			}

			// What does not fit the kind of the tunnel is dropped and counted there.
			from := b.listenUDP(net.JoinHostPort(f.far, "0"))
			packet4 := ip{src: addr("192.0.2.2"), dst: addr("192.0.2.1")}.udp(7, 7, []byte("GENEVE-CHECK"), csumRight)
			packet6 := ip{src: addr("fd92::2"), dst: addr("fd92::1")}.udp(7, 7, []byte("GENEVE-CHECK"), csumRight)
			ethernet := eth(broadcast, mac{2, 0, 0, 0, 0xb, 2}, typeIPv4, packet4)
			devices := []*capture{a.capture("gnv0", 1000), a.capture("gnv1", 1000)}
			for _, v := range []struct {
				what, dev, header string
				inner             []byte
				counter           string
			}{
				{"Ethernet on the L3 VNI", "gnv0", "0000 6558 00002a 00", ethernet, "rx.bad_protocol"},
				{"IPv4 on the L2 VNI", "gnv1", "0000 0800 00002b 00", packet4, "rx.bad_protocol"},
				{"IPv6 on the L2 VNI", "gnv1", "0000 86dd 00002b 00", packet6, "rx.bad_protocol"},
				{"IPv6 said to be IPv4", "gnv0", "0000 0800 00002a 00", packet6, "rx.bad_protocol"},
				{"ARP on the L3 VNI", "gnv0", "0000 0806 00002a 00", packet4, "rx.bad_protocol"},
				{"half a header on the L3 VNI", "gnv0", "0000 0800 00002a 00", packet4[:19], "rx.short_inner"},
				{"IPv4 on the L3 VNI", "gnv0", "0000 0800 00002a 00", packet4, "rx.packets"},
				{"IPv6 on the L3 VNI", "gnv0", "0000 86dd 00002a 00", packet6, "rx.packets"},
				{"Ethernet on the L2 VNI", "gnv1", "0000 6558 00002b 00", ethernet, "rx.packets"},
			} {
				g := *p.ga
				g.dev = v.dev
				before := g.counters()
				var start [2]int
				for i, c := range devices {
					start[i] = c.texts("GENEVE-CHECK")
				}
				for range 5 {
					if _, err := from.WriteToUDPAddrPort(append(unhex(v.header), v.inner...), netip.AddrPortFrom(addr(f.near), 6081)); err != nil {
						t.Fatal(err)
					}
				}
				within(t, 5*time.Second, v.what+": "+v.counter+" by 5", func() bool { return g.counters().since(before)[v.counter] == 5 })
				for name := range g.counters().since(before) {
					if name != v.counter && !strings.HasSuffix(name, ".packets") {
						t.Errorf("%s: counted as %s", v.what, name)
					}
				}
				for i, c := range devices {
					want := map[bool]int{true: 5}[v.counter == "rx.packets" && v.dev == fmt.Sprint("gnv", i)]
					got := 0
					count := func() bool { got = c.texts("GENEVE-CHECK") - start[i]; return got > 0 && got >= want }
					if soon(map[bool]time.Duration{true: 2 * time.Second, false: 60 * time.Millisecond}[want > 0], count); got != want {
						t.Errorf("%s: on gnv%d %d packets, want %d", v.what, i, got, want)
					}
				}
			}
		})
	}
}

// texts counts a text in what the host has received: packets of a flow may have
// been joined.
func (c *capture) texts(text string) (n int) {
	for _, f := range c.kept(0, received(text)) {
		n += bytes.Count(f.data, []byte(text))
	}
	return n
}

// TestL3Routes: the longest prefix decides where a packet goes and from whom it
// is taken; a prefix moves to another peer while packets flow, and none is lost.
// The remotes of a are of both families (row M3).
//
//	                    a gnv0 TUN 10.200.0.1
//	          10.0.0.0/8 |                   | 10.1.0.0/16
//	           fd00::/16 |                   | fd00:1::/32
//	over IPv4: b 10.77.0.2                   over IPv6: c fd77::3
//	both have the addresses 10.1.5.1, 10.2.5.1, fd00:1::5 and fd00:2::5
func TestL3Routes(t *testing.T) {
	need(t, "ping")
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	const text = `
[[tunnel]]
name    = "gnv0"
id      = 42
mode    = "l3"
address = ["10.200.0.1/32", "fd00:200::1/128"]
  [[tunnel.peer]]
  name   = "b"
  remote = "10.77.0.2"
  routes = [%s]
  [[tunnel.peer]]
  name   = "c"
  remote = "fd77::3"
  routes = [%s]
`
	wide, narrow := []string{"10.0.0.0/8", "fd00::/16"}, []string{"10.1.0.0/16", "fd00:1::/32"}
	list := func(routes []string) string { return `"` + strings.Join(routes, `", "`) + `"` }
	path := file(t, "routes.toml", fmt.Sprintf(text, list(wide), list(narrow)))
	g := a.configured("gnv0", path)
	verb := func(words ...string) string {
		t.Helper()
		return a.ok(10*time.Second, g.binary, append([]string{"-i", g.instance}, words...)...)
	}
	a.route("gnv0", "10.0.0.0/8", "11.0.0.0/8", "fd00::/16", "224.0.0.0/4")
	if got := a.mtu("gnv0"); got != 1444 {
		t.Errorf("MTU %d, want 1444, which fits both remotes", got)
	}
	addresses := []string{"10.1.5.1", "10.2.5.1", "fd00:1::5", "fd00:2::5"}
	for i, h := range []*host{b, c} {
		words := []string{"--id", "42", "--mode", "l3", "--remote", []string{"10.77.0.1", "fd77::1"}[i]}
		for _, address := range addresses {
			words = append(words, "--address", netip.PrefixFrom(addr(address), addr(address).BitLen()).String())
		}
		h.tunnel("gnv0", words...)
		h.route("gnv0", "10.200.0.1/32", "fd00:200::1/128")
	}

	// Who hears what.
	type heard struct {
		at   string
		what string
	}
	var mu sync.Mutex
	got := map[heard]int{}
	count := func(what string) (atB, atC int) {
		mu.Lock()
		defer mu.Unlock()
		return got[heard{"b", what}], got[heard{"c", what}]
	}
	for _, h := range []*host{b, c} {
		for _, address := range addresses {
			s := h.listenUDP(netip.AddrPortFrom(addr(address), 7000).String())
			go func() {
				buf := make([]byte, 2048)
				for {
					n, err := s.Read(buf)
					if err != nil {
						return
					}
					mu.Lock()
					got[heard{h.name, string(buf[:n])}]++
					mu.Unlock()
				}
			}()
		}
	}
	from := map[bool]*net.UDPConn{true: a.listenUDP("10.200.0.1:0"), false: a.listenUDP("[fd00:200::1]:0")}
	send := func(to, what string) {
		t.Helper()
		if _, err := from[addr(to).Is4()].WriteToUDPAddrPort([]byte(what), netip.AddrPortFrom(addr(to), 7000)); err != nil {
			t.Fatal(err)
		}
	}
	goes := func(when string, want map[string]string) {
		t.Helper()
		for address, host := range want {
			what := when + " " + address
			send(address, what)
			atB, atC := 0, 0
			if !soon(2*time.Second, func() bool { atB, atC = count(what); return atB+atC > 0 }) ||
				(host == "b") != (atB == 1) || (host == "c") != (atC == 1) {
				t.Errorf("%s: a packet to %s came %d times to b and %d times to c, want once to %s", when, address, atB, atC, host)
			}
		}
	}
	before := map[string]string{"10.1.5.1": "c", "10.2.5.1": "b", "fd00:1::5": "c", "fd00:2::5": "b"}
	goes("at first", before)
	// There and back.
	a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "2", "10.1.5.1")
	a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "2", "fd00:2::5")

	// Nobody has it, be it a host, a group or everybody.
	for _, to := range []string{"11.0.0.1", "224.1.2.3"} {
		old := g.counters()
		send(to, "nobody")
		within(t, 2*time.Second, "no_peer for "+to, func() bool { return g.counters().since(old)["tx.no_peer"] == 1 })
	}
	// The inner source is b's, the outer one c's.
	old := g.counters()
	raw := c.listenUDP("[fd77::3]:0")
	spoof := ip{src: addr("10.2.5.1"), dst: addr("10.200.0.1")}.udp(7, 7, []byte("x"), csumRight)
	right := ip{src: addr("10.1.5.1"), dst: addr("10.200.0.1")}.udp(7, 7, []byte("x"), csumRight)
	for _, inner := range [][]byte{spoof, spoof, spoof, right} {
		raw.WriteToUDPAddrPort(append(unhex("0000 0800 00002a 00"), inner...), netip.MustParseAddrPort("[fd77::1]:6081"))
	}
	within(t, 2*time.Second, "bad_source by 3", func() bool {
		moved := g.counters().since(old)
		return moved["rx.bad_source"] == 3 && moved["rx.packets"] == 1
	})

	// A prefix moves to and fro while packets flow. Numbered packets say whether
	// each came, and once.
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			for _, to := range []string{"10.1.5.1", "fd00:1::5"} {
				from[addr(to).Is4()].WriteToUDPAddrPort(fmt.Appendf(nil, "%d to %s", n, to), netip.AddrPortFrom(addr(to), 7000))
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
	moved := map[string]string{"10.1.5.1": "b", "10.2.5.1": "b", "fd00:1::5": "b", "fd00:2::5": "b"}
	for round := range 15 {
		// By hand: it is taken from the peer that has it.
		verb("peer", "set", "10.77.0.2", "dev", "gnv0", "routes", strings.Join(append(wide, narrow...), ","))
		goes(fmt.Sprint("taken over, ", round), moved)
		verb("peer", "set", "fd77::3", "dev", "gnv0", "routes", strings.Join(narrow, ","))
		goes(fmt.Sprint("given back, ", round), before)
	}
	// By the configuration.
	if out := verb("diff"); out != "no change\n" {
		t.Errorf("gvtep diff after all came back: %s", out)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, text, list(append(wide, narrow...)), `"none"`), 0o644); err != nil {
		t.Fatal(err)
	}
	want := `~ gnv0 peer 10.77.0.2: {name = "b", flood = true, routes = ["10.0.0.0/8", "fd00::/16"]} -> {name = "b", flood = true, routes = ["10.0.0.0/8", "fd00::/16", "10.1.0.0/16", "fd00:1::/32"]}
~ gnv0 peer fd77::3: {name = "c", flood = true, routes = ["10.1.0.0/16", "fd00:1::/32"]} -> {name = "c", flood = true, routes = "none"}
`
	if out := verb("diff"); out != want {
		t.Errorf("gvtep diff:\n%s want\n%s", out, want)
	}
	verb("reload")
	goes("reloaded", moved)
	if out := verb("peer", "show", "dev", "gnv0"); !strings.Contains(out, "routes 10.0.0.0/8,fd00::/16,10.1.0.0/16,fd00:1::/32") {
		t.Errorf("peer show: %s", out)
	}
	close(stop)
	sent := <-done
	lost := 0
	soon(2*time.Second, func() bool {
		lost = 0
		for n := range sent {
			for _, to := range []string{"10.1.5.1", "fd00:1::5"} {
				if atB, atC := count(fmt.Sprintf("%d to %s", n, to)); atB+atC != 1 {
					lost++
				}
			}
		}
		return lost == 0
	})
	if lost > 0 || sent < 100 {
		t.Errorf("%d of %d packets did not come exactly once", lost, 2*sent)
	}
	t.Logf("%d packets, 31 moves, each packet came once", 2*sent)
}

// route adds routes by a device.
func (h *host) route(dev string, prefixes ...string) {
	h.t.Helper()
	for _, p := range prefixes {
		_, dst, err := net.ParseCIDR(p)
		h.must(p, err)
		h.must("route "+p, h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index(dev), Dst: dst}))
	}
}

// TestBothFamilies: row M3, an Ethernet segment with a peer over IPv4 and one
// over IPv6.
//
//	a gnv0 192.0.2.1 -- IPv4 -- b gnv0 192.0.2.2
//	                 -- IPv6 -- c gnv0 192.0.2.3
func TestBothFamilies(t *testing.T) {
	need(t, "ping")
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	g := a.tunnel("gnv0", "id", "42", "remote", "10.77.0.2", "remote", "fd77::3", "address", "192.0.2.1/24")
	b.tunnel("gnv0", "id", "42", "remote", "10.77.0.1", "address", "192.0.2.2/24")
	c.tunnel("gnv0", "id", "42", "remote", "fd77::1", "address", "192.0.2.3/24")
	if got := a.mtu("gnv0"); got != 1430 {
		t.Errorf("MTU %d, want 1430, which fits both", got)
	}
	atB, atC := b.capture("gnv0", 1000), c.capture("gnv0", 1000)
	a.capture("gnv0", 1).send(eth(broadcast, a.mac("gnv0"), typeLabel, fmt.Appendf(nil, "%-46s", "BOTH-FAMILIES")))
	for _, at := range []*capture{atB, atC} {
		if got := at.await(2*time.Second, 1, 0, received("BOTH-FAMILIES")); len(got) != 1 {
			t.Errorf("%s: %d copies of a broadcast, want 1", at.name, len(got))
		}
	}
	a.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "192.0.2.2")
	a.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "192.0.2.3")
	if b, c := g.behind(b.mac("gnv0")), g.behind(c.mac("gnv0")); b != "10.77.0.2" || c != "fd77::3" {
		t.Errorf("learned behind %s and %s, want 10.77.0.2 and fd77::3", b, c)
	}
	// One of each family goes and comes while the other stays.
	for range 3 {
		a.ok(10*time.Second, g.binary, "-i", g.instance, "peer", "del", "fd77::3", "dev", "gnv0")
		a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.2")
		a.ok(10*time.Second, g.binary, "-i", g.instance, "peer", "add", "fd77::3", "dev", "gnv0")
		a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.3")
	}
}

// TestNetns: row M21, the device in another namespace than the sockets.
//
//	tenant  gnv0 192.0.2.1/24        b  gnv0 192.0.2.2/24
//	........|.................
//	a       | gvtep
//	        veth0 10.77.0.1/24 =====    veth0 10.77.0.2/24
func TestNetns(t *testing.T) {
	need(t, "ping", "ip")
	for _, mode := range []string{"l2", "l3"} {
		for _, f := range families {
			t.Run(mode+" "+f.name, func(t *testing.T) {
				a, b := underlay(t)
				tenant := newHost(t, "tenant")
				var path string
				tenant.do(func() error {
					path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
					return nil
				})
				g := a.tunnel("gnv0", "id", "42", "mode", mode, "local", f.near, "remote", f.far, "address", "192.0.2.1/24", "address", "fd92::1/64", "netns", path)
				b.tunnel("gnv0", "id", "42", "mode", mode, "local", f.far, "remote", f.near, "address", "192.0.2.2/24", "address", "fd92::2/64")
				if a.has("gnv0") || !tenant.has("gnv0") || tenant.has("veth0") {
					t.Fatal("the device is not in the other namespace")
				}
				if want := f.mtu + map[string]int{"l2": 0, "l3": 14}[mode]; tenant.mtu("gnv0") != want {
					t.Errorf("MTU %d, want %d", tenant.mtu("gnv0"), want)
				}
				tenant.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "192.0.2.2")
				b.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "fd92::1")
				if _, _, code := a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "0.3", "192.0.2.2"); code == 0 {
					t.Error("the namespace of the sockets reaches the tunnel")
				}
				// The MTU follows the path although the device is elsewhere.
				a.must("mtu", a.nl.LinkSetMTU(a.link("veth0"), 1400))
				want := f.mtu - 100 + map[string]int{"l2": 0, "l3": 14}[mode]
				within(t, 5*time.Second, fmt.Sprint("MTU ", want), func() bool { return tenant.mtu("gnv0") == want })
				g.stop()
				if tenant.has("gnv0") {
					t.Error("the device stays behind")
				}
			})
		}
	}
}
