package vtep

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
)

// testTrunk is a trunk of the VLANs 10 to 19, without a segment of its own.
func testTrunk(name string, remotes ...string) Tunnel {
	cfg := testTunnel(name, remotes...)
	cfg.VNI, cfg.NoVNI = 0, true
	cfg.VLANs = []VLANRange{{First: 10, Last: 19, VNI: 5010}}
	return cfg
}

// withTag puts a tag into a frame.
func withTag(f []byte, tpid, tci uint16) []byte {
	t := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), tci)
	return slices.Concat(f[:12], t, f[12:])
}

// ofVNI is a datagram of a segment.
func ofVNI(vni uint32, inner []byte) []byte {
	return datagram(0, 0, packet.EtherTypeEthernet, vni, nil, inner)
}

// outVLAN feeds a frame in a VLAN and returns where it went, as peer and VNI.
func (l *lab) outVLAN(vid uint16, dst, src packet.MAC) (to []string) {
	l.t.Helper()
	plain := frame(dst, src, 0x88b5, make([]byte, 46))
	l.dev.queues[0].feed(memFrame{bytes: withTag(plain, 0x8100, vid)})
	l.step()
	for _, d := range l.underlay.sent {
		if !bytes.Equal(d.bytes[8:], plain) {
			l.t.Errorf("sent %x, want %x", d.bytes[8:], plain)
		}
		to = append(to, fmt.Sprintf("%s vni %d", d.to.Addr(), binary.BigEndian.Uint32(d.bytes[4:])>>8))
	}
	l.underlay.sent = nil
	return to
}

// inVNI sends a frame from a VTEP and returns the VLAN it was delivered in, -1
// if it was not.
func (l *lab) inVNI(from string, vni uint32, dst, src packet.MAC) int {
	l.t.Helper()
	plain := frame(dst, src, 0x88b5, make([]byte, 46))
	data := ofVNI(vni, plain)
	l.underlay.inject(addr(from), 6081, 0, 2, len(data), data)
	l.step()
	got := l.dev.queues[0].take()
	if len(got) == 0 {
		return -1
	}
	f := got[0].bytes
	if binary.BigEndian.Uint16(f[12:]) != 0x8100 {
		return 0
	}
	vid := binary.BigEndian.Uint16(f[14:])
	if !bytes.Equal(f, withTag(plain, 0x8100, vid)) || len(got) != 1 {
		l.t.Errorf("%d frames, the first %x; want one with %x", len(got), f, plain)
	}
	return int(vid)
}

// TestTrunkTables: each VLAN has its own table, limit and entries; peers and
// the flood list are one for all.
func TestTrunkTables(t *testing.T) {
	cfg := testTrunk("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.MaxAddress = 3
	cfg.Entries = []Entry{{MAC: macC, VLAN: 12, Remote: addr("192.0.2.3")}}
	l := newLab(t, cfg)
	both := func(vni int) []string {
		return []string{fmt.Sprint("192.0.2.2 vni ", vni), fmt.Sprint("192.0.2.3 vni ", vni)}
	}
	l.wantOut("flooded", l.outVLAN(10, broadcast, macA), both(5010)...)
	l.wantOut("flooded", l.outVLAN(19, macB, macA), both(5019)...)
	// The same address behind different peers.
	if vid := l.inVNI("192.0.2.2", 5010, broadcast, macB); vid != 10 {
		t.Errorf("VNI 5010 came out in VLAN %d, want 10", vid)
	}
	if vid := l.inVNI("192.0.2.3", 5011, broadcast, macB); vid != 11 {
		t.Errorf("VNI 5011 came out in VLAN %d, want 11", vid)
	}
	l.wantOut("VLAN 10", l.outVLAN(10, macB, macA), "192.0.2.2 vni 5010")
	l.wantOut("VLAN 11", l.outVLAN(11, macB, macA), "192.0.2.3 vni 5011")
	l.wantOut("VLAN 12", l.outVLAN(12, macB, macA), both(5012)...)
	l.wantOut("an entry of the configuration", l.outVLAN(12, macC, macA), "192.0.2.3 vni 5012")
	l.wantOut("not in another VLAN", l.outVLAN(13, macC, macA), both(5013)...)

	set := func(entry Entry, want error) {
		t.Helper()
		if err := l.SetEntry("gnv0", EntryAdd, entry); !errors.Is(err, want) {
			t.Errorf("add %+v: %v, want %v", entry, err, want)
		}
		l.step()
	}
	set(Entry{MAC: macC, Remote: addr("192.0.2.2")}, unix.EINVAL)
	set(Entry{MAC: macC, VLAN: 20, Remote: addr("192.0.2.2")}, unix.EINVAL)
	set(Entry{MAC: macC, VLAN: 12, Remote: addr("192.0.2.2")}, unix.EEXIST)
	set(Entry{MAC: macC, VLAN: 13, Remote: addr("192.0.2.2"), VNI: 77, HasVNI: true}, nil)
	set(Entry{MAC: mcast, VLAN: 14, Remote: addr("192.0.2.9")}, nil)
	set(Entry{VLAN: 14, Remote: addr("192.0.2.9")}, unix.EINVAL)
	l.wantOut("a VNI of its own", l.outVLAN(13, macC, macA), "192.0.2.2 vni 77")
	l.wantOut("a group", l.outVLAN(14, mcast, macA), "192.0.2.9 vni 5014")
	l.wantOut("the same elsewhere", l.outVLAN(15, mcast, macA), both(5015)...)
	if vid := l.inVNI("192.0.2.2", 77, broadcast, macB); vid != -1 {
		t.Errorf("a VNI that only an entry has was delivered in VLAN %d", vid)
	}
	found, err := l.Entry("gnv0", macC)
	if err != nil || len(found) != 2 || found[0].VLAN != 12 || found[0].ID != 5012 || found[0].OtherVNI || found[1].VLAN != 13 || found[1].VNI != 77 || !found[1].OtherVNI {
		t.Errorf("Entry(%s): %+v, %v; want it in the VLANs 12 and 13", macC, found, err)
	}
	n, err := l.FlushEntries("gnv0", func(e *FDBEntry) bool { return e.VLAN == 13 && e.State == fdb.Permanent })
	if n != 1 || err != nil {
		t.Errorf("flushed %d, %v; want one", n, err)
	}
	if err := l.DeleteEntry("gnv0", Entry{MAC: macC, VLAN: 13}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("deleted once more: %v", err)
	}
	l.wantOut("still in the other VLAN", l.outVLAN(12, macC, macA), "192.0.2.3 vni 5012")

	// One VLAN is full of addresses, and the others are not.
	for i := range 10 {
		l.inVNI("192.0.2.2", 5016, broadcast, packet.MAC{2, 0, 0, 0, 9, byte(i)})
	}
	l.inVNI("192.0.2.2", 5017, broadcast, packet.MAC{2, 0, 0, 0, 9, 9})
	states, err := l.VLANs("gnv0")
	if err != nil || len(states) != 10 || states[6].FDB.Learned != 3 || states[7].FDB.Learned != 1 || states[6].Stats.RxPackets != 10 || states[6].VNI != 5016 {
		t.Errorf("VLANs: %+v, %v; want VLAN 16 with 3 addresses and 10 packets, 17 with 1 address", states, err)
	}

	// VLANs come and go with what is in them; who stays keeps it.
	cfg.VLANs = []VLANRange{{First: 10, Last: 10, VNI: 5010}, {First: 11, Last: 11, VNI: 9011}, {First: 14, Last: 14, VNI: 5014}}
	cfg.Entries = nil
	if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	l.step()
	l.wantOut("stays", l.outVLAN(10, macB, macA), "192.0.2.2 vni 5010")
	l.wantOut("another segment", l.outVLAN(11, macB, macA), both(9011)...)
	l.wantOut("its entry stays", l.outVLAN(14, mcast, macA), "192.0.2.9 vni 5014")
	l.wantOut("gone", l.outVLAN(12, macC, macA))
	if vid := l.inVNI("192.0.2.2", 5012, broadcast, macB); vid != -1 {
		t.Errorf("a VNI that is gone was delivered in VLAN %d", vid)
	}
	s := l.State()
	if s.Tunnels[0].Drops.Tx[count.DropUnknownVLAN] != 1 || s.Drops.Rx[count.DropUnknownVNI] != 2 {
		t.Errorf("drops %v and %v, want one unknown_vlan and two unknown_vni", s.Tunnels[0].Drops.Tx[count.DropUnknownVLAN], s.Drops.Rx[count.DropUnknownVNI])
	}
}

// TestTrunkLongestHeaders: pieces with two tags of their own, behind that of the trunk,
// and the longest headers of IPv6 and TCP are joined like others.
func TestTrunkLongestHeaders(t *testing.T) {
	const pieces, size, off = 5, 100, 14 + 2*forward.TagLen + 40 + 60
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6
	dev := h.add(testTrunk("gnv0", "192.0.2.2"))
	h.step()
	var train []byte
	for i := range pieces {
		f := make([]byte, off+size)
		copy(f, withTag(withTag(frame(macA, macB, packet.EtherTypeIPv6, nil), 0x8100, 7), 0x88a8, 8))
		ip := f[14+2*forward.TagLen:]
		ip[0], ip[6], ip[7] = 0x60, packet.ProtoTCP, 64
		binary.BigEndian.PutUint16(ip[4:], 60+size)
		ip[23], ip[39] = 1, 2
		tcp := ip[40:]
		binary.BigEndian.PutUint32(tcp[4:], uint32(i*size))
		tcp[12], tcp[13] = 15<<4, 0x10
		for k := range tcp[60:] {
			tcp[60+k] = byte(i + k)
		}
		var head packet.Headers
		packet.Walk(f, false, &head)
		binary.BigEndian.PutUint16(tcp[16:], ^packet.Fold(packet.Sum(tcp, packet.PseudoSum(f, &head, len(tcp)))))
		train = append(train, ofVNI(5010, f)...)
	}
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(train)/pieces, train)
	h.step()
	got := dev.queues[0].take()
	if len(got) != 1 || len(got[0].bytes) != forward.TagLen+off+pieces*size || got[0].hdr.GSOSize != size {
		t.Fatalf("%d frames, want one of %d bytes joined", len(got), forward.TagLen+off+pieces*size)
	}
	if vid := binary.BigEndian.Uint16(got[0].bytes[14:]); vid != 10 {
		t.Errorf("in VLAN %d, want 10", vid)
	}
}

// TestTrunkSuper: super-frames lose and get their tag as a whole, and pieces
// of two segments are never joined.
func TestTrunkSuper(t *testing.T) {
	const pieces, size = 10, 1000
	super, hdr := tcpSuper(pieces, size)
	want := withTag(super, 0x8100, 11)
	tagged := hdr
	tagged.CsumStart += forward.TagLen
	for _, refused := range []bool{false, true} {
		wire := new(memWire)
		a, b := newHost(t, wire, 1, "192.0.2.1"), newHost(t, wire, 1, "192.0.2.2")
		a.underlay.keep = true
		a.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		b.devices.offload = a.devices.offload
		there := testTrunk("gnv0", "192.0.2.1")
		there.VLANs, there.Device.LLAddr = []VLANRange{{First: 11, Last: 12, VNI: 5010}}, macB
		da, db := a.add(testTrunk("gnv0", "192.0.2.2")), b.add(there)
		if refused {
			db.queues[0].refuse = unix.EINVAL
		}
		da.queues[0].feed(memFrame{bytes: withTag(super, 0x8100, 10), hdr: tagged})
		a.step()
		for _, d := range a.underlay.sent {
			if vni := binary.BigEndian.Uint32(d.bytes[4:]) >> 8; vni != 5010 {
				t.Errorf("a piece has VNI %d, want 5010", vni)
			}
		}
		if len(a.underlay.sent) != pieces {
			t.Errorf("%d pieces, want %d", len(a.underlay.sent), pieces)
		}
		b.step()
		got := db.queues[0].take()
		if refused {
			if len(got) != pieces {
				t.Errorf("refused: %d frames, want the %d pieces", len(got), pieces)
			}
			for _, f := range got {
				if binary.BigEndian.Uint32(f.bytes[12:]) != 0x8100<<16|11 {
					t.Errorf("refused: a piece has the tag %x", f.bytes[12:16])
				}
			}
			continue
		}
		if len(got) != 1 || got[0].hdr.CsumStart != hdr.CsumStart+forward.TagLen || got[0].hdr.GSOSize != size {
			t.Fatalf("%d frames, want one joined, its checksum behind the tag", len(got))
		}
		// The transport checksum is a partial one on both sides.
		if !bytes.Equal(got[0].bytes, want) {
			t.Errorf("joined\n%x\nwant\n%x", got[0].bytes[:60], want[:60])
		}
		var train []byte
		for i, d := range a.underlay.sent {
			if i >= pieces/2 {
				encap.PutVNI(d.bytes, 5011)
			}
			train = append(train, d.bytes...)
		}
		b.underlay.inject(addr("192.0.2.1"), 6081, 0, 2, len(train)/pieces, train)
		b.step()
		got = db.queues[0].take()
		if len(got) != 2 || binary.BigEndian.Uint16(got[0].bytes[14:]) != 11 || binary.BigEndian.Uint16(got[1].bytes[14:]) != 12 {
			t.Errorf("pieces of two segments came out as %d frames, want one in VLAN 11 and one in 12", len(got))
		}
	}
}

// TestTrunkLimits: bum_limit is one for each VLAN, and ARP is answered in the
// VLAN that asks.
func TestTrunkLimits(t *testing.T) {
	cfg := testTrunk("gnv0", "192.0.2.2")
	cfg.BUMLimit, cfg.NeighSuppress = 10, true
	l := newLab(t, cfg)
	sent := 0
	for range 100 {
		sent += len(l.outVLAN(10, broadcast, macA))
	}
	if sent == 100 || sent == 0 {
		t.Errorf("%d of 100 broadcasts in VLAN 10 were sent, want few", sent)
	}
	l.wantOut("VLAN 11 has a limit of its own", l.outVLAN(11, broadcast, macA), "192.0.2.2 vni 5011")

	arp := func(src packet.MAC, from, to string) []byte {
		b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
		b = append(append(b, src[:]...), addr(from).AsSlice()...)
		b = append(append(b, make([]byte, 6)...), addr(to).AsSlice()...)
		return frame(broadcast, src, 0x0806, append(b, make([]byte, 18)...))
	}
	hello := ofVNI(5012, arp(macB, "10.0.0.2", "10.0.0.9"))
	l.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(hello), hello)
	l.step()
	l.dev.queues[0].take()
	ask := func(vid uint16) []memFrame {
		l.dev.queues[0].feed(memFrame{bytes: withTag(arp(macA, "10.0.0.1", "10.0.0.2"), 0x8100, vid)})
		l.step()
		return l.dev.queues[0].take()
	}
	out := ask(12)
	if len(out) != 1 || binary.BigEndian.Uint32(out[0].bytes[12:]) != 0x8100<<16|12 || packet.MAC(out[0].bytes[0:6]) != macA ||
		binary.BigEndian.Uint16(out[0].bytes[16:]) != 0x0806 || packet.MAC(out[0].bytes[26:32]) != macB {
		t.Errorf("answers in VLAN 12: %v, want one, with its tag, from %s", out, macB)
	}
	if out := ask(13); len(out) != 0 || len(l.underlay.sent) != 1 {
		t.Errorf("VLAN 13: %d answers and %d sent, want the question flooded", len(out), len(l.underlay.sent))
	}
}

// TestTrunkConflicts: two tunnels have a VNI together only with different
// peers, whichever of them is the trunk and whoever comes first.
func TestTrunkConflicts(t *testing.T) {
	plain := testTunnel("gnv1", "192.0.2.2")
	plain.VNI = 5015
	other := testTrunk("gnv2", "192.0.2.2")
	other.VLANs = []VLANRange{{First: 1, Last: 1, VNI: 5019}}
	for _, second := range []Tunnel{plain, other} {
		for _, order := range [][2]Tunnel{{testTrunk("gnv0", "192.0.2.2"), second}, {second, testTrunk("gnv0", "192.0.2.2")}} {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			h.add(order[0])
			if err := h.Add(order[1]); !errors.Is(err, unix.EEXIST) {
				t.Errorf("%s beside %s: %v, want EEXIST", order[1].Device.Name, order[0].Device.Name, err)
			}
			apart := order[1]
			apart.Peers = []Peer{{Remote: addr("192.0.2.3")}}
			if err := h.Add(apart); err != nil {
				t.Errorf("%s with another peer: %v", apart.Device.Name, err)
			}
			// A change into a conflict leaves all as it was.
			apart.Peers = []Peer{{Remote: addr("192.0.2.3")}, {Remote: addr("192.0.2.2")}}
			if err := h.Apply(Change{Set: []Tunnel{apart}}); !errors.Is(err, unix.EEXIST) {
				t.Errorf("%s with the peer as well: %v, want EEXIST", apart.Device.Name, err)
			}
			if n := len(h.State().Tunnels[1].Peers); n != 1 {
				t.Errorf("%d peers after a change that failed, want 1", n)
			}
			if err := h.Remove(order[0].Device.Name); err != nil {
				t.Fatal(err)
			}
			if err := h.Apply(Change{Set: []Tunnel{apart}}); err != nil {
				t.Errorf("with nobody else there: %v", err)
			}
			if err := h.Remove(apart.Device.Name); err != nil || h.admit.Len()+h.sources.Len() != 0 {
				t.Errorf("removed: %v; %d admissions and %d sources are left", err, h.admit.Len(), h.sources.Len())
			}
		}
	}
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	for name, ranges := range map[string][]VLANRange{
		"VID twice": {{First: 1, Last: 5, VNI: 10}, {First: 5, Last: 5, VNI: 20}}, "VNI twice": {{First: 1, Last: 5, VNI: 10}, {First: 6, Last: 6, VNI: 14}}, "VID 0": {{First: 0, Last: 1, VNI: 10}}, "VID 4095": {{First: 4095, Last: 4095, VNI: 10}},
		"backwards": {{First: 5, Last: 4, VNI: 10}}, "VNI too large": {{First: 1, Last: 2, VNI: packet.MaxVNI}},
	} {
		cfg := testTrunk("gnv0", "192.0.2.2")
		cfg.VLANs = ranges
		if h.Add(cfg) == nil {
			t.Errorf("%s: accepted", name)
			h.Remove("gnv0")
		}
	}
	own := testTrunk("gnv0", "192.0.2.2")
	own.NoVNI, own.VNI = false, 5010
	entry := testTrunk("gnv0", "192.0.2.2")
	entry.Entries = []Entry{{MAC: macB, VLAN: 9, Remote: addr("192.0.2.2")}}
	l3 := testTrunk("gnv0", "192.0.2.2")
	l3.Device.L3, l3.Device.LLAddr = true, packet.MAC{}
	for _, cfg := range []Tunnel{own, entry, l3} {
		if h.Add(cfg) == nil {
			t.Errorf("%+v: accepted", cfg.VLANs)
			h.Remove("gnv0")
		}
	}
}

// TestTrunkAccept: who is let in may speak in all VLANs.
func TestTrunkAccept(t *testing.T) {
	cfg := testTrunk("gnv0")
	cfg.Local = addr("192.0.2.1")
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	dev := h.add(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for vni, vid := range map[uint32]uint16{5010: 10, 5019: 19} {
		hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
		data := ofVNI(vni, hello)
		h.underlay.inject(addr("192.0.2.77"), 6081, 0, 2, len(data), data)
		arrives(t, dev, withTag(hello, 0x8100, vid))
	}
	data := ofVNI(5020, frame(broadcast, macC, 0x0806, make([]byte, 46)))
	h.underlay.inject(addr("192.0.2.78"), 6081, 0, 2, len(data), data)
	for range 500 {
		if h.State().Drops.Rx[count.DropUnknownVNI] == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if s := h.State(); s.Drops.Rx[count.DropUnknownVNI] != 1 || len(s.Tunnels[0].Peers) != 1 {
		t.Errorf("unknown_vni %d, %d peers; want one each", s.Drops.Rx[count.DropUnknownVNI], len(s.Tunnels[0].Peers))
	}
}

// TestTrunkNoAllocations: a round of a trunk allocates nothing.
func TestTrunkNoAllocations(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	cfg := testTrunk("gnv0", "192.0.2.2")
	cfg.Peers[0].BUMLimit = 1e9
	dev := h.add(cfg)
	q := dev.queues[0]
	q.discard = true
	h.underlay.forget = true
	r := h.underlay.listeners[0].receivers[0]
	plain := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "out"))
	super, hdr := tcpSuper(10, 1000)
	hdr.CsumStart += forward.TagLen
	in := frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "in"))
	fresh := slices.Concat(ofVNI(5010, in), ofVNI(5011, in), ofVNI(5011, in))
	train := packet.Train{From: addr("192.0.2.2"), Ifindex: 2, Data: make([]byte, len(fresh)), Size: len(in) + 8}
	frames := []memFrame{{bytes: withTag(plain, 0x8100, 10)}, {bytes: withTag(super, 0x8100, 11), hdr: hdr}}
	rounds := 0
	allocs := testing.AllocsPerRun(1000, func() {
		copy(train.Data, fresh) // the tags are put into it
		q.feed(frames...)
		r.mu.Lock()
		r.queued = append(r.queued, train)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
		rounds++
	})
	if allocs != 0 {
		t.Errorf("%v allocations per round, want 0", allocs)
	}
	if want := rounds * 11; h.underlay.added != want {
		t.Errorf("%d datagrams sent in %d rounds, want %d", h.underlay.added, rounds, want)
	}
	states, err := h.VLANs("gnv0")
	if err != nil || states[0].Stats.RxPackets != uint64(rounds) || states[1].Stats.RxPackets != uint64(2*rounds) ||
		states[0].Stats.TxPackets != uint64(rounds) || states[1].Stats.TxPackets != uint64(10*rounds) {
		t.Errorf("after %d rounds %+v, %v", rounds, states[:2], err)
	}
}

// TestDeviceStates: what changes about a device is changed back if anything
// else cannot be.
func TestDeviceStates(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	one, two := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.3")
	d, refusing := h.add(one), h.add(two)
	state := func() string { return fmt.Sprint(d.up, d.alone, d.mtu) }
	one.Device.Down, one.Device.Isolated, one.Device.MTU = true, true, 1400
	two.Device.Down = true
	refusing.refuse = unix.EPERM
	if err := h.Apply(Change{Set: []Tunnel{one, two}}); !errors.Is(err, unix.EPERM) {
		t.Errorf("a device that cannot be taken down: %v, want EPERM", err)
	}
	if got := state(); got != "true false 1450" {
		t.Errorf("after a change that failed: up, isolated, MTU %s, want true false 1450", got)
	}
	refusing.refuse = nil
	if err := h.Apply(Change{Set: []Tunnel{one, two}}); err != nil || state() != "false true 1400" || refusing.up {
		t.Errorf("%v; up, isolated, MTU %s, the other's %v; want false true 1400, false", err, state(), refusing.up)
	}
	d.refuse = unix.EPERM
	one.Device.MTU, one.Device.Isolated = 1300, false
	if err := h.Apply(Change{Set: []Tunnel{one}}); !errors.Is(err, unix.EPERM) || state() != "false true 1400" {
		t.Errorf("%v; up, isolated, MTU %s; want EPERM and what was there before", err, state())
	}
}

// FuzzTag: whatever the device hands out, the tag that chose the segment goes
// and nothing else, and comes back as it was but for its priority.
func FuzzTag(f *testing.F) {
	plain := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "x"))
	for _, tci := range []uint16{0, 10, 19, 20, 4095, 0xb00a} {
		f.Add(withTag(plain, 0x8100, tci))
	}
	f.Add(withTag(withTag(plain, 0x8100, 5), 0x8100, 10))
	f.Add(withTag(plain, 0x88a8, 10))
	f.Add(plain)
	f.Add(plain[:13])
	f.Add(withTag(plain, 0x8100, 10)[:17])
	tr := new(forward.Trunk)
	for vid := range tr.ByVID {
		if vid >= 10 && vid < 20 {
			tr.ByVID[vid] = &forward.Segment{VID: uint16(vid)}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		hdr := packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, CsumStart: 38}
		seg, rest, reason := tr.Untag(&hdr, slices.Clone(data))
		if seg == nil {
			if reason != count.DropShortInner && reason != count.DropUntagged && reason != count.DropUnknownVLAN {
				t.Fatalf("%x: dropped as %s", data, reason)
			}
			return
		}
		if !bytes.Equal(rest, slices.Concat(data[:12], data[16:])) || hdr.CsumStart != 34 {
			t.Fatalf("%x became %x, checksum from %d", data, rest, hdr.CsumStart)
		}
		var before, after packet.Headers
		packet.Walk(rest, false, &before)
		again := forward.Tag(append(make([]byte, forward.TagLen), rest...), seg.VID)
		if !bytes.Equal(again, slices.Concat(data[:14], []byte{data[14] & 0x0f}, data[15:])) {
			t.Fatalf("%x came back as %x", data, again)
		}
		forward.Tagged(&before)
		packet.Walk(again, false, &after)
		// Walk looks behind two tags at most.
		if after.Tags == before.Tags && before != after {
			t.Fatalf("%x: headers %+v, want %+v", data, before, after)
		}
	})
}
