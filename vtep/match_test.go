package vtep

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
)

// readMatch reads rules for what arrives.
func readMatch(t *testing.T, texts ...string) (rules []option.Rule) {
	t.Helper()
	for _, text := range texts {
		u, err := option.Default().ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, u)
	}
	return rules
}

// withOption is a datagram of a VNI with one option of class ff01, type 1.
func withOption(t *testing.T, vni uint32, data string, inner []byte) []byte {
	t.Helper()
	b, err := hex.DecodeString("ff010101" + data)
	if err != nil {
		t.Fatal(err)
	}
	return datagram(2, 0, packet.EtherTypeEthernet, vni, b, inner)
}

const otherVNI = testVNI + 1

// TestMatchVNI: a rule takes a packet to the segment of another VNI, which learns from it, if its
// sender is a peer there.
func TestMatchVNI(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2", "192.0.2.3"), testTunnel("gnv1", "192.0.2.2")
	second.VNI = otherVNI
	first.OptionRules = readMatch(t, "count any", "vni 1193047 ff01:01:00000001", "vni 99 ff01:01:00000002")
	second.OptionRules = readMatch(t, "drop any") // of its own packets, not of those that are moved
	if first.OptionRules[1].To != otherVNI {
		t.Fatalf("the rule is for VNI %d, want %d", first.OptionRules[1].To, otherVNI)
	}
	devices := []*memDevice{h.add(first), h.add(second)}
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	for _, c := range []struct {
		from   string
		vni    uint32
		option string
		device int // -1: none
		reason count.Reason
	}{
		{"192.0.2.2", testVNI, "00000001", 1, 0},
		{"192.0.2.2", testVNI, "00000003", 0, 0},
		{"192.0.2.2", testVNI, "00000002", -1, count.DropUnknownVNI},
		{"192.0.2.3", testVNI, "00000001", -1, count.DropUnknownPeer},
		{"192.0.2.2", otherVNI, "00000001", -1, count.DropOptionRule},
	} {
		before := h.State().Dropped.Rx
		d := withOption(t, c.vni, c.option, plain)
		h.underlay.inject(addr(c.from), 6081, 0, 2, len(d), d)
		h.step()
		for i, dev := range devices {
			got := dev.queues[0].take()
			if n := len(got); (n == 1) != (i == c.device) || n == 1 && !bytes.Equal(got[0].bytes, plain) {
				t.Errorf("%+v: %s got %v", c, dev.Name(), got)
			}
		}
		if got := h.State().Dropped.Rx; c.device < 0 && got[c.reason] != before[c.reason]+1 || c.device >= 0 && got != before {
			t.Errorf("%+v: drops %v, want %v", c, got, c.reason)
		}
	}
	s := h.State().Tunnels
	if !slices.Equal(s[0].OptionHits, []uint64{4, 2, 1}) || !slices.Equal(s[1].OptionHits, []uint64{1}) {
		t.Errorf("rules matched %v and %v packets, want 4, 2, 1 and 1", s[0].OptionHits, s[1].OptionHits)
	}
	if s[0].Drops.Rx[count.DropUnknownVNI] != 1 || s[0].Drops.Rx[count.DropUnknownPeer] != 1 || s[0].Stats.RxPackets != 1 || s[1].Stats.RxPackets != 1 {
		t.Errorf("drops and packets are not those of the tunnels: %+v, %+v", s[0].Stats, s[1].Stats)
	}
	// In either what was delivered there is learned: macB is behind the peer, once each.
	for _, name := range []string{"gnv0", "gnv1"} {
		if all, err := h.Entry(name, macB); err != nil || len(all) != 1 || all[0].Remote.Addr() != addr("192.0.2.2") {
			t.Errorf("%s: entries %v, error %v", name, all, err)
		}
	}
}

// TestMatchTrain: in one train each datagram goes where its own options say, and each is counted.
func TestMatchTrain(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.2")
	second.VNI = otherVNI
	first.OptionRules = readMatch(t, "vlan 7 ff01:01:00000002", "vni 1193047 ff01:01")
	devices := []*memDevice{h.add(first), h.add(second)}
	short, long := frame(macA, macB, 0x88b5, make([]byte, 46)), frame(macA, macB, 0x88b5, make([]byte, 54))
	train := slices.Concat(withOption(t, testVNI, "00000001", short), good(long), withOption(t, testVNI, "00000002", short),
		withOption(t, testVNI, "00000001", short), ofVNI(otherVNI, long), good(long))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(good(long)), train)
	h.step()
	for i, want := range [][][]byte{{long, withTag(short, 0x8100, 7), long}, {short, short, long}} {
		got := devices[i].queues[0].take()
		if !slices.EqualFunc(got, want, func(f memFrame, w []byte) bool { return bytes.Equal(f.bytes, w) }) {
			t.Errorf("%s got %x, want %x", devices[i].Name(), got, want)
		}
	}
	s := h.State().Tunnels
	if !slices.Equal(s[0].OptionHits, []uint64{1, 2}) || s[0].Stats.RxPackets != 3 || s[1].Stats.RxPackets != 3 {
		t.Errorf("rules matched %v packets, %d and %d received; want 1 and 2, 3 and 3", s[0].OptionHits, s[0].Stats.RxPackets, s[1].Stats.RxPackets)
	}
}

// TestMatchEvery: a rule about any packet is asked for each piece of a flow, though they are joined.
func TestMatchEvery(t *testing.T) {
	for _, c := range []struct {
		rule   string
		device int
		tag    bool
	}{{"vni 1193047 any", 1, false}, {"vlan 7 any", 0, true}, {"accept any", 0, false}} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.2")
		second.VNI = otherVNI
		first.Device.LLAddr, second.Device.LLAddr = macB, macB
		first.OptionRules = readMatch(t, c.rule)
		devices := []*memDevice{h.add(first), h.add(second)}
		// The pieces, as another of us sends them.
		wire := new(memWire)
		from := newHost(t, wire, 1, "192.0.2.2")
		from.devices.offload, from.underlay.keep = h.devices.offload, true
		dev := from.add(testTunnel("gnv0", "192.0.2.1"))
		super, hdr := tcpSuper(10, 1000)
		dev.queues[0].feed(memFrame{bytes: slices.Clone(super), hdr: hdr})
		from.step()
		var train []byte
		for _, d := range from.underlay.sent {
			train = append(train, d.bytes...)
		}
		h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(from.underlay.sent[0].bytes), train)
		h.step()
		got := devices[c.device].queues[0].take()
		want := len(super)
		if c.tag {
			want += 4
		}
		if len(got) != 1 || len(got[0].bytes) != want || c.tag != (string(got[0].bytes[12:16]) == "\x81\x00\x00\x07") {
			t.Errorf("%s: %d frames on %s, want one of %d bytes", c.rule, len(got), devices[c.device].Name(), want)
		}
		if hits := h.State().Tunnels[0].OptionHits; !slices.Equal(hits, []uint64{10}) {
			t.Errorf("%s: matched %v packets, want 10", c.rule, hits)
		}
	}
}

// TestMatchVLANs: on a trunk a rule chooses the VLAN by its VNI.
func TestMatchVLANs(t *testing.T) {
	cfg := testTrunk("gnv0", "192.0.2.2")
	cfg.OptionRules = readMatch(t, "vni 5012 ff01:01:00000001")
	l := newLab(t, cfg)
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	for data, vid := range map[string]uint16{"00000001": 12, "00000002": 10} {
		d := withOption(t, 5010, data, plain)
		l.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), d)
		l.step()
		if got := l.dev.queues[0].take(); len(got) != 1 || !bytes.Equal(got[0].bytes, withTag(plain, 0x8100, vid)) {
			t.Errorf("option %s: got %x, want the frame in VLAN %d", data, got, vid)
		}
	}
	l.wantOut("learned in the VLAN of the rule", l.outVLAN(12, macB, macA), "192.0.2.2 vni 5012")
}

// TestMatchAccept: who may speak to the other tunnel by its accept becomes a peer there by a packet
// that a rule takes to it, and the packet is delivered.
func TestMatchAccept(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1")
	second.VNI, second.Accept = otherVNI, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	first.OptionRules = readMatch(t, "vni 1193047 ff01:01")
	h.add(first)
	dev := h.add(second)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	d := withOption(t, testVNI, "00000001", plain)
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), d)
	arrives(t, dev, plain)
	if peers := h.State().Tunnels[1].Peers; len(peers) != 1 || !peers[0].Dynamic {
		t.Errorf("peers %+v, want the new one", peers)
	}
}
