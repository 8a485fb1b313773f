package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Trunks: one TAP whose VLANs are segments of their own.
//
//	a                                               b
//	gnvt, VLAN v . . . . . . VNI 100000+v . . . . . gnvt, VLAN v (or another)
//	gvtep                                           gvtep
//	veth0 10.77.0.1/24 =========================== veth0 10.77.0.2/24

// cli runs a command of the instance and wants it to succeed.
func (g *gvtep) cli(words ...string) string {
	g.h.t.Helper()
	return g.h.ok(20*time.Second, g.binary, append([]string{"-i", g.instance}, words...)...)
}

var (
	nearMAC = mac{2, 0, 0, 0, 0x0a, 1}
	farMAC  = mac{2, 0, 0, 0, 0x0b, 2}
)

// labelled is a frame with a text inside, and a tag unless vid is 0.
func labelled(dst, src mac, vid int, text string) []byte {
	data := eth(dst, src, typeLabel, fmt.Appendf(nil, "%-46s", text))
	if vid != 0 {
		data = tag(data, 0x8100, uint16(vid))
	}
	return data
}

// label is what labelled has put into a frame, and the tags before it.
func label(data []byte) (tags []string, text string) {
	rest := data[12:]
	for len(rest) > 4 && (binary.BigEndian.Uint16(rest) == 0x8100 || binary.BigEndian.Uint16(rest) == 0x88a8) {
		tags = append(tags, fmt.Sprintf("%04x:%d", rest[:2], binary.BigEndian.Uint16(rest[2:])))
		rest = rest[4:]
	}
	if len(rest) < 2 || binary.BigEndian.Uint16(rest) != typeLabel {
		return tags, ""
	}
	return tags, strings.TrimSpace(string(bytes.TrimRight(rest[2:], "\x00")))
}

// onWire returns the VNIs of the GENEVE packets that a capture has seen leave
// the host with labelled frames, from one on.
func onWire(c *capture, from int) (vnis []string) {
	for _, f := range c.kept(from, func(f frame) bool { return f.out }) {
		d, ok := readUDP(f.data)
		if !ok || d.dst.Port() != 6081 || len(d.payload) < 8+14 {
			continue
		}
		if tags, text := label(d.payload[8:]); text != "" {
			vni := int(d.payload[4])<<16 | int(d.payload[5])<<8 | int(d.payload[6])
			vnis = append(vnis, fmt.Sprintf("%d %s", vni, strings.Join(append(tags, text), " ")))
		}
	}
	return vnis
}

// arrived returns the labelled frames that a host has received: tags and text.
func arrived(c *capture, from int) (all []string) {
	for _, f := range c.kept(from, func(f frame) bool { return !f.out }) {
		if tags, text := label(f.data); text != "" {
			all = append(all, strings.Join(append(tags, text), " "))
		}
	}
	return all
}

type runtimeAnswer struct {
	Go struct {
		HeapObjects int64 `json:"heap_objects"`
		Goroutines  int   `json:"goroutines"`
	} `json:"go"`
}

// TestTrunkAll: all 4,094 VLANs of a trunk carry a frame both ways, each in a
// segment of its own and on the other side with the ID that it has there. They
// are added live and take neither threads, goroutines nor descriptors.
func TestTrunkAll(t *testing.T) {
	need(t)
	const first, last, most = 1, 4094, 100 // MiB
	a, b := underlay(t)
	ga := a.tunnel("gnvt", "--vlan", "1:100001", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--workers", "2")
	// There the same segments have other VLANs: all are one less, and the first is the last.
	gb := b.tunnel("gnvt", "--vlan", "4094:100001", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--workers", "2")
	there := func(vid int) int { return (vid+last-2)%last + 1 }
	for _, g := range []*gvtep{ga, gb} {
		var before, after runtimeAnswer
		size := func(r *runtimeAnswer) (descriptors, rss int) {
			if err := g.ask("/v1/status?details", r); err != nil {
				t.Fatal(err)
			}
			return g.descriptors(), memory(t, fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid), "VmRSS:")
		}
		descriptors, rss := size(&before)
		start := time.Now()
		if g == ga {
			g.cli("vlan", "add", "dev", "gnvt", "vid", "2-4094", "tunnel_info", "id", "100002-104094")
		} else {
			g.cli("vlan", "add", "dev", "gnvt", "vid", "1-4093", "tunnel_info", "id", "100002-104094")
		}
		took := time.Since(start)
		descriptorsAfter, rssAfter := size(&after)
		t.Logf("%s: %d VLANs added in %s, RSS %d MiB before and %d after, heap objects %d and %d, %d descriptors, %d goroutines",
			g.h.name, last-1, took.Round(time.Millisecond), rss, rssAfter, before.Go.HeapObjects, after.Go.HeapObjects, descriptorsAfter, after.Go.Goroutines)
		// A connection of ours may be closing still.
		soon(2*time.Second, func() bool {
			if descriptorsAfter > descriptors || after.Go.Goroutines > before.Go.Goroutines {
				descriptorsAfter, _ = size(&after)
			}
			return descriptorsAfter <= descriptors && after.Go.Goroutines <= before.Go.Goroutines
		})
		if descriptorsAfter > descriptors || after.Go.Goroutines > before.Go.Goroutines {
			t.Errorf("%s: %d descriptors and %d goroutines for one VLAN, %d and %d for all: want no more", g.h.name,
				descriptors, before.Go.Goroutines, descriptorsAfter, after.Go.Goroutines)
		}
		if rssAfter > most {
			t.Errorf("%s: RSS %d MiB, want at most %d", g.h.name, rssAfter, most)
		}
	}
	wire := map[*host]*capture{a: a.capture("veth0", 20_000), b: b.capture("veth0", 20_000)}
	inner := map[*host]*capture{a: a.capture("gnvt", 20_000), b: b.capture("gnvt", 20_000)}
	// The same two addresses in every VLAN; from a flooded, and back to the address that b has learned.
	for _, way := range []struct {
		from, to *host
		src, dst mac
		word     string
		out, in  func(vid int) int // of the segment that is VLAN vid on a
	}{
		{a, b, nearMAC, broadcast, "ask", func(v int) int { return v }, there},
		{b, a, farMAC, nearMAC, "answer", there, func(v int) int { return v }},
	} {
		wantIn, wantWire := []string{}, []string{}
		got := func() []string {
			all := arrived(inner[way.to], 0)
			return slices.DeleteFunc(all, func(s string) bool { return !strings.Contains(s, way.word+" ") })
		}
		for vid := first; vid <= last; vid++ {
			text := fmt.Sprintf("%s %d", way.word, vid)
			inner[way.from].send(labelled(way.dst, way.src, way.out(vid), text))
			wantIn = append(wantIn, fmt.Sprintf("8100:%d %s", way.in(vid), text))
			wantWire = append(wantWire, fmt.Sprintf("%d %s", 100_000+vid, text))
			// In portions, so that no receive buffer overflows.
			if vid%100 == 0 || vid == last {
				soon(5*time.Second, func() bool { return len(got()) >= vid })
			}
		}
		time.Sleep(60 * time.Millisecond) // for those that should not come, and the captures
		sent := slices.DeleteFunc(onWire(wire[way.from], 0), func(s string) bool { return !strings.Contains(s, way.word+" ") })
		same(t, fmt.Sprintf("%s to %s, on the wire", way.from.name, way.to.name), sent, wantWire)
		same(t, fmt.Sprintf("%s to %s, on the device", way.from.name, way.to.name), got(), wantIn)
	}
	// Every VLAN has learned for itself, and counted.
	for _, g := range []*gvtep{ga, gb} {
		var vlans []struct {
			VLAN  int `json:"vlan"`
			Gvtep struct {
				RX, TX struct{ Packets int }
				FDB    struct{ Learned int } `json:"fdb"`
			} `json:"gvtep"`
		}
		if err := g.ask("/v1/tunnels/gnvt/vlans?stats", &vlans); err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for _, v := range vlans {
			if v.Gvtep.RX.Packets != 1 || v.Gvtep.TX.Packets != 1 || v.Gvtep.FDB.Learned != 2 {
				wrong++
			}
		}
		if len(vlans) != last || wrong > 0 {
			t.Errorf("%s: %d VLANs, want %d; of %d the counters are not 1 packet each way and 2 addresses", g.h.name, len(vlans), last, wrong)
		}
		if c := g.counters(); c["rx.packets"] != last || c["tx.packets"] != last {
			t.Errorf("%s: %v, want %d packets each way", g.h.name, c, last)
		}
	}
	var entries []struct {
		VLAN   int `json:"vlan"`
		SrcVNI int `json:"src_vni"`
	}
	if err := ga.ask("/v1/fdb?vlan=4094", &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || entries[0].VLAN != 4094 || entries[0].SrcVNI != 104_094 {
		t.Errorf("entries of VLAN 4094: %+v, want two, with src_vni 104094", entries)
	}
	ga.stop()
	gb.stop()
}

// same compares two lists whatever their order.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	count := map[string]int{}
	for _, s := range got {
		count[s]++
	}
	for _, s := range want {
		count[s]--
	}
	maps.DeleteFunc(count, func(_ string, n int) bool { return n == 0 })
	if len(count) == 0 {
		return
	}
	differ := slices.Sorted(maps.Keys(count))
	for i, s := range differ {
		differ[i] = fmt.Sprintf("%q %+d", s, count[s])
	}
	t.Errorf("%s: %d, want %d; too often or missing (%d in all): %s", what, len(got), len(want), len(differ), strings.Join(differ[:min(5, len(differ))], ", "))
}

// TestTrunkTags: what becomes of frames without a tag, with another one, and
// with several.
func TestTrunkTags(t *testing.T) {
	need(t)
	a, b := underlay(t)
	both := func(dst, src string, words ...string) []string {
		return append([]string{"--local", src, "--remote", dst}, words...)
	}
	ga := a.tunnel("gnvt", both("10.77.0.2", "10.77.0.1", "--vlan", "10-11:5010-5011")...)
	gb := b.tunnel("gnvt", both("10.77.0.1", "10.77.0.2", "--vlan", "10:5011", "--vlan", "11:5010")...)
	// A trunk with a segment for frames without a tag, and a plain tunnel at its other end that passes all tags.
	own := a.tunnel("gnvo", both("10.77.0.2", "10.77.0.1", "--vlan", "10:6010", "--id", "6000", "--dstport", "6082")...)
	b.tunnel("gnvp", both("10.77.0.1", "10.77.0.2", "--id", "6000", "--dstport", "6082")...)
	devices := map[string]*capture{}
	for dev, h := range map[string]*host{"gnvt": a, "gnvo": a, "gnvp": b, "other": b} {
		name := dev
		if dev == "other" {
			name = "gnvt"
		}
		devices[dev] = h.capture(name, 2000)
	}
	plain := func(text string) []byte { return labelled(broadcast, nearMAC, 0, text) }
	drop := func(t *testing.T, g *gvtep, what string, send func(), reason string, to *capture) {
		t.Helper()
		before, from := g.counters(), to.count()
		send()
		soon(2*time.Second, func() bool { return g.counters().since(before)[reason] > 0 })
		if n := g.counters().since(before)[reason]; n == 0 {
			t.Errorf("%s: nothing counted as %s: %v", what, reason, g.counters().since(before))
		}
		if got := arrived(to, from); len(got) > 0 {
			t.Errorf("%s: arrived as %v, want it dropped", what, got)
		}
	}
	pass := func(t *testing.T, what string, from *capture, data []byte, to *capture, want string) {
		t.Helper()
		n := to.count()
		from.send(data)
		soon(2*time.Second, func() bool { return len(arrived(to, n)) > 0 })
		if got := arrived(to, n); len(got) != 1 || got[0] != want {
			t.Errorf("%s: arrived as %q, want %q", what, got, want)
		}
	}
	send := func(dev string, data []byte) func() { return func() { devices[dev].send(data) } }
	const pcp = 5<<13 | 1<<12 // priority 5 and DEI

	pass(t, "VLAN 10", devices["gnvt"], labelled(broadcast, nearMAC, 10, "plain"), devices["other"], "8100:11 plain")
	pass(t, "priority", devices["gnvt"], tag(plain("prio"), 0x8100, pcp|11), devices["other"], "8100:10 prio")
	pass(t, "a tag inside", devices["gnvt"], tag(labelled(broadcast, nearMAC, 77, "qinq"), 0x8100, 10), devices["other"], "8100:11 8100:77 qinq")
	pass(t, "back", devices["other"], labelled(broadcast, farMAC, 10, "back"), devices["gnvt"], "8100:11 back")
	drop(t, ga, "VLAN 12", send("gnvt", labelled(broadcast, nearMAC, 12, "no")), "tx.unknown_vlan", devices["other"])
	drop(t, ga, "VLAN 4095", send("gnvt", labelled(broadcast, nearMAC, 4095, "no")), "tx.unknown_vlan", devices["other"])
	drop(t, ga, "no tag", send("gnvt", plain("no")), "tx.untagged", devices["other"])
	drop(t, ga, "priority only", send("gnvt", tag(plain("no"), 0x8100, pcp)), "tx.untagged", devices["other"])
	drop(t, ga, "service tag", send("gnvt", tag(plain("no"), 0x88a8, 10)), "tx.untagged", devices["other"])
	ga.cli("tunnel", "set", "gnvt", "vlan_tags", "drop")
	drop(t, ga, "a tag inside, vlan_tags drop", send("gnvt", tag(labelled(broadcast, nearMAC, 77, "no"), 0x8100, 10)), "tx.vlan", devices["other"])
	pass(t, "VLAN 10, vlan_tags drop", devices["gnvt"], labelled(broadcast, nearMAC, 10, "still"), devices["other"], "8100:11 still")
	ga.cli("tunnel", "set", "gnvt", "vlan_tags", "pass")
	gb.cli("tunnel", "set", "gnvt", "vlan_tags", "drop")
	drop(t, gb, "a tag inside, vlan_tags drop there", send("gnvt", tag(labelled(broadcast, nearMAC, 77, "no"), 0x8100, 10)), "rx.vlan", devices["other"])
	own.cli("tunnel", "set", "gnvo", "vlan_tags", "pass")

	pass(t, "own id, no tag", devices["gnvo"], plain("own"), devices["gnvp"], "own")
	pass(t, "own id, priority only", devices["gnvo"], tag(plain("low"), 0x8100, pcp), devices["gnvp"], "low")
	pass(t, "own id, back", devices["gnvp"], labelled(broadcast, farMAC, 0, "own back"), devices["gnvo"], "own back")
	// A tag from a peer must not lead from the one segment into another.
	for _, hop := range [][]byte{
		labelled(broadcast, farMAC, 10, "hop"), tag(labelled(broadcast, farMAC, 10, "hop"), 0x8100, 0), tag(labelled(broadcast, farMAC, 10, "hop"), 0x88a8, 0),
	} {
		drop(t, own, fmt.Sprintf("hop %x", hop[12:20]), send("gnvp", hop), "rx.vlan", devices["gnvo"])
	}
	drop(t, own, "own id, service tag", send("gnvo", tag(plain("no"), 0x88a8, 10)), "tx.vlan", devices["gnvp"])
	// Who is no peer of the trunk, and who has a VNI that it has not.
	stranger := b.listenUDP("10.77.0.2:0")
	before := ga.counters()
	to := &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 6081}
	b.address("veth0", "10.77.0.3/24")
	other := b.listenUDP("10.77.0.3:0")
	hello := func(vni int) []byte {
		return append([]byte{0, 0, 0x65, 0x58, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}, labelled(broadcast, farMAC, 0, "stranger")...)
	}
	n := devices["gnvt"].count()
	stranger.WriteTo(hello(5012), to)
	other.WriteTo(hello(5010), to)
	// Two flows, which may be two workers'.
	soon(5*time.Second, func() bool {
		moved := ga.counters().since(before)
		return moved["rx.unknown_vni"] > 0 && moved["rx.unknown_peer"] > 0
	})
	moved := ga.moved(before, "rx.unknown_peer")
	if got := arrived(devices["gnvt"], n); moved["rx.unknown_vni"] != 1 || moved["rx.unknown_peer"] != 1 || len(got) > 0 {
		t.Errorf("strangers: %v and %v arrived, want one unknown_vni, one unknown_peer and nothing", moved, got)
	}
}

// TestTrunkTCP: two tenants with the same addresses in two VLANs of one trunk,
// each with a container on either host: TCP both ways, in super-frames, byte
// for byte, and no frame of the one with the other.
func TestTrunkTCP(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	ga := a.tunnel("gnvt", "--vlan", "10-11:5010-5011", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--workers", "2")
	gb := b.tunnel("gnvt", "--vlan", "20-21:5010-5011", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--workers", "2")
	mtu := a.mtu("gnvt")
	if mtu != 1450 {
		t.Errorf("MTU of the trunk %d, want 1450: the tag does not cross the underlay", mtu)
	}
	var tenants [2][2]*host
	for i := range tenants {
		tenants[i][0] = a.access("gnvt", 10+i, mtu, "192.0.2.1/24")
		tenants[i][1] = b.access("gnvt", 20+i, mtu, "192.0.2.2/24")
	}
	a.uplink("gnvt", 10, 11)
	b.uplink("gnvt", 20, 21)
	seen := map[*host]*capture{a: a.capture("gnvt", 20_000), b: b.capture("gnvt", 20_000)}
	for i, tenant := range tenants {
		// The largest packet of the MTU, then TCP.
		tenant[0].ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "-M", "do", "-s", strconv.Itoa(mtu-28), "192.0.2.2")
		for way := range 2 {
			from, to := tenant[way], tenant[1-way]
			transfer(t, from, to, fmt.Sprintf("192.0.2.%d:%d", 2-way, 7000+i), 24<<20)
		}
	}
	for i, h := range []*host{a, b} {
		var out, in, tagged int
		for _, f := range seen[h].kept(0, nil) {
			if len(f.data) < 18 || binary.BigEndian.Uint16(f.data[12:]) != 0x8100 || len(f.data) <= mtu+18 {
				continue
			}
			tagged++
			if f.out {
				out++
			} else {
				in++
			}
		}
		t.Logf("%s: of the frames kept %d tagged super-frames from the stack and %d to it", h.name, out, in)
		if out == 0 || in == 0 {
			t.Errorf("%s: %d tagged super-frames from the stack, %d to it; want some of both", h.name, out, in)
		}
		g := []*gvtep{ga, gb}[i]
		for name, n := range g.counters() {
			if strings.HasPrefix(name, "rx.") && name != "rx.packets" || name == "tx.bad_offload" || name == "tx.too_big" {
				t.Errorf("%s: %d dropped as %s, want none", h.name, n, name)
			}
		}
	}
	// A tenant's neighbour is its own: each sees one other address.
	for i, tenant := range tenants {
		for way, c := range tenant {
			want := tenant[1-way].mac("eth0")
			all, err := c.nl.NeighList(c.index("eth0"), unix.AF_INET)
			c.must("neighbours", err)
			if len(all) != 1 || mac(all[0].HardwareAddr) != want {
				t.Errorf("tenant %d on %s has the neighbours %v, want %s alone", i, c.name, all, want)
			}
		}
	}
	ga.stop()
	gb.stop()
}

// transfer sends bytes over TCP and compares what comes out.
func transfer(t *testing.T, from, to *host, address string, size int) {
	t.Helper()
	l := to.listenTCP(address)
	defer l.Close()
	sums := make(chan [sha256.Size]byte, 1)
	go func() {
		defer close(sums)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		io.Copy(h, c)
		sums <- [sha256.Size]byte(h.Sum(nil))
	}()
	c := from.dialTCP(address)
	c.SetDeadline(time.Now().Add(60 * time.Second))
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size)})
	source.Read(data)
	start := time.Now()
	if _, err := c.Write(data); err != nil {
		t.Errorf("%s to %s: %v", from.name, to.name, err)
	}
	c.Close()
	select {
	case sum := <-sums:
		if sum != sha256.Sum256(data) {
			t.Errorf("%s to %s: other bytes came out than went in", from.name, to.name)
		}
		t.Logf("%s to %s: %d MiB in %s", from.name, to.name, size>>20, time.Since(start).Round(time.Millisecond))
	case <-time.After(60 * time.Second):
		t.Errorf("%s to %s: not all of %d bytes after 60 s", from.name, to.name, size)
	}
}

// TestTrunkLive: ranges come and go under traffic. A VLAN that stays loses
// nothing, one that is gone carries nothing, and one that comes back begins
// anew.
func TestTrunkLive(t *testing.T) {
	need(t)
	a, b := underlay(t)
	ga := a.tunnel("gnvt", "--vlan", "10:5010", "--vlan", "2000-3000:12000-13000", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--workers", "2")
	gb := b.tunnel("gnvt", "--vlan", "10:5010", "--vlan", "2000-3000:12000-13000", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--workers", "2")
	from, flow, to := a.capture("gnvt", 0), a.capture("gnvt", 0), b.capture("gnvt", 100_000)
	stop, sent := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		defer func() { sent <- n }()
		for tick := time.Tick(500 * time.Microsecond); ; <-tick {
			select {
			case <-stop:
				return
			default:
			}
			n++
			data := labelled(farMAC, nearMAC, 10, fmt.Sprint("steady ", n))
			if unix.Sendto(flow.fd, data, 0, &flow.to) != nil {
				n--
			}
		}
	}()
	rounds := 10
	for i := range rounds {
		for _, g := range []*gvtep{ga, gb} {
			g.cli("vlan", "del", "dev", "gnvt", "vid", "2000-3000")
		}
		if i == 0 {
			before, n := ga.counters(), to.count()
			from.send(labelled(broadcast, nearMAC, 2500, "gone"))
			moved := ga.moved(before, "tx.unknown_vlan")
			if moved["tx.unknown_vlan"] != 1 {
				t.Errorf("a VLAN that is gone: %v, want one unknown_vlan", moved)
			}
			if got := to.kept(n, received("gone")); len(got) > 0 {
				t.Errorf("a VLAN that is gone delivered %d frames", len(got))
			}
		}
		for _, g := range []*gvtep{ga, gb} {
			g.cli("vlan", "add", "dev", "gnvt", "vid", "2000-3000", "tunnel_info", "id", "12000-13000")
		}
		from.send(labelled(broadcast, nearMAC, 2500, fmt.Sprint("again ", i)))
		if got := to.await(2*time.Second, 1, 0, received(fmt.Sprintf("again %d ", i))); len(got) != 1 {
			t.Errorf("round %d: a VLAN that came back delivered %d frames, want 1", i, len(got))
		}
	}
	close(stop)
	n := <-sent
	steady := func() (all []string) {
		for _, s := range arrived(to, 0) {
			if strings.Contains(s, "steady") {
				all = append(all, s)
			}
		}
		return all
	}
	soon(2*time.Second, func() bool { return len(steady()) >= n })
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf("8100:10 steady %d", i+1)
	}
	same(t, "VLAN 10 during the changes", steady(), want)
	t.Logf("%d changes of 1,001 VLANs, %d frames in another", 4*rounds, n)

	// A VLAN in another segment has forgotten what it knew; the others have not.
	learned := func(vid int) string { return gb.cli("fdb", "show", "dev", "gnvt", "vlan", fmt.Sprint(vid)) }
	within(t, 2*time.Second, "b has learned in VLAN 2500", func() bool { return strings.Contains(learned(2500), nearMAC.String()) })
	gb.cli("vlan", "del", "dev", "gnvt", "vid", "2500")
	gb.cli("vlan", "add", "dev", "gnvt", "vid", "2500", "tunnel_info", "id", "777")
	if got := learned(2500); got != "" {
		t.Errorf("VLAN 2500 in another segment knows %q, want nothing", got)
	}
	if got := learned(10); !strings.Contains(got, nearMAC.String()) {
		t.Errorf("VLAN 10 knows %q, want %s", got, nearMAC)
	}
	before := gb.counters()
	from.send(labelled(broadcast, nearMAC, 2500, "elsewhere"))
	if moved := gb.moved(before, "rx.unknown_vni"); moved["rx.unknown_vni"] != 1 {
		t.Errorf("a frame of a segment that is gone: %v, want one unknown_vni", moved)
	}
	ga.stop()
	gb.stop()
}
