package vtep

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// TestRefused: packets that are dropped leave evidence of who sent what, once for each kind, and the
// peers that sent them say so.
func TestRefused(t *testing.T) {
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	other := testTunnel("gnv1", "192.0.2.2")
	other.VNI, other.Device.LLAddr = testVNI+1, macB
	h.add(other)
	inner := frame(macB, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.77", 7, 9, "x"))
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, 9, 0}, inner...)
	send := func(from string, b []byte) { h.underlay.inject(addr(from), 6081, 0, 2, len(b), b) }
	for range 3 {
		send("192.0.2.2", datagram(0, 0, packet.EtherTypeEthernet, testVNI+7, nil, inner))
		send("192.0.2.66", good(inner))
		send("192.0.2.3", vxlan)
		send("192.0.2.2", datagram(0, 0, packet.EtherTypeIPv4, testVNI+1, nil, inner))
		h.step()
	}
	s := h.State()
	for _, want := range []struct {
		reason   count.Reason
		source   string
		vni      packet.VNI
		protocol uint16
	}{
		{count.DropUnknownVNI, "192.0.2.2", testVNI + 7, packet.EtherTypeEthernet},
		{count.DropUnknownPeer, "192.0.2.66", testVNI, packet.EtherTypeEthernet},
		{count.DropVXLAN, "192.0.2.3", 9, 0},
		{count.DropBadProtocol, "192.0.2.2", testVNI + 1, packet.EtherTypeIPv4},
	} {
		i := slices.IndexFunc(s.Refused, func(r Refused) bool {
			return r.Reason == want.reason && r.Source == addr(want.source) && r.VNI == want.vni && r.Protocol == want.protocol
		})
		if i < 0 {
			t.Errorf("%v: no evidence among %+v", want, s.Refused)
			continue
		}
		if r := s.Refused[i]; r.Count != 3 || r.Port != 6081 || r.First.Before(s.Started) || r.Last.Before(r.First) || len(r.Head) != min(count.HeadLen, 8+len(inner)) {
			t.Errorf("%+v", r)
		}
	}
	if len(s.Refused) != 4 {
		t.Errorf("%d kinds, want 4", len(s.Refused))
	}
	// What belongs to one tunnel is told there; what no tunnel has, at each peer that sent it.
	type told struct {
		contact Contact
		reasons []count.Reason
	}
	var got []told
	for _, tunnel := range s.Tunnels {
		for _, p := range tunnel.Peers {
			one := told{contact: p.Contact}
			for _, r := range p.Refused {
				one.reasons = append(one.reasons, r.Reason)
			}
			got = append(got, one)
		}
	}
	want := []told{
		{Rejects, []count.Reason{count.DropUnknownVNI}}, {Rejects, []count.Reason{count.DropVXLAN}},
		{Rejects, []count.Reason{count.DropUnknownVNI, count.DropBadProtocol}},
	}
	for i := range got {
		slices.Sort(got[i].reasons)
		slices.Sort(want[i].reasons)
		if got[i].contact != want[i].contact || !slices.Equal(got[i].reasons, want[i].reasons) {
			t.Errorf("peer %d: %s, %v; want %s, %v", i, got[i].contact, got[i].reasons, want[i].contact, want[i].reasons)
		}
	}
}

// TestContact: the word for a peer.
func TestContact(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	refused := func(r count.Reason, d time.Duration) []PeerRefused { return []PeerRefused{{Reason: r, Last: ago(d)}} }
	for _, tc := range []struct {
		name string
		p    PeerState
		want Contact
	}{
		{"never", PeerState{}, Silent},
		{"just now", PeerState{LastSeen: ago(time.Second)}, Heard},
		{"a minute ago", PeerState{LastSeen: ago(HeardFor)}, Silent},
		{"only dropped", PeerState{Refused: refused(count.DropUnknownVNI, time.Hour)}, Rejects},
		{"dropped for a while", PeerState{LastSeen: ago(20 * time.Second), Refused: refused(count.DropUnknownVNI, 0)}, Rejects},
		{"one stray packet", PeerState{LastSeen: ago(2 * time.Second), Refused: refused(count.DropUnknownVNI, 0)}, Heard},
		{"a frame that policy drops", PeerState{LastSeen: ago(20 * time.Second), Refused: refused(count.DropReservedAddress, 0)}, Heard},
		{"no route", PeerState{LastSeen: now, Error: "no route"}, NoRoute},
	} {
		if got := tc.p.contact(now); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestRefusedFlood: a million refused packets from 100,000 sources take no memory, and the packets
// of a peer among them arrive, each.
func TestRefusedFlood(t *testing.T) {
	const sources, packets, each = 100_000, 1_000_000, 1000
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	q := dev.queues[0]
	q.discard = true
	r := h.underlay.listeners[0].receivers[0]
	in := good(frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "in")))
	good := packet.Train{From: addr("192.0.2.2"), Ifindex: 2, Data: in, Size: len(in)}
	round := func(n int) {
		r.mu.Lock()
		for i := range each {
			of := (n*each + i) % sources
			source := netip.AddrFrom4([4]byte{10, byte(of >> 16), byte(of >> 8), byte(of)})
			r.queued = append(r.queued, packet.Train{From: source, Ifindex: 2, Data: in, Size: len(in)})
		}
		r.queued = append(r.queued, good)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
	}
	round(0)
	round(1) // the receiver's own lists have grown
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, n := heap(), 2
	if allocs := testing.AllocsPerRun(packets/each-4, func() { round(n); n++ }); allocs != 0 {
		t.Errorf("%v allocations for %d refused packets, want 0", allocs, each)
	}
	for ; n < packets/each; n++ {
		round(n)
	}
	if after := heap(); after > before+100<<10 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	s := h.State()
	if got := s.Drops.Rx[count.DropUnknownPeer]; got != packets {
		t.Errorf("%d dropped, want %d", got, packets)
	}
	if got := s.Tunnels[0].Stats.RxPackets; got != packets/each || q.written != packets/each {
		t.Errorf("of %d packets of the peer %d were taken and %d written", packets/each, got, q.written)
	}
	if len(s.Refused) != count.EvidenceSize {
		t.Errorf("%d kinds of packets are remembered, want %d", len(s.Refused), count.EvidenceSize)
	}
}

// TestSendErrorAndICMP: what the kernel and others say about what is sent shows at the peer that it
// is about, and keeps nothing from being sent.
func TestSendErrorAndICMP(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	l.underlay.failTo, l.underlay.fail = addr("192.0.2.3"), unix.EPERM
	l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, make([]byte, 100))})
	l.step()
	peers := l.State().Tunnels[0].Peers
	if e := peers[1].SendErr; e.Err != unix.EPERM || time.Since(e.At) > time.Minute {
		t.Errorf("%+v, want EPERM now", e)
	}
	if e := peers[0].SendErr; e.Err != 0 {
		t.Errorf("%+v at the other one", e)
	}
	l.run()
	said := netio.ICMP{Type: 3, Code: 3, From: addr("198.51.100.1"), To: netip.MustParseAddrPort("192.0.2.2:6081")}
	l.underlay.icmp <- said
	l.underlay.icmp <- netio.ICMP{Type: 3, Code: 1, From: addr("198.51.100.1"), To: netip.MustParseAddrPort("192.0.2.2:6082")}
	peers = l.State().Tunnels[0].Peers
	if m := peers[0].ICMP; m.ICMP != said || time.Since(m.At) > time.Minute {
		t.Errorf("%+v, want %+v", m, said)
	}
	if m := peers[1].ICMP; !m.At.IsZero() {
		t.Errorf("%+v at the other one", m)
	}
}

// TestICMPBounded: of more destinations than there is room for the latest are kept.
func TestICMPBounded(t *testing.T) {
	var h told
	for i := range 2 * maxICMP {
		h.put(netio.ICMP{To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6081)})
	}
	if len(h.last) != maxICMP {
		t.Errorf("%d, want %d", len(h.last), maxICMP)
	}
	if h.about(netip.MustParseAddrPort("10.0.7.255:6081")).At.IsZero() {
		t.Error("the last one is not kept")
	}
}
