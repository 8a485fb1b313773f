package vtep

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// TestTooBig: who sends what is too big for a path is told how long it may be, each time
// in its own segment, but not more often than tooBigRate allows.
func TestTooBig(t *testing.T) {
	const mtu = 1400 - 20 - 8 - 8 - 14 // of an IP packet inside, where the path carries 1400
	large := ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", mtu+1-28))
	super, hdr := tcpSuper(10, 1400)
	trunk := testTrunk("gnv0", "192.0.2.2")
	layer3 := testTunnel("gnv0", "192.0.2.2")
	layer3.Device.L3, layer3.Device.LLAddr = true, packet.MAC{}
	for _, tc := range []struct {
		name string
		cfg  Tunnel
		sent memFrame
		link []byte // of the answer; nil: there is none
	}{
		{"a frame", testTunnel("gnv0", "192.0.2.2"), memFrame{bytes: frame(macB, macA, 0x0800, large)}, frame(macA, macB, 0x0800, nil)},
		{"a super-frame", testTunnel("gnv0", "192.0.2.2"), memFrame{hdr: hdr, bytes: super}, frame(macA, macB, 0x0800, nil)},
		{"flooded to two", testTunnel("gnv0", "192.0.2.2", "192.0.2.3"), memFrame{bytes: frame(macB, macA, 0x0800, large)}, frame(macA, macB, 0x0800, nil)},
		{"with tags", testTunnel("gnv0", "192.0.2.2"), memFrame{bytes: withTag(frame(macB, macA, 0x0800, large), 0x8100, 7)}, withTag(frame(macA, macB, 0x0800, nil), 0x8100, 7)},
		{"in a VLAN of a trunk", trunk, memFrame{bytes: withTag(frame(macB, macA, 0x0800, large), 0x8100, 12)}, withTag(frame(macA, macB, 0x0800, nil), 0x8100, 12)},
		{"IP alone", layer3, memFrame{bytes: append(slices.Clone(large), make([]byte, 14)...)}, []byte{}},
		{"a broadcast", testTunnel("gnv0", "192.0.2.2"), memFrame{bytes: frame(broadcast, macA, 0x0800, large)}, nil},
		{"no IP", testTunnel("gnv0", "192.0.2.2"), memFrame{bytes: frame(macB, macA, 0x88b5, large)}, nil},
		{"what fits", testTunnel("gnv0", "192.0.2.2"), memFrame{bytes: frame(macB, macA, 0x0800, large[:mtu])}, nil},
	} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.underlay.mtu = 1400
		h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		dev := h.add(tc.cfg)
		h.step()
		if tc.name == "IP alone" { // its header has to say so, too
			binary.BigEndian.PutUint16(tc.sent.bytes[2:], uint16(len(tc.sent.bytes)))
		}
		dev.queues[0].feed(tc.sent)
		h.step()
		got := dev.queues[0].take()
		s := h.State().Tunnels[0]
		if tc.link == nil {
			if len(got) != 0 || s.TooBig != 0 {
				t.Errorf("%s: %d answers, %d counted, want none", tc.name, len(got), s.TooBig)
			}
			continue
		}
		if s.Drops.Tx[count.DropTooBig] == 0 || s.TooBig != 1 || len(got) != 1 {
			t.Errorf("%s: %d drops, %d answers, %d counted; want one answer", tc.name, s.Drops.Tx[count.DropTooBig], len(got), s.TooBig)
			continue
		}
		answer := got[0].bytes
		ip := len(tc.link)
		if !slices.Equal(answer[:ip], tc.link) {
			t.Errorf("%s: the answer begins with %x, want %x", tc.name, answer[:ip], tc.link)
		}
		want := mtu - max(0, ip-14) // a tag of the tenant's takes room
		switch tc.name {
		case "in a VLAN of a trunk": // the trunk's own does not: it is not sent
			want = mtu
		case "IP alone":
			want = mtu + 14
		}
		if told := int(binary.BigEndian.Uint16(answer[ip+26:])); answer[ip+20] != 3 || answer[ip+21] != 4 || told != want {
			t.Errorf("%s: ICMP type %d code %d, MTU %d; want 3, 4, %d", tc.name, answer[ip+20], answer[ip+21], told, want)
		}
	}

	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	l.tunnels["gnv0"].peers[0].Limit.Store(1000)
	for range 10 * tooBigRate {
		l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, large)})
	}
	l.step()
	// All at once, which may have taken it a moment.
	if n := l.State().Tunnels[0].TooBig; n < tooBigRate/10 || n > tooBigRate {
		t.Errorf("told %d times of %d, want %d and a few", n, 10*tooBigRate, tooBigRate/10)
	}
}

// TestBridgedMTU: the MTU of a device follows its path up and, unless it is the port of a
// bridge, which would drop in silence what is longer, down.
func TestBridgedMTU(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	for _, step := range []struct {
		bridged bool
		path    int
		want    int
	}{
		{false, 1400, 1350}, {false, 1500, 1450}, {true, 1400, 1450}, {true, 1600, 1550}, {true, 1500, 1550}, {false, 1500, 1450},
	} {
		l.dev.mu.Lock()
		l.dev.bridged = step.bridged
		l.dev.mu.Unlock()
		l.host.underlay.mu.Lock()
		l.host.underlay.mtu = step.path
		l.host.underlay.mu.Unlock()
		l.checkPaths(anyPeer)
		if got, _ := l.dev.MTU(); got != step.want {
			t.Errorf("path %d, bridged %v: MTU %d, want %d", step.path, step.bridged, got, step.want)
		}
		cfg := testTunnel("gnv0", "192.0.2.2")
		if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := l.dev.MTU(); got != step.want {
			t.Errorf("path %d, bridged %v: MTU %d after a change, want %d", step.path, step.bridged, got, step.want)
		}
	}
	// Who wants it to be automatic again gets that at once.
	l.dev.bridged = true
	cfg := testTunnel("gnv0", "192.0.2.2")
	for _, mtu := range []int{1500, 0} {
		cfg.Device.MTU = mtu
		if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := l.dev.MTU(); mtu != 0 && got != mtu || mtu == 0 && got != 1450 {
			t.Errorf("mtu %d: MTU %d", mtu, got)
		}
	}
}
