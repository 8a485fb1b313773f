package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// Rows K-1 and K-5: point to point over IPv4 and over IPv6.
//
//	a                                        b
//	gnv0 192.0.2.1/24 . . . VNI 42 . . . . . gnv0 192.0.2.2/24
//	gvtep                                    gvtep
//	veth0 10.77.0.1/24 ==== UDP 6081 ======= veth0 10.77.0.2/24, for some 10.77.0.3, too
//	      fd77::1/64                               fd77::2/64, fd77::3

// family is one kind of underlay.
type family struct {
	name             string
	near, far, alien string // addresses of a and b, and one of b that is no peer
	outer            int    // bytes of IP, UDP and GENEVE header
	mtu              int
}

var families = []family{
	{"IPv4", "10.77.0.1", "10.77.0.2", "10.77.0.3", 20 + 8 + 8, 1450},
	{"IPv6", "fd77::1", "fd77::2", "fd77::3", 40 + 8 + 8, 1430},
}

// pair is a tunnel between two hosts.
type pair struct {
	a, b   *host
	ga, gb *gvtep
}

// newPair makes two hosts with a tunnel between them; words are for both ends.
func newPair(t *testing.T, f family, words ...string) pair {
	t.Helper()
	a, b := underlay(t)
	return pairOf(a, b, f, words...)
}

// pairOf is a tunnel between two hosts that are there.
func pairOf(a, b *host, f family, words ...string) pair {
	a.t.Helper()
	return pair{
		a, b,
		a.tunnel("gnv0", append([]string{"--id", "42", "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24"}, words...)...),
		b.tunnel("gnv0", append([]string{"--id", "42", "--local", f.far, "--remote", f.near, "--address", "192.0.2.2/24"}, words...)...),
	}
}

func TestPointToPoint(t *testing.T) {
	need(t, "ping", "iperf3", "tshark")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t, f, "--workers", "2")
			if p.a.mtu("gnv0") != f.mtu || p.b.mtu("gnv0") != f.mtu {
				t.Errorf("MTU %d and %d, want %d by itself", p.a.mtu("gnv0"), p.b.mtu("gnv0"), f.mtu)
			}
			wire := p.b.capture("veth0", 6000)
			p.a.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "5", "192.0.2.2")
			p.b.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "5", "192.0.2.1")
			// The largest packet, and one that the inner stack must fragment.
			p.a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "5", "-M", "do", "-s", fmt.Sprint(f.mtu-28), "192.0.2.2")
			p.a.ok(10*time.Second, "ping", "-q", "-c", "1", "-W", "5", "-s", "4000", "192.0.2.2")
			iperf(t, p)
			tshark(t, wire, f)
			for _, g := range []*gvtep{p.ga, p.gb} {
				c := g.counters()
				if c["rx.packets"] == 0 || c["tx.packets"] == 0 {
					t.Errorf("%s: counters %v, want packets both ways", g.h.name, c)
				}
				for name, n := range c {
					if strings.HasSuffix(name, ".packets") || strings.HasSuffix(name, "_full") {
						continue // a full queue is iperf3's doing
					}
					t.Errorf("%s: %d dropped as %s, want none", g.h.name, n, name)
				}
			}
		})
	}
}

// iperf runs TCP and UDP both ways, two seconds each.
func iperf(t *testing.T, p pair) {
	t.Helper()
	p.b.start(nil, "iperf3", "-s")
	within(t, 5*time.Second, "iperf3 listens", func() bool {
		return p.b.try(func() error {
			c, err := net.DialTimeout("tcp", "192.0.2.2:5201", time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	})
	time.Sleep(100 * time.Millisecond) // it thinks about our connection
	for _, args := range [][]string{{}, {"-R"}, {"-u", "-b", "50M", "-l", "1300"}, {"-u", "-b", "50M", "-l", "1300", "-R"}} {
		out := p.a.ok(20*time.Second, "iperf3", append([]string{"-c", "192.0.2.2", "-t", "2", "-f", "m", "--connect-timeout", "2000"}, args...)...)
		for line := range strings.Lines(out) {
			if strings.Contains(line, "receiver") {
				t.Logf("iperf3 %s: %s", strings.Join(args, " "), strings.Join(strings.Fields(line)[4:], " "))
			}
			if strings.Contains(line, "receiver") && strings.Contains(line, " 0.00 Mbits/sec") {
				t.Errorf("iperf3 %s: nothing arrived: %s", strings.Join(args, " "), line)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// tshark lets a second opinion read what was on the wire.
func tshark(t *testing.T, wire *capture, f family) {
	t.Helper()
	path, frames := wire.write(func(f frame) bool {
		_, udp := readUDP(f.data)
		return udp // all else on the wire are ARP and neighbour discovery
	})
	if frames < 1000 {
		t.Fatalf("%d packets on the wire, want some thousand", frames)
	}
	ipTTL, csum := "ip.ttl", []string{"-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"}
	if f.name == "IPv6" {
		ipTTL = "ipv6.hlim"
	}
	fields := append([]string{"-r", path, "-T", "fields", "-E", "occurrence=f", "-E", "separator=,",
		"-e", "udp.dstport", "-e", "geneve.version", "-e", "geneve.vni", "-e", "geneve.proto_type", "-e", "geneve.options",
		"-e", ipTTL, "-e", "udp.checksum.status"}, csum...)
	// Over IPv4 the Don't Fragment bit is worth a look as well.
	want := "6081,0,0x00002a,0x6558,,64,1"
	if f.name == "IPv4" {
		fields = append(fields, "-e", "ip.flags.df")
		want += ",1"
	}
	seen := map[string]int{}
	for line := range strings.Lines(wireshark(t, fields...)) {
		seen[strings.TrimSpace(line)]++
	}
	delete(seen, want)
	if fastpath() && f.name == "IPv4" { // super-frames whose last piece is shorter have no outer checksum
		delete(seen, strings.Replace(want, ",64,1,", ",64,3,", 1))
	}
	if len(seen) > 0 {
		t.Errorf("of %d packets tshark reads some as %v, want all %q", frames, seen, want)
	}
	// iperf3's payload is random and sometimes looks like one protocol or
	// another to a heuristic: it is to be read as plain data.
	csum = append(csum, "-d", "tcp.port==5201,data", "-d", "udp.port==5201,data")
	faults := wireshark(t, append([]string{"-r", path, "-Y", `_ws.malformed || _ws.expert.severity == "Error"`}, csum...)...)
	if faults != "" {
		t.Errorf("tshark finds faults:\n%.2000s", faults)
	}
}

// wireshark runs tshark, which needs no namespace, and returns what it prints.
func wireshark(t *testing.T, args ...string) string {
	t.Helper()
	h := newHost(t, "tshark")
	return h.ok(60*time.Second, "tshark", args...)
}

// TestSourcePorts: 64 flows leave from at least 32 source ports, within the range.
func TestSourcePorts(t *testing.T) {
	need(t)
	for _, f := range families {
		for _, r := range []struct {
			words    []string
			min, max uint16
		}{
			{nil, 49152, 65535},
			{[]string{"--srcport", "50000", "50063"}, 50000, 50063},
			{[]string{"--srcport", "50000-50000"}, 50000, 50000},
		} {
			t.Run(f.name+strings.Join(r.words, " "), func(t *testing.T) {
				p := newPair(t, f, r.words...)
				p.a.neighbour("gnv0", "192.0.2.2", p.b.mac("gnv0"))
				wire := p.b.capture("veth0", 4000)
				const flows, repeats = 64, 3
				c := p.a.listenUDP("192.0.2.1:0")
				for range repeats {
					for i := range flows {
						if _, err := c.WriteTo([]byte("SOURCE-PORT"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7000 + i}); err != nil {
							t.Fatal(err)
						}
					}
				}
				all := wire.await(5*time.Second, flows*repeats, 0, received("SOURCE-PORT"))
				ports, used := portsOf(t, all)
				if len(ports) != flows || len(all) != flows*repeats {
					t.Fatalf("%d packets of %d flows arrived, want %d of %d", len(all), len(ports), flows*repeats, flows)
				}
				for name, p := range ports {
					if len(p) != 1 {
						t.Errorf("flow %s has the outer source ports %v, want one", name, p)
					}
				}
				for port := range used {
					if port < r.min || port > r.max {
						t.Errorf("source port %d is outside %d-%d", port, r.min, r.max)
					}
				}
				if want := min(32, int(r.max-r.min)+1); len(used) < want {
					t.Errorf("%d flows have %d source ports, want at least %d", flows, len(used), want)
				}
			})
		}
	}
}

// portsOf returns the outer source ports of each inner flow, and all of them.
func portsOf(t *testing.T, frames []frame) (flows map[string]map[uint16]int, used map[uint16]bool) {
	flows, used = map[string]map[uint16]int{}, map[uint16]bool{}
	for _, f := range frames {
		d, ok := readUDP(f.data)
		if !ok || d.dst.Port() != 6081 || len(d.payload) < 8 {
			continue
		}
		name := flow(d.payload[8:])
		if name == "" {
			continue
		}
		if flows[name] == nil {
			flows[name] = map[uint16]int{}
		}
		flows[name][d.src.Port()]++
		used[d.src.Port()] = true
	}
	return flows, used
}

// TestFlowKeepsPort: with two workers, a TCP connection and a request/reply UDP
// flow keep one outer source port in each direction, also over pauses longer
// than the 3 s after which the TUN driver forgets which queue a flow had.
func TestFlowKeepsPort(t *testing.T) {
	need(t)
	pause, rounds := 3500*time.Millisecond, 3
	if long() {
		pause, rounds = 5*time.Second, 12
	}
	for _, f := range families {
		if f.name == "IPv6" && !long() {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t, f, "--workers", "2")
			wire := p.b.capture("veth0", 100_000)
			l := p.b.listenTCP("192.0.2.2:7000")
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				echo(c)
			}()
			u := p.b.listenUDP("192.0.2.2:7001")
			go func() {
				buf := make([]byte, 2048)
				for {
					n, from, err := u.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					u.WriteToUDPAddrPort(buf[:n], from)
				}
			}()
			tcp := p.a.dialTCP("192.0.2.2:7000")
			udp := p.a.listenUDP("192.0.2.1:7002")
			far := netip.MustParseAddrPort("192.0.2.2:7001")
			message := bytes.Repeat([]byte("x"), 1000)
			buf := make([]byte, 2048)
			for round := range rounds {
				if round > 0 {
					time.Sleep(pause)
				}
				for range 20 {
					tcp.SetDeadline(time.Now().Add(5 * time.Second))
					tcp.Write(message)
					if _, err := tcp.Read(buf); err != nil {
						t.Fatalf("round %d: TCP: %v", round, err)
					}
					udp.SetDeadline(time.Now().Add(5 * time.Second))
					udp.WriteToUDPAddrPort(message, far)
					if _, err := udp.Read(buf); err != nil {
						t.Fatalf("round %d: UDP: %v", round, err)
					}
				}
			}
			flows, _ := portsOf(t, wire.kept(0, nil))
			if len(flows) != 4 {
				t.Errorf("%d directions of flows, want 4: %v", len(flows), flows)
			}
			for name, ports := range flows {
				if len(ports) != 1 {
					t.Errorf("flow %s has the outer source ports (packets) %v, want one", name, ports)
				}
			}
		})
	}
}

func echo(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		c.Write(buf[:n])
	}
}

// TestStrangers: packets with another VNI or from another source are dropped
// and counted, and there is no answer at all.
func TestStrangers(t *testing.T) {
	need(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			b.address("veth0", f.alien+map[bool]string{true: "/64", false: "/24"}[f.name == "IPv6"])
			a.neighbour("veth0", f.alien, b.mac("veth0"))
			g := a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24")
			tap := a.capture("gnv0", 1000)
			wire := b.capture("veth0", 1000)
			inner := eth(broadcast, mac{2, 0, 0, 0, 0xb, 2}, 0x88b5, []byte("GENEVE-CHECK-K001."))
			for _, v := range []struct {
				name, from, header string
				counter            string
			}{
				{"another VNI", f.far, "0000 6558 00002b 00", "rx.unknown_vni"},
				{"another source", f.alien, "0000 6558 00002a 00", "rx.unknown_peer"},
				{"neither", f.alien, "0000 6558 00002b 00", "rx.unknown_vni"},
			} {
				before, start := g.counters(), len(wire.kept(0, nil))
				c := b.listenUDP(net.JoinHostPort(v.from, "0"))
				for range 5 {
					if _, err := c.WriteToUDPAddrPort(append(unhex(v.header), inner...), netip.AddrPortFrom(addr(f.near), 6081)); err != nil {
						t.Fatal(err)
					}
				}
				soon(5*time.Second, func() bool { return g.counters().since(before)[v.counter] >= 5 })
				if moved := g.moved(before, v.counter); len(moved) != 1 || moved[v.counter] != 5 {
					t.Errorf("%s: counters moved by %v, want %s by 5 and no other", v.name, moved, v.counter)
				}
				if got := tap.kept(0, received("GENEVE-CHECK")); len(got) > 0 {
					t.Errorf("%s: on the device: % x", v.name, got[0].data)
				}
				for _, answer := range wire.kept(start, func(f frame) bool { return !f.out && !chatter(f.data) }) {
					t.Errorf("%s: an answer: % x", v.name, answer.data)
				}
			}
			if m := g.behind(mac{2, 0, 0, 0, 0xb, 2}); m != "" {
				t.Errorf("the inner source was learned behind %q, want nothing learned", m)
			}
			// The right one gets through.
			c := b.listenUDP(net.JoinHostPort(f.far, "0"))
			c.WriteToUDPAddrPort(append(unhex("0000 6558 00002a 00"), inner...), netip.AddrPortFrom(addr(f.near), 6081))
			if got := tap.await(5*time.Second, 1, 0, received("GENEVE-CHECK")); len(got) != 1 || !bytes.Equal(got[0].data, inner) {
				t.Errorf("on the device %d frames after a good packet, want exactly the one sent", len(got))
			}
		})
	}
}

// TestNoLocal: a tunnel needs no --local, the route chooses; the tail of an ip link
// line is enough.
func TestNoLocal(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			a.tunnel("gnv0", "id", "7", "remote", f.far, "address", "192.0.2.1/24")
			b.tunnel("gnv0", "id", "7", "remote", f.near, "address", "192.0.2.2/24")
			a.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "5", "192.0.2.2")
		})
	}
	if _, err := os.Stat("/sys/class/net/gnv0"); err == nil {
		t.Error("the device is in the namespace of the test")
	}
}

// TestZeroChecksum: without UDP checksums where the user says so; over IPv6
// only a receiver that was told so takes them.
func TestZeroChecksum(t *testing.T) {
	need(t, "ping")
	for _, v := range []struct {
		f     family
		words []string
		pass  bool
	}{
		{families[0], []string{"--noudpcsum"}, true},
		{families[1], []string{"--udp6zerocsumtx"}, false},
		{families[1], []string{"--udp6zerocsumtx", "--udp6zerocsumrx"}, true},
	} {
		t.Run(v.f.name+strings.Join(v.words, " "), func(t *testing.T) {
			p := newPair(t, v.f, v.words...)
			wire := p.b.capture("veth0", 1000)
			_, _, code := p.a.run(5*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", map[bool]string{true: "3", false: "0.3"}[v.pass], "192.0.2.2")
			if (code == 0) != v.pass {
				t.Errorf("ping: exit status %d; an answer: want %t", code, v.pass)
			}
			n := 0
			for _, f := range wire.kept(0, nil) {
				if d, ok := readUDP(f.data); ok {
					if n++; d.csum != csumZero {
						t.Fatalf("a datagram with a checksum: % x", f.data)
					}
				}
			}
			if n == 0 {
				t.Error("no datagram on the wire")
			}
		})
	}
}
