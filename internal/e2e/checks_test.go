package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The 25 checks of the requirements catalogue, section 12, and with them row
// K-11: each bad packet moves exactly one counter, reaches nothing and teaches
// nothing, and the next good one passes.
//
//	 dut                                net
//	 gnv0 02:00:00:00:0a:01 (A)
//	      10.99.0.1/24
//	 gvtep, VNI 0x123456                T1 192.0.2.2  a peer, B is behind it
//	 veth0 192.0.2.1/24  -------------  T2 192.0.2.3  a peer
//	       2001:db8:0:1::1/64           X  192.0.2.66 not a peer
//	                                    2001:db8:0:1::2, the same over IPv6
//
// All packets to the endpoint are made byte by byte and put on the wire by a
// packet socket; frames from behind the device are put on gnv0 the same way.

var (
	macA = mac{2, 0, 0, 0, 0x0a, 1} // the device itself
	macB = mac{2, 0, 0, 0, 0x0b, 2} // behind T1

	dut = addr("192.0.2.1")
	t1  = addr("192.0.2.2")
	t2  = addr("192.0.2.3")
	x   = addr("192.0.2.66")

	innerA  = addr("10.99.0.1")
	innerB  = addr("10.99.0.2")
	innerNo = addr("10.99.0.77") // nobody's, so that no stack answers
)

const (
	header     = "0000 6558 123456 00" // of the VNI, no options
	sourcePort = 49200
)

type bench struct {
	t         *testing.T
	dut, net  *host
	g         *gvtep
	tap, wire *capture
	goods     int // V01a delivered so far
	bads      int // addresses that must not be learned
}

// newBench makes the two hosts and a gvtep with the keywords given, besides id
// and remote.
func newBench(t *testing.T, words ...string) *bench {
	t.Helper()
	b := &bench{t: t, dut: newHost(t, "dut"), net: newHost(t, "net")}
	wire(b.dut, b.net)
	b.dut.address("veth0", "192.0.2.1/24", "2001:db8:0:1::1/64")
	b.net.address("veth0", "192.0.2.2/24", "192.0.2.3/24", "192.0.2.66/24", "2001:db8:0:1::2/64")
	for _, a := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.66", "2001:db8:0:1::2"} {
		b.dut.neighbour("veth0", a, b.net.mac("veth0"))
	}
	// Somebody takes what is sent to the peers: no "port unreachable".
	b.net.listenUDP("[::]:6081")
	b.dut.sysctl("net/ipv6/conf/default/disable_ipv6", "1") // nothing of its own on the device
	b.wire = b.net.capture("veth0", 100_000)
	b.start(words...)
	return b
}

// start starts gvtep. Words that are given replace the usual ones.
func (b *bench) start(words ...string) {
	b.t.Helper()
	for _, usual := range [][]string{
		{"--id", "1193046"}, {"--remote", t1.String(), "--remote", t2.String()},
		{"--lladdr", macA.String()}, {"--address", innerA.String() + "/24"},
	} {
		if !slices.Contains(words, usual[0]) {
			words = append(words, usual...)
		}
	}
	b.g = b.dut.tunnel("gnv0", words...)
	b.tap = b.dut.capture("gnv0", 100_000)
	// A speaks once; nobody knows B, so that each peer gets it.
	peers, from := 0, len(b.wire.kept(0, nil))
	for _, w := range words {
		if w == "--remote" {
			peers++
		}
	}
	b.tap.send(marked("V00a", eth(macB, macA, 0x88b5, nil)))
	if got := b.wire.await(10*time.Second, peers, from, received("V00a")); len(got) != peers {
		b.t.Fatalf("V00a: %d packets on the wire, want one for each of %d peers", len(got), peers)
	}
	b.goods, b.bads = 0, 0
}

// marker is the 18 bytes by which a vector is found in a capture.
func marker(id string) []byte { return fmt.Appendf(nil, "GENEVE-CHECK-%s.", id) }

func marked(id string, frame []byte) []byte { return append(frame, marker(id)...) }

// inner is the usual inner frame F of 60 bytes.
func inner(id string, src mac) []byte { return innerECN(id, src, 0) }

func innerECN(id string, src mac, tos uint8) []byte {
	return eth(macA, src, typeIPv4, ip{src: innerB, dst: innerNo, tos: tos}.udp(4000, 4001, marker(id), csumRight))
}

// outer is what surrounds the UDP payload of a vector.
type outer struct {
	from netip.Addr // T1 if not set
	to   netip.Addr // the DUT if not set
	port uint16     // destination, 6081 if not set
	tos  uint8
	csum csum
}

// put sends a UDP packet to the DUT.
func (b *bench) put(payload []byte, o outer) {
	b.t.Helper()
	if !o.from.IsValid() {
		o.from = t1
	}
	if !o.to.IsValid() {
		o.to = dut
	}
	if o.port == 0 {
		o.port = 6081
	}
	etherType := uint16(typeIPv4)
	if o.from.Is6() {
		etherType = typeIPv6
	}
	packet := ip{src: o.from, dst: o.to, tos: o.tos}.udp(sourcePort, o.port, payload, o.csum)
	b.wire.send(eth(b.dut.mac("veth0"), b.net.mac("veth0"), etherType, packet))
}

// good sends V01a, changed by o, and checks that it is delivered.
func (b *bench) good(o outer) {
	b.t.Helper()
	f := inner("V01a", macB)
	b.goods++
	b.put(append(unhex(header), f...), o)
	got := b.tap.await(5*time.Second, b.goods, 0, received("GENEVE-CHECK-V01a"))
	if len(got) != b.goods {
		b.t.Fatalf("V01a was delivered %d times, want %d: % x", len(got), b.goods, datas(got))
	}
	if !bytes.Equal(got[len(got)-1].data, f) {
		b.t.Fatalf("V01a was delivered as\n% x, want\n% x", got[len(got)-1].data, f)
	}
}

// stranger is an inner source address that nothing may learn.
func (b *bench) stranger() mac {
	b.bads++
	return mac{2, 0, 0, 0, 0x0c, byte(b.bads)}
}

// deliver sends a payload and wants exactly this frame on the device, only the
// receive counter moved, and nothing on the wire.
func (b *bench) deliver(id string, payload, want []byte, o outer) {
	b.t.Helper()
	before, from, fromWire := b.g.counters(), len(b.tap.kept(0, nil)), len(b.wire.kept(0, nil))
	b.put(payload, o)
	same := func(f frame) bool { return !f.out && bytes.Equal(f.data, want) }
	b.tap.await(5*time.Second, 1, from, same)
	moved := b.g.moved(before, "rx.packets")
	got := b.tap.kept(from, func(f frame) bool { return !f.out && !chatter(f.data) || same(f) })
	if len(got) != 1 || !bytes.Equal(got[0].data, want) {
		b.t.Errorf("%s: on the device %d frames: % x\nwant one: % x", id, len(got), datas(got), want)
	}
	if len(moved) != 1 || moved["rx.packets"] != 1 {
		b.t.Errorf("%s: counters moved by %v, want rx.packets by 1 and no other", id, moved)
	}
	b.quiet(id, fromWire)
}

// drop sends a payload and wants exactly one of the counters named to move by
// one and nothing else to happen; after it V01a passes. No counter named: the
// kernel drops it before gvtep sees it.
func (b *bench) drop(id string, payload []byte, o outer, reasons ...string) {
	b.t.Helper()
	before, from, fromWire := b.g.counters(), len(b.tap.kept(0, nil)), len(b.wire.kept(0, nil))
	b.put(payload, o)
	moved := b.g.moved(before, reasons...)
	sum := 0
	for _, r := range reasons {
		sum += moved[r]
	}
	if len(reasons) > 0 && (len(moved) != 1 || sum != 1) || len(reasons) == 0 && len(moved) != 0 {
		b.t.Errorf("%s: counters moved by %v, want by 1: %s", id, moved, strings.Join(reasons, " or "))
	}
	// Sent from the same address and port, V01a comes behind it on the same socket.
	b.good(outer{from: o.from, to: o.to}.peer())
	if got := b.tap.kept(from, received("GENEVE-CHECK-")); len(got) != 1 {
		b.t.Errorf("%s: on the device %d frames, want only the V01a that followed: % x", id, len(got), datas(got))
	}
	b.quiet(id, fromWire)
	for _, e := range b.g.fdb() {
		if strings.HasPrefix(e.MAC, "02:00:00:00:0c:") {
			b.t.Errorf("%s: %s was learned behind %q, want nothing learned", id, e.MAC, e.Dst)
		}
	}
}

// peer is the same with a source that is a peer.
func (o outer) peer() outer {
	if o.from == x {
		o.from = t1
	}
	return o
}

// quiet wants nothing on the wire from the DUT.
func (b *bench) quiet(id string, from int) {
	b.t.Helper()
	for _, f := range b.wire.kept(from, func(f frame) bool { return !f.out && !chatter(f.data) }) {
		b.t.Errorf("%s: on the wire: % x, want nothing", id, f.data)
	}
}

// sent puts a frame on the device and returns what it causes on the wire.
func (b *bench) sent(frame_ []byte, want int) []frame {
	b.t.Helper()
	from := len(b.wire.kept(0, nil))
	b.tap.send(frame_)
	pass := func(f frame) bool { return !f.out && !chatter(f.data) }
	b.wire.await(5*time.Second, want, from, pass)
	time.Sleep(20 * time.Millisecond) // for more than wanted
	return b.wire.kept(from, pass)
}

// one puts a frame on the device and wants one datagram on the wire.
func (b *bench) one(id string, frame_ []byte) (d datagram) {
	b.t.Helper()
	all := b.sent(frame_, 1)
	if len(all) != 1 {
		b.t.Fatalf("%s: %d packets on the wire, want 1: % x", id, len(all), datas(all))
	}
	d, ok := readUDP(all[0].data)
	if !ok || d.csum != csumRight {
		b.t.Fatalf("%s: on the wire % x, want UDP with a right checksum", id, all[0].data)
	}
	return d
}

func datas(frames []frame) (all [][]byte) {
	for _, f := range frames {
		all = append(all, f.data)
	}
	return all
}

// last waits as long as a late frame may take, then looks whether a marker of
// a dropped vector was ever on the device.
func (b *bench) last(dropped []string) {
	b.t.Helper()
	time.Sleep(time.Second)
	for _, id := range dropped {
		if got := b.tap.kept(0, received("GENEVE-CHECK-"+id)); len(got) > 0 {
			b.t.Errorf("%s: later on the device: % x", id, got[0].data)
		}
	}
	select {
	case <-b.g.done:
		b.t.Error("gvtep has ended")
	default:
	}
}

// join puts a header and options written in hex before a frame.
func join(head string, frame []byte) []byte { return append(unhex(head), frame...) }

func TestChecksReceive(t *testing.T) {
	need(t)
	b := newBench(t)
	b.good(outer{})
	if got := b.g.behind(macB); got != "192.0.2.2" {
		t.Errorf("V01a: B is behind %q, want 192.0.2.2", got)
	}
	crit, non := "ff00 81 01 deadbeef", "ff00 01 01 deadbeef"
	// 128 and 124 bytes of option.
	big := "ff00 01 1f" + strings.Repeat("11", 124) + "ff00 02 1e" + strings.Repeat("22", 120)

	for _, v := range []struct{ id, head string }{
		{"V02a", "003f 6558 123456 00"}, {"V02b", "0000 6558 123456 ff"}, {"V02c", "003f 6558 123456 ff"},
		{"V05a", "0200 6558 123456 00" + non},
		{"V05b", "0800 6558 123456 00" + "0108 01 03 000102030405060708090a0b" + "0108 02 02 0001020304050607" + "0108 03 00"},
		{"V07b", "0040 6558 123456 00"}, {"V07c", "0240 6558 123456 00" + non}, // as the README says
		{"V08a", "0200 6558 123456 00" + "ff00 01 e1 deadbeef"},
		{"V08b", "0200 6558 123456 00" + "ff00 01 00 ff00 02 00"},
		{"V11a", "3f00 6558 123456 00" + big},
		{"V11b", "3f00 6558 123456 00" + strings.Repeat("ff00 01 00", 63)},
	} {
		f := inner(v.id, macB)
		b.deliver(v.id, join(v.head, f), f, outer{})
	}
	f := eth(macA, macB, 0x88b5, nil)
	b.deliver("V12f", join(header, f), f, outer{})
	for _, v := range []struct {
		id   string
		tags [][2]uint16
	}{{"V17a", [][2]uint16{{0x8100, 0x0064}}}, {"V17b", [][2]uint16{{0x8100, 0xa000}}}, {"V17c", [][2]uint16{{0x8100, 0x0064}, {0x88a8, 0x000a}}}} {
		f := inner(v.id, macB)
		for _, x := range v.tags {
			f = tag(f, x[0], x[1])
		}
		b.deliver(v.id, join(header, f), f, outer{})
	}
	arp := append(unhex("0001 0800 06 04 0001 02000000 0b02 0a630002 000000000000 0a63004d"), marker("V19a")...)
	f = eth(broadcast, macB, typeARP, arp)
	b.deliver("V19a", join(header, f), f, outer{})

	var dropped []string
	drop := func(id, head string, frame []byte, o outer, reasons ...string) {
		t.Helper()
		dropped = append(dropped, id)
		b.drop(id, join(head, frame), o, reasons...)
	}
	F := func(id string) []byte { return inner(id, b.stranger()) }
	for id, v := range map[string]string{"V03a": "4000", "V03b": "8000", "V03c": "c000"} {
		drop(id, v+"6558 123456 00", F(id), outer{}, "rx.bad_version")
	}
	drop("V04a", "0080 6558 123456 00", F("V04a"), outer{}, "rx.control")
	drop("V04b", "0080 6558 123456 00", nil, outer{}, "rx.control")
	echo := ip{src: t1, dst: addr("127.0.0.1"), proto: 1, ttl: 255}.packet(append(unhex("0800 0000 0000 0000"), marker("V04c")...))
	drop("V04c", "0080 0800 000001 00", echo, outer{}, "rx.control")
	drop("V06a", "0240 6558 123456 00"+crit, F("V06a"), outer{}, "rx.critical_option")
	drop("V06b", "0440 6558 123456 00"+non+crit, F("V06b"), outer{}, "rx.critical_option")
	drop("V06c", "0240 6558 123456 00 0102 80 01 00010002", F("V06c"), outer{}, "rx.critical_option")
	drop("V07a", "0200 6558 123456 00"+crit, F("V07a"), outer{}, "rx.critical_option")
	drop("V09a", "3f00 6558 123456 00", F("V09a"), outer{}, "rx.short")
	drop("V09b", "0f00 6558 123456 00", F("V09b"), outer{}, "rx.bad_options", "rx.critical_option", "rx.short_inner")
	drop("V09c", "0200 6558 123456 00"+non, nil, outer{}, "rx.short_inner")
	drop("V10a", "0100 6558 123456 00 ff00 01 01", F("V10a"), outer{}, "rx.bad_options")
	drop("V10b", "0140 6558 123456 00 ff00 01 01", F("V10b"), outer{}, "rx.bad_options")
	drop("V10c", "0300 6558 123456 00"+non+"ff00 01 1f", F("V10c"), outer{}, "rx.bad_options")
	drop("V12a", "", nil, outer{}, "rx.short")
	drop("V12b", "ff", nil, outer{}, "rx.short")
	drop("V12c", "0000 6558 1234 56", nil, outer{}, "rx.short")
	drop("V12d", header, nil, outer{}, "rx.short_inner")
	drop("V12e", header, F("V12e")[:13], outer{}, "rx.short_inner")
	drop("V13a", "0000 88b5 123456 00", F("V13a"), outer{}, "rx.bad_protocol")
	drop("V13b", "0000 5865 123456 00", F("V13b"), outer{}, "rx.bad_protocol")
	v4 := ip{src: innerB, dst: innerNo}
	v6 := ip{src: addr("fd99::2"), dst: addr("fd99::77")}
	drop("V14a", "0000 0800 123456 00", v4.udp(4000, 4001, marker("V14a"), csumRight), outer{}, "rx.bad_protocol")
	drop("V14b", "0000 86dd 123456 00", v6.udp(4000, 4001, marker("V14b"), csumRight), outer{}, "rx.bad_protocol")
	drop("V14c", "0000 0800 123456 00", v6.udp(4000, 4001, marker("V14c"), csumRight), outer{}, "rx.bad_protocol")
	drop("K11p", "0000 8847 123456 00", F("K11p"), outer{}, "rx.bad_protocol")
	for id, v := range map[string]string{"V15a": "123457 00", "V15b": "001234 56", "V15c": "563412 00", "V15d": "000000 00", "V15e": "ffffff 00"} {
		drop(id, "0000 6558"+v, F(id), outer{}, "rx.unknown_vni")
	}
	for id, m := range map[string]mac{"V16a": {3, 0, 0, 0, 0x0b, 2}, "V16b": broadcast, "V16c": {}, "V16d": macA} {
		drop(id, header, inner(id, m), outer{}, "rx.bad_source_mac")
		if got := b.g.behind(m); got != "" && got != "local" && m != (mac{}) {
			t.Errorf("%s: %s is behind %q, want nothing learned", id, m, got)
		}
	}
	for id, last := range map[string]byte{"V18a": 0x00, "V18b": 0x0e, "V18c": 0x01} {
		drop(id, header, control(id, last, b.stranger()), outer{}, "rx.reserved_address")
	}
	drop("V20c", header, F("V20c"), outer{from: x}, "rx.unknown_peer")
	b.last(dropped)
}

// control is a frame to 01:80:c2:00:00:xx.
func control(id string, last byte, src mac) []byte {
	dst := mac{1, 0x80, 0xc2, 0, 0, last}
	switch last {
	case 1: // PAUSE
		return marked(id, eth(dst, src, 0x8808, unhex("0001 ffff")))
	case 0x0e:
		return marked(id, eth(dst, src, 0x88cc, unhex("0207 04 02000000 0b02")))
	}
	return marked(id, eth(dst, src, 40, unhex("4242 03 0000 00 00"))) // a length: spanning tree is 802.2
}

// Checks 15 and 18 with other settings: the two ends of the VNI's range, and
// reserved addresses passed.
func TestChecksSettings(t *testing.T) {
	need(t)
	b := newBench(t, "--id", "0", "--l2_control", "pass")
	f := inner("V15d", macB)
	b.deliver("V15d", join("0000 6558 000000 00", f), f, outer{})
	for id, last := range map[string]byte{"V18a": 0, "V18b": 0x0e} {
		f := control(id, last, macB)
		b.deliver(id, join("0000 6558 000000 00", f), f, outer{})
	}
	before := b.g.counters()
	b.put(join("0000 6558 000000 00", control("V18c", 1, macB)), outer{})
	if moved := b.g.moved(before, "rx.reserved_address"); len(moved) != 1 || moved["rx.reserved_address"] != 1 {
		t.Errorf("V18c with l2_control pass: counters moved by %v, want rx.reserved_address", moved)
	}
	if got := b.tap.kept(0, received("V18c")); len(got) > 0 {
		t.Errorf("V18c: on the device: % x", got[0].data)
	}
	b.g.stop()
	b.start("--id", "0xffffff", "--vlan_tags", "drop")
	f = inner("V15e", macB)
	b.deliver("V15e", join("0000 6558 ffffff 00", f), f, outer{})
	before = b.g.counters()
	b.put(join("0000 6558 ffffff 00", tag(inner("V17a", b.stranger()), 0x8100, 100)), outer{})
	if moved := b.g.moved(before, "rx.vlan"); len(moved) != 1 || moved["rx.vlan"] != 1 {
		t.Errorf("V17a with vlan_tags drop: counters moved by %v, want rx.vlan", moved)
	}
}

// Check 20: sources and moves.
func TestChecksMoves(t *testing.T) {
	need(t)
	b := newBench(t)
	toB := eth(macB, macA, typeIPv4, ip{src: innerA, dst: innerB}.udp(4000, 4001, marker("V23a"), csumRight))
	at := func(id string, want netip.Addr) {
		t.Helper()
		if got := b.g.behind(macB); got != want.String() {
			t.Errorf("%s: B is behind %q, want %s", id, got, want)
		}
		if d := b.one(id, toB); d.dst.Addr() != want {
			t.Errorf("%s: a frame to B goes to %s, want %s", id, d.dst, want)
		}
	}
	// As long as nobody knows B, both peers get a copy.
	if got := b.sent(toB, 2); len(got) != 2 {
		t.Errorf("unknown destination: %d packets, want one to each of the 2 peers", len(got))
	}
	f := inner("V20a", macB)
	b.deliver("V20a", join(header, f), f, outer{})
	at("V20a", t1)
	f = inner("V20b", macB)
	b.deliver("V20b", join(header, f), f, outer{from: t2})
	at("V20b", t2)
	b.put(join(header, inner("V20c", macB)), outer{from: x})
	time.Sleep(100 * time.Millisecond)
	at("V20c", t2)
	if got := b.tap.kept(0, received("V20c")); len(got) > 0 {
		t.Errorf("V20c: on the device: % x", got[0].data)
	}
}

// Check 21: the outer UDP checksum, which the kernel verifies.
func TestChecksChecksum(t *testing.T) {
	need(t)
	b := newBench(t)
	f := inner("V21a", macB)
	b.deliver("V21a", join(header, f), f, outer{})
	errors := b.csumErrors("Udp:")
	b.drop("V21b", join(header, inner("V21b", b.stranger())), outer{csum: csumWrong})
	if n := b.csumErrors("Udp:") - errors; n != 1 {
		t.Errorf("V21b: the kernel's InCsumErrors moved by %d, want 1", n)
	}
	f = inner("V21c", macB)
	b.deliver("V21c", join(header, f), f, outer{csum: csumZero})
	b.last([]string{"V21b"})

	v6 := func(c csum) outer {
		return outer{from: addr("2001:db8:0:1::2"), to: addr("2001:db8:0:1::1"), csum: c}
	}
	for _, accept := range []bool{false, true} {
		b.g.stop()
		words := []string{"--remote", "2001:db8:0:1::2"}
		if accept {
			words = append(words, "--udp6zerocsumrx")
		}
		b.start(words...)
		f = inner("V21d", macB)
		b.deliver("V21d", join(header, f), f, v6(csumRight))
		if accept {
			f = inner("V21e", macB)
			b.deliver("V21e with udp6zerocsumrx", join(header, f), f, v6(csumZero))
		} else {
			b.drop("V21e", join(header, inner("V21e", b.stranger())), v6(csumZero))
		}
		b.drop("V21f", join(header, inner("V21f", b.stranger())), v6(csumWrong))
		b.last([]string{"V21f"})
	}
}

// csumErrors reads the kernel's counter InCsumErrors.
func (b *bench) csumErrors(protocol string) (n int) { return b.dut.csumErrors(protocol) }

func (h *host) csumErrors(protocol string) (n int) {
	h.t.Helper()
	h.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if words[0] != protocol {
				continue
			}
			if names == nil {
				names = words
				continue
			}
			fmt.Sscan(words[slices.Index(names, "InCsumErrors")], &n)
		}
		return err
	})
	return n
}

// Check 22: ECN on decapsulation, RFC 6040 section 4.2.
func TestChecksECN(t *testing.T) {
	need(t)
	b := newBench(t)
	const dropped = 4
	for _, row := range []struct {
		id    string
		inner uint8
		want  [4]uint8 // for the outer 0, 2, 1, 3
	}{
		{"V22n", 0, [4]uint8{0, 0, 0, dropped}},
		{"V22t", 2, [4]uint8{2, 2, 1, 3}},
		{"V22u", 1, [4]uint8{1, 1, 1, 3}},
		{"V22c", 3, [4]uint8{3, 3, 3, 3}},
	} {
		for i, out := range []uint8{0, 2, 1, 3} {
			name := fmt.Sprintf("%s outer %d", row.id, out)
			// The DSCP of neither side may change the other.
			sent := join(header, innerECN(row.id, macB, 0x28|row.inner))
			if row.want[i] == dropped {
				b.drop(name, join(header, innerECN(row.id, b.stranger(), 0x28|row.inner)), outer{tos: 0xb8 | out}, "rx.ecn")
				continue
			}
			b.deliver(name, sent, innerECN(row.id, macB, 0x28|row.want[i]), outer{tos: 0xb8 | out})
		}
	}
	sent, want := tag(innerECN("V22v", macB, 2), 0x8100, 100), tag(innerECN("V22v", macB, 3), 0x8100, 100)
	b.deliver("V22v", join(header, sent), want, outer{tos: 3})
	v6 := func(tos uint8) []byte {
		return eth(macA, macB, typeIPv6, ip{src: addr("fd99::2"), dst: addr("fd99::77"), tos: tos}.udp(4000, 4001, marker("V22x"), csumRight))
	}
	b.deliver("V22x", join(header, v6(2)), v6(3), outer{tos: 3})
}

// Check 23: what we send.
func TestChecksSend(t *testing.T) {
	need(t)
	b := newBench(t)
	b.good(outer{})
	toB := func(port uint16, tos uint8) []byte {
		return eth(macB, macA, typeIPv4, ip{src: innerA, dst: innerB, tos: tos}.udp(port, 4001, marker("V23a"), csumRight))
	}
	var source uint16
	for i := range 10 {
		d := b.one("V23a", toB(4000, 0))
		if i == 0 {
			source = d.src.Port()
		}
		if want := join(header, toB(4000, 0)); !bytes.Equal(d.payload, want) {
			t.Fatalf("V23a: payload\n% x, want\n% x", d.payload, want)
		}
		if d.dst != netip.AddrPortFrom(t1, 6081) || d.src.Addr() != dut || d.ttl != 64 || !d.df || d.tos != 0 {
			t.Fatalf("V23a: from %s to %s, TTL %d, DF %t, TOS %#x; want from %s to %s port 6081, TTL 64, DF, TOS 0", d.src, d.dst, d.ttl, d.df, d.tos, dut, t1)
		}
		if d.src.Port() != source || source < 49152 {
			t.Fatalf("V23a: source port %d, want the same each time, 49152-65535; first it was %d", d.src.Port(), source)
		}
	}
	ports := map[uint16]bool{}
	for i := range 64 {
		ports[b.one("V23a", toB(uint16(5000+i), 0)).src.Port()] = true
	}
	if len(ports) < 32 {
		t.Errorf("V23a: 64 flows have %d source ports, want at least 32", len(ports))
	}
	for ecn := range uint8(4) {
		if d := b.one("V23a", toB(4000, 0x28|ecn)); d.tos != ecn {
			t.Errorf("V23a with inner TOS %#x: outer TOS %#x, want %#x", 0x28|ecn, d.tos, ecn)
		}
	}
	// A packet to one of our source ports is for nobody.
	for port := range ports {
		before, from, fromWire := b.g.counters(), len(b.tap.kept(0, nil)), len(b.wire.kept(0, nil))
		b.put(join(header, inner("V23b", b.stranger())), outer{port: port})
		b.good(outer{})
		if moved := b.g.counters().since(before); moved["rx.packets"] > 1 {
			t.Errorf("V23b to port %d: counters moved by %v", port, moved)
		}
		if got := b.tap.kept(from, received("V23b")); len(got) > 0 {
			t.Errorf("V23b to port %d: on the device: % x", port, got[0].data)
		}
		b.quiet("V23b", fromWire)
		break
	}
}

// Check 24: MTU and DF.
func TestChecksMTU(t *testing.T) {
	need(t)
	b := newBench(t)
	b.good(outer{})
	b.dut.must("MTU 9000", b.dut.nl.LinkSetMTU(b.dut.link("gnv0"), 9000))
	// length is that of the inner IP packet.
	sized := func(length int) []byte {
		return eth(macB, macA, typeIPv4, ip{src: innerA, dst: innerB, df: true}.udp(4000, 4001, append(marker("V24a"), make([]byte, length-28-18)...), csumRight))
	}
	passes := func(length int) datagram {
		t.Helper()
		d := b.one(fmt.Sprintf("V24 of %d bytes", length), sized(length))
		if d.length != length+50 || !d.df || d.fragment {
			t.Errorf("inner packet of %d bytes: outer packet of %d bytes, DF %t, fragment %t; want %d with DF", length, d.length, d.df, d.fragment, length+50)
		}
		return d
	}
	stops := func(length int, why string) {
		t.Helper()
		before := b.g.counters()
		got := b.sent(sized(length), 0)
		if len(got) > 0 {
			t.Errorf("inner packet of %d bytes%s: %d packets on the wire, want none: % .60x", length, why, len(got), got[0].data)
		}
		if moved := b.g.moved(before, "tx.too_big"); moved["tx.too_big"] != 1 {
			t.Errorf("inner packet of %d bytes%s: counters moved by %v, want tx.too_big by 1", length, why, moved)
		}
	}
	d := passes(1450)
	stops(1451, "")
	stops(8900, "")
	b.tooBig(1400, d.src, d.dst)
	time.Sleep(50 * time.Millisecond)
	stops(1351, " after ICMP with MTU 1400")
	passes(1350)
	// Quoting a flow that is not ours.
	b.tooBig(1300, netip.AddrPortFrom(d.src.Addr(), 1234), netip.AddrPortFrom(d.dst.Addr(), 4321))
	time.Sleep(200 * time.Millisecond)
	passes(1350)
	b.good(outer{})
}

// tooBig sends the DUT "fragmentation needed" about a datagram of its.
func (b *bench) tooBig(mtu uint16, src, dst netip.AddrPort) {
	b.t.Helper()
	quoted := ip{src: src.Addr(), dst: dst.Addr(), df: true}.udp(src.Port(), dst.Port(), make([]byte, 1472), csumRight)[:28]
	message := append(binary.BigEndian.AppendUint16(unhex("0304 0000 0000"), mtu), quoted...)
	binary.BigEndian.PutUint16(message[2:], ^sum16(0, message))
	packet := ip{src: x, dst: dut, proto: 1}.packet(message)
	b.wire.send(eth(b.dut.mac("veth0"), b.net.mac("veth0"), typeIPv4, packet))
}

// Check 25: tenants cannot speak GENEVE to us. Without --dev; listening on all
// addresses and on one; the inner address on the device, and on a bridge that
// the device is in, from the start or later.
func TestChecksTenants(t *testing.T) {
	need(t)
	const bridge = "br0"
	macBridge := mac{2, 0, 0, 0, 0x0a, 0xb0}
	for _, v := range []struct {
		name   string
		words  []string
		bridge string // "start": by the keyword master, "later": by hand
	}{
		{"TAP, any address", nil, ""},
		{"TAP, one address", []string{"--local", dut.String()}, ""},
		{"bridge, any address", nil, "later"},
		{"bridge, one address", []string{"--local", dut.String()}, "later"},
		{"bridge from the start", []string{"--master", bridge}, "start"},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := &bench{t: t, dut: newHost(t, "dut"), net: newHost(t, "net")}
			b.dut.sysctl("net/ipv6/conf/default/disable_ipv6", "1") // nothing of its own on device and bridge
			to := macA
			if v.bridge != "" {
				to = macBridge
				l := netlink.NewLinkAttrs()
				l.Name, l.HardwareAddr = bridge, macBridge[:]
				snooping := false // else the bridge joins 224.0.0.106 itself, and its IGMP reports are flooded
				b.dut.must(bridge, b.dut.nl.LinkAdd(&netlink.Bridge{LinkAttrs: l, MulticastSnooping: &snooping}))
				b.dut.up(bridge)
				b.dut.address(bridge, innerA.String()+"/24")
				v.words = append(v.words, "--address", "10.98.0.1/24")
			}
			wire(b.dut, b.net)
			b.dut.address("veth0", "192.0.2.1/24")
			b.net.address("veth0", "192.0.2.2/24", "192.0.2.3/24")
			for _, a := range []string{"192.0.2.2", "192.0.2.3"} {
				b.dut.neighbour("veth0", a, b.net.mac("veth0"))
			}
			b.net.listenUDP("0.0.0.0:6081")
			b.wire = b.net.capture("veth0", 10_000)
			b.start(v.words...)
			if v.bridge == "later" {
				b.dut.must("master", b.dut.nl.LinkSetMaster(b.dut.link("gnv0"), b.dut.link(bridge).(*netlink.Bridge)))
				time.Sleep(200 * time.Millisecond) // for the endpoint to see it
			}
			b.good(outer{})

			for id, dst := range map[string]netip.Addr{"V25a": t1, "V25b": innerB} {
				f := eth(macB, to, typeIPv4, ip{src: innerA, dst: dst}.udp(4000, 6081, join(header, inner(id, macB)), csumRight))
				if d := b.one(id, f); !bytes.Equal(d.payload, join(header, f)) {
					t.Errorf("%s: payload\n% x, want\n% x", id, d.payload, join(header, f))
				}
			}
			for id, dst := range map[string]netip.Addr{"V25j": dut, "V25k": innerA} {
				// Nested and outer source are T1's, which may speak.
				nested := eth(to, mac{2, 0, 0, 0, 0x0d, 1}, typeIPv4, ip{src: innerB, dst: innerNo}.udp(4000, 4001, marker(id), csumRight))
				f := eth(to, macB, typeIPv4, ip{src: t1, dst: dst}.udp(sourcePort, 6081, join(header, nested), csumRight))
				before, from := b.g.counters(), len(b.tap.kept(0, nil))
				b.put(join(header, f), outer{})
				b.tap.await(5*time.Second, 1, from, received(id))
				moved := b.g.moved(before, "rx.reinjected", "none")
				time.Sleep(100 * time.Millisecond)
				got := b.tap.kept(from, received(id))
				if len(got) != 1 || !bytes.Equal(got[0].data, f) {
					t.Errorf("%s: %d frames on the device, want only the outer one's: % x", id, len(got), datas(got))
				}
				if moved["rx.packets"] != 1 {
					t.Errorf("%s: counters moved by %v, want rx.packets by 1", id, moved)
				}
				// A socket of one address never sees what is for another.
				if v.words == nil || dst == dut || v.bridge == "start" {
					if moved["rx.reinjected"] != 1 {
						t.Errorf("%s: counters moved by %v, want rx.reinjected by 1: did the packet reach the socket?", id, moved)
					}
				}
				if m := b.g.behind(mac{2, 0, 0, 0, 0x0d, 1}); m != "" {
					t.Errorf("%s: the nested source was learned behind %q", id, m)
				}
			}
			b.good(outer{})
		})
	}
}
