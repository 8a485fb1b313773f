package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Linux bridge beside the tunnel: row L-11, tenants, and a loop.

// bridge makes a bridge with the words of ip link, up.
func (h *host) bridge(name string, words ...string) {
	h.t.Helper()
	h.ok(5*time.Second, "ip", append([]string{"link", "add", name, "up", "type", "bridge"}, words...)...)
}

// enslave makes a device a port of a bridge.
func (h *host) enslave(dev, bridge string) {
	h.t.Helper()
	h.must("master", h.nl.LinkSetMaster(h.link(dev), h.link(bridge)))
}

// container makes a namespace whose veth0 has this Ethernet address and, if it
// is not "", IP address, and plugs it into a bridge of the host.
func (h *host) container(name, bridge string, lladdr mac, address string) *host {
	h.t.Helper()
	c := newHost(h.t, name)
	port := "p-" + name
	plug(c, h, port)
	c.must("lladdr", c.nl.LinkSetHardwareAddr(c.link("veth0"), lladdr[:]))
	if address != "" {
		c.address("veth0", address)
	}
	h.enslave(port, bridge)
	return c
}

// pings pings once or more, all of which must be answered.
func (h *host) pings(address string, words ...string) {
	h.t.Helper()
	h.ok(10*time.Second, "ping", append([]string{"-q", "-c", "1", "-W", "5", address}, words...)...)
}

// TestBridgedContainers is row L-11: the tunnel device is a port of a bridge
// with two containers on each side; one moves from side to side.
//
//	a1 192.0.2.11  a2 192.0.2.12  (m)          b1 192.0.2.21  b2 192.0.2.22  (m)
//	  |              |             |             |              |             |
//	 =a br0================== gnv0 .. VNI 42 .. gnv0 =======================br0 b=
//	        veth0 10.77.0.1 ------------------------- veth0 10.77.0.2
func TestBridgedContainers(t *testing.T) {
	need(t, "ip", "ping")
	a, b := underlay(t)
	words := func(i int) []string {
		return []string{"--id", "42", "--local", fmt.Sprint("10.77.0.", i), "--remote", fmt.Sprint("10.77.0.", 3-i), "--ttl", "5", "--master", "br0"}
	}
	a.bridge("br0")
	b.bridge("br0")
	ga, gb := a.tunnel("gnv0", words(1)...), b.tunnel("gnv0", words(2)...)
	var all []*host
	for i, where := range []*host{a, a, b, b} {
		n := byte(10*(1+i/2) + 1 + i%2)
		all = append(all, where.container(fmt.Sprint(where.name, n%10), "br0", mac{2, 0, 0, 0, 0x0c, n}, fmt.Sprintf("192.0.2.%d/24", n)))
	}
	wire := a.capture("veth0", 5000)
	for i, from := range all {
		for k := range all {
			if k != i {
				from.pings(fmt.Sprintf("192.0.2.%d", 10*(1+k/2)+1+k%2), "-i", "0.01", "-c", "3")
			}
		}
	}
	var sent int
	for _, f := range wire.kept(0, nil) {
		if d, ok := readUDP(f.data); ok && d.dst.Port() == 6081 {
			if sent++; d.ttl != 5 {
				t.Fatalf("a packet on the wire has TTL %d, want 5", d.ttl)
			}
		}
	}
	// 8 pairs across, 3 requests and replies, and at least one ARP exchange.
	if sent < 48 {
		t.Errorf("%d packets on the wire, want at least 48", sent)
	}
	for i, g := range []*gvtep{ga, gb} {
		for k := range all {
			m := mac{2, 0, 0, 0, 0x0c, byte(10*(1+k/2) + 1 + k%2)}
			want := fmt.Sprint("10.77.0.", 2-i)
			if k/2 == i {
				want = "local"
			}
			if got := g.behind(m); got != want {
				t.Errorf("%s has %s behind %q, want %q", g.h.name, m, got, want)
			}
		}
	}

	// The station that moves is one address on both sides; it speaks where it is.
	m := mac{2, 0, 0, 0, 0x0c, 0x99}
	var here [2]*capture
	for i, h := range []*host{a, b} {
		here[i] = h.container("m"+h.name, "br0", m, "").capture("veth0", 1000)
	}
	speakers := [2]*capture{all[0].capture("veth0", 1000), all[2].capture("veth0", 1000)}
	say := func(c *capture, dst, src mac, text string) {
		c.send(eth(dst, src, typeLabel, fmt.Appendf(nil, "%-46s", text)))
	}
	for move, side := range []int{0, 1, 0} {
		hello := fmt.Sprintf("I-AM-HERE-%d.", move)
		say(here[side], broadcast, m, hello)
		for i, s := range speakers {
			if len(s.await(2*time.Second, 1, 0, received(hello))) != 1 {
				t.Fatalf("move %d: the only frame from the new place did not come to side %d once", move, i)
			}
		}
		// The very next frame for it must arrive there, from either side.
		for i, s := range speakers {
			text := fmt.Sprintf("TO-M-%d-FROM-%d.", move, i)
			say(s, m, mac{2, 0, 0, 0, 0x0c, byte(10*(1+i) + 1)}, text)
			here[side].await(2*time.Second, 1, 0, received(text))
			if there, elsewhere := len(here[side].kept(0, received(text))), len(here[1-side].kept(0, received(text))); there != 1 || elsewhere != 0 {
				t.Errorf("move %d: the first frame from side %d came %d times to where the station is, and %d times to where it was; want 1 and 0", move, i, there, elsewhere)
			}
		}
	}
}

// TestBridgedTransfer: bulk traffic between containers that get every packet
// alone and look at its checksum. What the endpoint joins goes to the device with a
// partial checksum, which the stack of an address on the device takes for granted. Here
// it has to be right: the bridge's port has no offloads, so the kernel cuts the
// super-frame and completes the checksums from what we wrote, and the container
// verifies them.
//
//	st-a 192.0.2.1                                   st-b 192.0.2.2
//	  |  fd92::1                                       |  fd92::2
//	 br0 === gnv0 a . . . . . . VNI 42 . . . . . . b gnv0 === br0
//	         veth0 10.77.0.1 ================= veth0 10.77.0.2
func TestBridgedTransfer(t *testing.T) {
	need(t, "ip", "ping")
	tcp, udp := int64(20<<20), int64(5<<20)
	if long() {
		tcp, udp = tcp*20, udp*20
	}
	for _, sends := range []string{"packets", "super-frames"} {
		t.Run("which send "+sends, func(t *testing.T) {
			var daemons [2]*gvtep
			var stations [2]*host
			a, b := underlay(t)
			for i, h := range []*host{a, b} {
				for command, value := range labs["veth"] {
					h.do(func() error { return ethtool("veth0", command, value) })
				}
				h.bridge("br0")
				daemons[i] = h.tunnel("gnv0", "--id", "42", "--local", fmt.Sprint("10.77.0.", i+1), "--remote", fmt.Sprint("10.77.0.", 2-i), "--master", "br0")
				c := h.container("st-"+h.name, "br0", mac{2, 0, 0, 0, 0x0c, byte(i + 1)}, fmt.Sprintf("192.0.2.%d/24", i+1))
				c.address("veth0", fmt.Sprint("fd92::", i+1, "/64"))
				c.must("MTU", c.nl.LinkSetMTU(c.link("veth0"), h.mtu("gnv0")))
				c.do(func() error { return ethtool("veth0", unix.ETHTOOL_SRXCSUM, 0) })
				if sends == "super-frames" {
					for command, value := range labs["veth"] {
						c.do(func() error { return ethtool("veth0", command, value) })
					}
				}
				stations[i] = c
			}
			uso := a.hasUSO()
			if !uso {
				t.Log("this kernel's TUN driver has no USO: whether UDP is joined is not looked at")
			}
			for i := range 2 {
				from, to := stations[i], stations[1-i]
				for _, inner := range inners {
					address := []string{inner.far, inner.near}[i]
					from.pings(address)
					before := superFrames(daemons[i], daemons[1-i])
					sum := tcpStream(t, from, to, net.JoinHostPort(address, "7000"), tcp)
					between := superFrames(daemons[i], daemons[1-i])
					udpStream(t, from, to, net.JoinHostPort(address, "7000"), udp)
					byTCP, byUDP := between.since(before), superFrames(daemons[i], daemons[1-i]).since(between)
					t.Logf("%s to %s, %s: TCP, SHA-256 %.16s, %s; UDP, %s", from.name, to.name, inner.name, sum, byTCP, byUDP)
					// This is about what was joined, of which there must be much.
					if !fastpath() && (byTCP.written < 2*byTCP.writes || uso && byUDP.written < 2*byUDP.writes) {
						t.Errorf("%s to %s, %s: TCP, %s; UDP, %s: want at least 2 packets a write", from.name, to.name, inner.name, byTCP, byUDP)
					}
				}
			}
			for _, h := range []*host{stations[0], stations[1], a, b} {
				if bad := h.sumFaults(); len(bad) != 0 {
					t.Errorf("%s: the stack counts wrong checksums: %v, want none", h.name, bad)
				}
			}
		})
	}
}

// TestBridgedTooBig: containers whose MTU is the underlay's send super-frames
// through a device of 50 less. A bridge forwards those of any length, as the device
// could cut them, so they come to us; no piece but a last one fits the path. They are
// counted as too_big, their sender is told and TCP goes on, and nothing leaves in
// fragments or short of its end.
//
//	st-a 192.0.2.1, MTU 1500                            st-b 192.0.2.2, MTU 1500
//	  |  fd92::1                                          |  fd92::2
//	 br0 === gnv0, 1450  a . . . VNI 42 . . . b  gnv0 === br0
//	         veth0 10.77.0.1 =================== veth0 10.77.0.2
func TestBridgedTooBig(t *testing.T) {
	need(t, "ip", "ping")
	var daemons [2]*gvtep
	var stations [2]*host
	a, b := underlay(t)
	for i, h := range []*host{a, b} {
		h.bridge("br0")
		daemons[i] = h.tunnel("gnv0", "--id", "42", "--local", fmt.Sprint("10.77.0.", i+1), "--remote", fmt.Sprint("10.77.0.", 2-i), "--master", "br0")
		c := h.container("st-"+h.name, "br0", mac{2, 0, 0, 0, 0x0c, byte(i + 1)}, fmt.Sprintf("192.0.2.%d/24", i+1))
		c.address("veth0", fmt.Sprint("fd92::", i+1, "/64"))
		for command, value := range labs["veth"] {
			c.do(func() error { return ethtool("veth0", command, value) })
		}
		stations[i] = c
	}
	from, to := stations[0], stations[1]
	wire := a.capture("veth0", 10_000)
	uso := a.hasUSO()
	if !uso {
		t.Log("this kernel's TUN driver has no USO: no super-frames of UDP")
	}
	for _, inner := range inners {
		from.pings(inner.far)
		l, sink := to.listenTCP(net.JoinHostPort(inner.far, "7000")), to.listenUDP(net.JoinHostPort(inner.far, "7001"))
		if uso {
			size := 1500 - map[string]int{"IPv4": 20 + 8, "IPv6": 40 + 8}[inner.name]
			before := daemons[0].counters()
			if _, _, err := from.dialUDP(net.JoinHostPort(inner.far, "7001")).WriteMsgUDP(make([]byte, 10*size), segmentSize(size), nil); err != nil {
				t.Fatal(err)
			}
			if moved := daemons[0].moved(before, "tx.too_big"); moved["tx.too_big"] != 10 {
				t.Errorf("UDP over %s: counters moved by %v, want tx.too_big by its 10 pieces", inner.name, moved)
			}
			sink.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := sink.Read(make([]byte, 2048)); err == nil {
				t.Errorf("UDP over %s: %d bytes arrived of datagrams of %d that are all too long", inner.name, n, size)
			}
			// The sender was told, and forgets it again.
			for _, words := range [][]string{{"route"}, {"-6", "route"}} {
				from.ok(5*time.Second, "ip", append(words, "flush", "cache")...)
			}
		}
		before := daemons[0].counters()
		c := from.dialTCP(net.JoinHostPort(inner.far, "7000"))
		c.SetDeadline(time.Now().Add(20 * time.Second))
		const bytes = 64 << 10
		if _, err := c.Write(make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := io.Copy(io.Discard, accepted); n != bytes {
			t.Errorf("TCP over %s: %d bytes of %d arrived once the sender knew: %v", inner.name, n, bytes, err)
		}
		accepted.Close()
		if moved := daemons[0].moved(before, "tx.too_big"); moved["tx.too_big"] == 0 {
			t.Errorf("TCP over %s: counters moved by %v, want tx.too_big", inner.name, moved)
		}
	}
	datagrams := 0
	for _, f := range wire.kept(0, nil) {
		d, ok := readUDP(f.data)
		if !ok && chatter(f.data) {
			continue
		}
		if !ok || d.fragment || d.length > 1500 || d.csum == csumWrong || len(d.payload) < 8+14+20 {
			t.Errorf("on the wire: %+v % .60x, want nothing but whole GENEVE packets of at most 1500 bytes", d, f.data)
			continue
		}
		frame := d.payload[8:]
		packet, length := frame[14:], len(frame)-14
		switch binary.BigEndian.Uint16(frame[12:]) {
		case typeIPv4:
			length = int(binary.BigEndian.Uint16(packet[2:]))
		case typeIPv6:
			length = 40 + int(binary.BigEndian.Uint16(packet[4:]))
		}
		if datagrams++; length != len(packet) {
			t.Errorf("on the wire: %d bytes of a packet of %d: % .60x", len(packet), length, frame)
		}
	}
	t.Logf("%d datagrams on the wire, dropped: %v", datagrams, daemons[0].counters())
	// Nothing but the size was wrong.
	for _, c := range stations {
		c.must("MTU", c.nl.LinkSetMTU(c.link("veth0"), 1450))
	}
	for _, inner := range inners {
		tcpStream(t, from, to, net.JoinHostPort(inner.far, "7002"), 5<<20)
	}
}

// TestTenants is the Mizar row: two tenants with the same addresses, down to
// Ethernet, on the same two hosts. What one sends the other never sees.
//
//	one-a 192.0.2.1  two-a 192.0.2.1         one-b 192.0.2.2  two-b 192.0.2.2
//	  | br100          | br200                 | br100          | br200
//	  gnv100, VNI 100  gnv200, VNI 200         gnv100           gnv200
//	  a: one gvtep, veth0 10.77.0.1 ========== b: one gvtep, veth0 10.77.0.2
func TestTenants(t *testing.T) {
	need(t, "ip", "ping")
	hosts := [2]*host{}
	hosts[0], hosts[1] = underlay(t)
	names := []string{"one", "two"}
	stations := [2]mac{{2, 0, 0, 0, 0x0a, 1}, {2, 0, 0, 0, 0x0a, 2}}
	var daemons [2]*gvtep
	var tenants [2][2]*host     // by tenant and side
	var captures [2][2]*capture // of their veth0
	for side, h := range hosts {
		h.bridge("br100")
		h.bridge("br200")
		daemons[side] = h.configured("gnv100", file(t, "tenants.toml", fmt.Sprintf(`
[defaults]
local  = "10.77.0.%d"
remote = "10.77.0.%d"
[socket]
workers = 4
[[tunnel]]
name   = "gnv100"
id     = 100
master = "br100"
[[tunnel]]
name   = "gnv200"
id     = 200
master = "br200"
`, side+1, 2-side)))
		for tenant, name := range names {
			c := h.container(name+"-"+h.name, fmt.Sprintf("br%d00", tenant+1), stations[side], fmt.Sprintf("192.0.2.%d/24", side+1))
			tenants[tenant][side], captures[tenant][side] = c, c.capture("veth0", 5000)
		}
	}
	wire := hosts[0].capture("veth0", 5000)
	// Both at once, each with a pattern of its own.
	var running []*program
	for tenant, pattern := range []string{"11aa11aa", "22bb22bb"} {
		for side := range 2 {
			running = append(running, tenants[tenant][side].start(nil, "ping", "-q", "-c", "20", "-i", "0.02", "-W", "5", "-p", pattern, fmt.Sprintf("192.0.2.%d", 2-side)))
		}
	}
	for _, p := range running {
		if code, err := p.wait(20 * time.Second); code != 0 || err != nil || received4(t, p.stdout.String()) != 20 || strings.Contains(p.stdout.String(), "duplicates") {
			t.Errorf("ping: exit status %d, %v: %s", code, err, p.stdout.String())
		}
	}
	// Known, unknown and group addresses, from everywhere.
	for tenant, name := range names {
		for side := range 2 {
			for kind, dst := range map[string]mac{"known": stations[1-side], "unknown": {2, 0, 0, 0, 0x0d, 9}, "broadcast": broadcast, "multicast": {1, 0, 0x5e, 1, 2, 3}} {
				captures[tenant][side].send(eth(dst, stations[side], typeLabel, fmt.Appendf(nil, "%-46s", fmt.Sprintf("FROM-%s-%d-%s.", name, side, kind))))
			}
		}
	}
	for tenant := range names {
		for side := range 2 {
			c := captures[tenant][side]
			own := func(f frame) bool { return received("FROM-" + names[tenant])(f) }
			if got := len(c.await(2*time.Second, 4, 0, own)); got != 4 {
				t.Errorf("%s received %d of the 4 frames of its own tenant", c.name, got)
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // for those that should not come
	for tenant, name := range names {
		other := 1 - tenant
		for side := range 2 {
			c := captures[tenant][side]
			for _, foreign := range []string{"FROM-" + names[other], []string{"\x11\xaa\x11\xaa", "\x22\xbb\x22\xbb"}[other]} {
				if n := len(c.kept(0, received(foreign))); n != 0 {
					t.Errorf("%s received %d frames of the other tenant (%q)", c.name, n, foreign)
				}
			}
			if c.count() > 5000 {
				t.Fatal("the captures are too small for this to mean anything")
			}
		}
		// What is one tenant's has that tenant's VNI on the wire.
		vnis := map[byte]int{}
		for _, f := range wire.kept(0, func(f frame) bool { return strings.Contains(string(f.data), "FROM-"+name) }) {
			if d, ok := readUDP(f.data); ok {
				vnis[d.payload[6]]++
			}
		}
		if want := byte(100 * (tenant + 1)); len(vnis) != 1 || vnis[want] != 8 {
			t.Errorf("frames of tenant %s on the wire by VNI: %v, want 8 with %d", name, vnis, want)
		}
	}
	for side, g := range daemons {
		for _, dev := range []string{"gnv100", "gnv200"} {
			g.dev = dev
			here, there := g.behind(stations[side]), g.behind(stations[1-side])
			if want := fmt.Sprint("10.77.0.", 2-side); here != "local" || there != want {
				t.Errorf("%s on %s has its own station behind %q and the other behind %q, want local and %s", dev, g.h.name, here, there, want)
			}
		}
	}
}

// flapping returns for each line of the alarm the addresses that it names.
func (g *gvtep) flapping(t *testing.T) (named [][]string) {
	t.Helper()
	for line := range strings.Lines(g.stderr.String()) {
		var l struct {
			Message string   `json:"msg"`
			MAC     []string `json:"mac"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && strings.HasPrefix(l.Message, "MAC addresses move to and fro") {
			named = append(named, l.MAC)
		}
	}
	return named
}

// TestLoop: two endpoints bridge one segment, and so make a loop. The storm
// stays below bum_limit, the alarm names who flaps once a second, and with
// l2_control pass spanning tree cuts the loop.
//
//	st                                              far
//	 |                                               |
//	 a br0 === gnv0 ........ VNI 42 ......... gnv0 === br0 b
//	       \== lan0 ------------------------- lan0 ==/
//	           veth0 10.77.0.1 ------------- veth0 10.77.0.2
func TestLoop(t *testing.T) {
	need(t, "ip")
	const limit = 400
	a, b := underlay(t)
	cable(a, "lan0", b, "lan0")
	station := mac{2, 0, 0, 0, 0x0c, 1}
	var daemons []*gvtep
	for i, h := range []*host{a, b} {
		// The shortest times that 802.1D and the kernel allow: 2 s, 1 s, 6 s.
		h.bridge("br0", "stp_state", "1", "forward_delay", "200", "hello_time", "100", "max_age", "600")
		h.enslave("lan0", "br0")
		daemons = append(daemons, h.tunnel("gnv0", "--id", "42", "--local", fmt.Sprint("10.77.0.", i+1), "--remote", fmt.Sprint("10.77.0.", 2-i),
			"--master", "br0", "--workers", "4", "--bum_limit", fmt.Sprint(limit)))
	}
	st := a.container("st", "br0", station, "").capture("veth0", 100)
	far := b.container("far", "br0", mac{2, 0, 0, 0, 0x0c, 2}, "").capture("veth0", 1_000_000)
	wire := a.capture("veth0", 1_000_000)
	set := func(words ...string) {
		t.Helper()
		for _, g := range daemons {
			g.h.ok(20*time.Second, g.binary, append([]string{"-i", g.instance, "tunnel", "set", "gnv0"}, words...)...)
		}
	}
	state := func(h *host, dev string) (ports []string) {
		out := h.ok(5*time.Second, "ip", "-d", "link", "show", dev)
		if _, rest, ok := strings.Cut(out, "bridge_slave state "); ok {
			return strings.Fields(rest)[:1]
		}
		return nil
	}
	for _, h := range []*host{a, b} {
		for _, dev := range []string{"lan0", "gnv0", map[*host]string{a: "p-st", b: "p-far"}[h]} {
			within(t, 20*time.Second, dev+" on "+h.name+" forwards: nothing tells the bridges of the loop", func() bool { return slices.Equal(state(h, dev), []string{"forwarding"}) })
		}
	}

	// A steady source: a frame that is dropped by the limit has left the loop.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				st.send(eth(broadcast, station, typeLabel, fmt.Appendf(nil, "%-46s", fmt.Sprintf("STORM-%d.", n))))
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	// rate counts the copies sent by each side in a time, by the clock of the capture.
	rate := func(wait time.Duration) (sent [2]int, took time.Duration) {
		from := wire.count()
		time.Sleep(wait)
		frames := wire.kept(from, carrying("STORM-"))
		for _, f := range frames {
			sent[map[bool]int{true: 0, false: 1}[f.out]]++
		}
		if len(frames) > 0 {
			took = frames[len(frames)-1].at.Sub(frames[0].at)
		}
		return sent, took
	}
	lines, start := len(daemons[0].flapping(t)), time.Now()
	sent, took := rate(3 * time.Second)
	t.Logf("in the loop, limit %d a second: %d and %d copies on the wire in %s", limit, sent[0], sent[1], took)
	for i, n := range sent {
		// By the kernel's stamps. The limit lets through what comes in 100 ms at once.
		if most := int(float64(limit)*(took.Seconds()+0.2)) + 1; n > most || n < limit {
			t.Errorf("%s sent %d copies in %s, want at most %d, and more than %d or there is no storm", []string{"a", "b"}[i], n, took, most, limit)
		}
	}
	if n := daemons[0].counters()["tx.bum_limit"]; n == 0 {
		t.Error("no drop is counted as bum_limit")
	}
	within(t, 20*time.Second, "three lines of alarm", func() bool { return len(daemons[0].flapping(t)) >= lines+3 })
	named, seconds := daemons[0].flapping(t)[lines:], time.Since(start).Seconds()
	if len(named) > int(seconds)+2 {
		t.Errorf("%d lines of alarm in %.1f s, want one a second", len(named), seconds)
	}
	for _, who := range named {
		// What the bridges' own devices say goes round, too.
		if !slices.Contains(who, station.String()+" on gnv0") {
			t.Errorf("the alarm names %v, want %s on gnv0 among them", who, station)
		}
	}

	// What the limit holds back is there.
	set("bum_limit", "0")
	from := wire.count()
	if !soon(5*time.Second, func() bool { return wire.count() > from+5*limit }) {
		t.Errorf("%d packets in 5 s without limit: this loop is none", wire.count()-from)
	}
	set("bum_limit", fmt.Sprint(limit), "l2_control", "pass")
	blocked := func() (n int) {
		for _, h := range []*host{a, b} {
			for _, dev := range []string{"lan0", "gnv0"} {
				if s := state(h, dev); len(s) > 0 && s[0] == "blocking" {
					n++
				}
			}
		}
		return n
	}
	within(t, 20*time.Second, "spanning tree blocks one port", func() bool { return blocked() == 1 })
	// It goes by lan0 or by the tunnel, once.
	time.Sleep(300 * time.Millisecond)
	for _, text := range []string{"AFTER-1.", "AFTER-2.", "AFTER-3."} {
		begin := wire.count()
		st.send(eth(broadcast, station, typeLabel, fmt.Appendf(nil, "%-46s", text)))
		far.await(2*time.Second, 1, 0, received(text))
		time.Sleep(100 * time.Millisecond)
		if n, w := len(far.kept(0, received(text))), len(wire.kept(begin, carrying(text))); n != 1 || w > 1 {
			t.Errorf("%s: after spanning tree one broadcast arrives %d times, %d copies of it on the wire; want 1, and at most 1", text, n, w)
		}
	}
	if blocked() != 1 {
		t.Errorf("%d ports are blocked at the end, want 1", blocked())
	}
}

// carrying passes frames that contain text, sent or received.
func carrying(text string) func(frame) bool {
	return func(f frame) bool { return strings.Contains(string(f.data), text) }
}
