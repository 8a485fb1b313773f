package vtep

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
)

// readSend reads rules for what is sent.
func readSend(t testing.TB, texts ...string) (rules []option.SendRule) {
	t.Helper()
	for _, text := range texts {
		u, err := option.Default().ParseSendRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, u)
	}
	return rules
}

// TestSend: the first rule that a frame matches gives it options, DSCP and VNI; each piece of a
// super-frame has them; the MTU has room for the longest.
func TestSend(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	h.underlay.keep = true
	cfg := testTunnel("gnv0", "192.0.2.2")
	sent, err := option.Default().Parse("ff01:01:00000001")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Options = sent
	cfg.SendRules = readSend(t,
		"proto udp dport 53 then options ff01:02:00000002,ff01:82:@dscp dscp 46",
		"proto tcp then options ff01:03:@src",
		"dport 54 then options none",
		"dport 55 then vni 7 dscp 1",
		"dport 56 then options ff01:04: vni 8")
	dev := h.add(cfg)
	if dev.State().MTU != 1500-50-16 {
		t.Errorf("MTU %d, want %d: the longest options are 16 bytes", dev.State().MTU, 1500-50-16)
	}
	udp := func(port uint16) []byte {
		return frame(macB, macA, 0x0800, ipv4(0x2b, "10.99.0.1", "10.99.0.2", 1, port, "out"))
	}
	arp := frame(macB, macA, 0x0806, make([]byte, 28))
	for _, c := range []struct {
		bytes []byte
		head  string
		tos   uint8
	}{
		{udp(53), "04406558" + "12345600" + "ff010201" + "00000002" + "ff018201" + "0000000a", 46<<2 | 3},
		{udp(54), "00006558" + "12345600", 3},
		{udp(55), "02006558" + "00000700" + "ff010101" + "00000001", 1<<2 | 3},
		{udp(56), "01006558" + "00000800" + "ff010400", 3},
		{udp(57), "02006558" + "12345600" + "ff010101" + "00000001", 3},
		{arp, "02006558" + "12345600" + "ff010101" + "00000001", 0},
	} {
		dev.queues[0].feed(memFrame{bytes: c.bytes})
		h.step()
		if len(h.underlay.sent) != 1 {
			t.Fatalf("%d datagrams, want 1", len(h.underlay.sent))
		}
		d := h.underlay.sent[0]
		h.underlay.sent = nil
		if got := hex.EncodeToString(d.bytes[:len(d.bytes)-len(c.bytes)]); got != c.head || d.tos != c.tos || string(d.bytes[len(d.bytes)-len(c.bytes):]) != string(c.bytes) {
			t.Errorf("header %s, TOS %#x; want %s, %#x, and the frame", got, d.tos, c.head, c.tos)
		}
	}
	super, hdr := tcpSuper(10, 1000)
	dev.queues[0].feed(memFrame{bytes: super, hdr: hdr})
	h.step()
	mac := hex.EncodeToString(super[6:12])
	for _, d := range h.underlay.sent {
		if got, want := hex.EncodeToString(d.bytes[:20]), "03006558"+"12345600"+"ff010302"+mac+"0000"; got != want {
			t.Errorf("a piece begins with %s, want %s", got, want)
		}
	}
	if len(h.underlay.sent) != 10 {
		t.Errorf("%d pieces, want 10", len(h.underlay.sent))
	}
	if hits := h.State().Tunnels[0].SendHits; !slices.Equal(hits, []uint64{1, 10, 1, 1, 1}) {
		t.Errorf("rules were for %v packets, want 1, 10, 1, 1 and 1", hits)
	}
	h.underlay.sent = nil

	// Without the longest rule there is more room; what was counted of others begins anew.
	cfg.SendRules = readSend(t, "any then options none")
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	h.step()
	if dev.State().MTU != 1500-50-8 {
		t.Errorf("MTU %d, want %d: those of the tunnel count", dev.State().MTU, 1500-50-8)
	}
	dev.queues[0].feed(memFrame{bytes: arp})
	h.step()
	if d := h.underlay.sent; len(d) != 1 || d[0].bytes[0] != 0 {
		t.Errorf("%d datagrams, want one without options", len(d))
	}
}

// TestSendVLANs: on a trunk a header of a rule gets the VNI of the frame's segment.
func TestSendVLANs(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	cfg := testTrunk("gnv0", "192.0.2.2")
	cfg.SendRules = readSend(t, "vlan 10 then options ff01:01:@vlan", "vlan 11 then options ff01:02: vni 9")
	dev := h.add(cfg)
	plain := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "out"))
	for vid, want := range map[uint16]string{10: "0200655800139200ff0101010000000a", 11: "0100655800000900ff010200"} {
		dev.queues[0].feed(memFrame{bytes: withTag(plain, 0x8100, vid)})
		h.step()
		if len(h.underlay.sent) != 1 || !strings.HasPrefix(hex.EncodeToString(h.underlay.sent[0].bytes), want) {
			t.Errorf("VLAN %d: sent %v, want one that begins with %s", vid, h.underlay.sent, want)
		}
		h.underlay.sent = nil
	}
}

// TestOwnOptions: without any rule, an own option of another length is malformed, and a critical
// one that is known is let in; both by what the registry says now.
func TestOwnOptions(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	inner := frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "in"))
	fixed := datagram(2, 0, 0x6558, testVNI, []byte{0xff, 1, 1, 1, 0, 0, 0, 7}, inner)
	long := datagram(3, 0, 0x6558, testVNI, []byte{0xff, 1, 1, 2, 0, 0, 0, 7, 0, 0, 0, 0}, inner)
	critical := datagram(1, 0x40, 0x6558, testVNI, []byte{0xff, 1, 0x81, 0}, inner)
	none := count.NumReasons
	check := func(what string, want ...count.Reason) {
		t.Helper()
		for i, d := range [][]byte{fixed, long, critical} {
			before := h.State().Tunnels[0].Drops.Rx
			h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), slices.Clone(d))
			h.step()
			got := none
			for r, n := range h.State().Tunnels[0].Drops.Rx {
				if n != before[r] {
					got = count.Reason(r)
				}
			}
			if n := len(dev.queues[0].take()); got != want[i] || (n == 1) != (want[i] == none) {
				t.Errorf("%s: datagram %d is dropped as %v and delivered %d times, want %v", what, i, got, n, want[i])
			}
		}
	}
	check("nothing is known", none, none, count.DropCriticalOption)
	names, err := option.NewRegistry([]option.Kind{
		{ID: option.ID{Class: 0xff01, Type: 1}, Name: "my.pod", Len: 4, Format: option.Uint},
		{ID: option.ID{Class: 0xff01, Type: 0x81}, Name: "my.secret", Len: option.Variable, Format: option.Hex, Known: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetNames(names); err != nil {
		t.Fatal(err)
	}
	check("own options", none, count.DropBadOptions, none)
}

// TestSendCaptured: a capture finds the frame in each piece behind the options of a rule.
func TestSendCaptured(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.SendRules = readSend(t, "proto tcp then options ff01:03:@src", "proto udp then options ff01:04:")
	dev := h.add(cfg)
	super, hdr := tcpSuper(10, 1000)
	got, _ := h.captured(t, capture.Options{Points: capture.Of(capture.OuterOut), Filter: parsed(t, []string{"host", "10.99.0.2"})}, func() {
		dev.queues[0].feed(memFrame{bytes: super, hdr: hdr}, memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "out"))})
		h.step()
	})
	if len(got) != 11 {
		t.Errorf("%d datagrams to the inner host were captured, want 10 pieces and one: %q", len(got), got)
	}
}

// TestSendRoutes: on a mode l3 tunnel a rule about a prefix is for the network behind a peer, of either
// IP version; limits have room for it.
func TestSendRoutes(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	cfg := l3Tunnel([]string{"10.0.0.0/8", "fd00::/16"}, []string{"10.1.0.0/16", "fd00:1::/32"})
	cfg.SendRules = readSend(t, "dst 10.1.7.0/24 then options ff01:01:@dscp", "dst fd00:1:7::/48 then options ff01:02:0000000000000002", "dst 10.1.0.0/16 then options ff01:03:")
	dev := h.add(cfg)
	if got := dev.State().MTU; got != 1500-36-12 {
		t.Errorf("MTU %d, want %d", got, 1500-36-12)
	}
	for _, c := range []struct{ src, dst, to, head string }{
		{"10.9.0.1", "10.1.7.2", "192.0.2.3", "0200080012345600" + "ff010101" + "00000000"},
		{"fd00:9::1", "fd00:1:7::2", "192.0.2.3", "030086dd12345600" + "ff010202" + "0000000000000002"},
		{"10.9.0.1", "10.1.8.2", "192.0.2.3", "0100080012345600" + "ff010300"},
		{"10.9.0.1", "10.2.0.2", "192.0.2.2", "0000080012345600"},
	} {
		dev.queues[0].feed(memFrame{bytes: innerIP(addr(c.src), addr(c.dst))})
		h.step()
		if len(h.underlay.sent) != 1 {
			t.Fatalf("to %s: %d datagrams, want 1", c.dst, len(h.underlay.sent))
		}
		d := h.underlay.sent[0]
		h.underlay.sent = nil
		if got := hex.EncodeToString(d.bytes[:8+4*int(d.bytes[0]&0x3f)]); got != c.head || d.to.Addr() != addr(c.to) {
			t.Errorf("to %s: header %s to %s, want %s to %s", c.dst, got, d.to, c.head, c.to)
		}
	}
}
