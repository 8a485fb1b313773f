package count

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"gvtep/internal/packet"
)

func sight(r Reason, n uint32) Sight {
	return Sight{Reason: r, Source: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), VNI: 7, Protocol: 0x6558}
}

func (e *Evidence) all() []Refused {
	m := map[Sight]*Refused{}
	e.AddTo(m)
	return SortedRefused(m)
}

// TestEvidence: what looked alike is one entry, with what the first packet was.
func TestEvidence(t *testing.T) {
	var e, other Evidence
	s6 := Sight{Reason: DropUnknownPeer, Source: netip.MustParseAddr("fd00::2"), VNI: packet.MaxVNI, Protocol: 0x86dd}
	e.Add(sight(DropUnknownVNI, 1), 1, 6081, 10, []byte("first"))
	e.Add(s6, 1, 6082, 15, nil)
	e.Add(sight(DropUnknownVNI, 1), 3, 6081, 20, nil)
	other.Add(sight(DropUnknownVNI, 1), 1, 7081, 30, []byte("last"))
	m := map[Sight]*Refused{}
	e.AddTo(m)
	other.AddTo(m)
	got := SortedRefused(m)
	if len(got) != 2 {
		t.Fatalf("%d entries, want 2: %+v", len(got), got)
	}
	a, b := got[0], got[1]
	if a.Sight != sight(DropUnknownVNI, 1) || a.First != 10 || a.Last != 30 || a.Count != 5 || a.Port != 6081 || string(a.Head) != "first" {
		t.Errorf("%+v", a)
	}
	if b.Sight != s6 || b.First != 15 || b.Last != 15 || b.Count != 1 || b.Port != 6082 || len(b.Head) != 0 {
		t.Errorf("%+v", b)
	}
	other = Evidence{}
	other.Add(s6, 1, 6081, 1, make([]byte, 2*HeadLen))
	if got := other.all()[0]; len(got.Head) != HeadLen {
		t.Errorf("%d bytes of a long packet, want %d", len(got.Head), HeadLen)
	}
}

// TestEvidenceEviction: what came often outlasts a flood of what came once, the last of which
// are there; what has not come for ten minutes makes room first.
func TestEvidenceEviction(t *testing.T) {
	var e Evidence
	now := int64(1)
	e.Add(sight(DropBadProtocol, 0), 2, 0, now, nil)
	for i := range uint32(100_000) {
		now += evictPause
		e.Add(sight(DropUnknownPeer, 1+i), 1, 0, now, nil)
	}
	got := e.all()
	if len(got) != EvidenceSize || got[0].Reason != DropBadProtocol || got[1].Sight != sight(DropUnknownPeer, 100_000) {
		t.Errorf("%d entries, the first %+v and %+v; want %d, what came twice and what came last", len(got), got[0], got[1], EvidenceSize)
	}
	now += forgotten + 1
	for i := range uint32(EvidenceSize) {
		now += evictPause
		e.Add(sight(DropECN, i), 1, 0, now, nil)
	}
	for _, r := range e.all() {
		if r.Reason != DropECN {
			t.Errorf("after ten minutes still %+v", r)
		}
	}
}

// TestEvidenceNoAllocations: neither a known nor a new kind takes memory.
func TestEvidenceNoAllocations(t *testing.T) {
	var e Evidence
	packet, n := make([]byte, 100), uint32(0)
	if allocs := testing.AllocsPerRun(1000, func() {
		n++
		e.Add(sight(DropUnknownPeer, n), 1, 6081, int64(n), packet)
		e.Add(sight(DropUnknownVNI, 0), 1, 6081, int64(n), packet)
	}); allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

// TestEvidenceWhole: a reader sees entries as they were written, never half of one and half of
// another, while the writer goes on.
func TestEvidenceWhole(t *testing.T) {
	var e Evidence
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := uint32(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			s := sight(Reason(n%uint32(NumReasons)), n)
			s.VNI, s.Protocol = packet.VNI(n&0xffffff), uint16(n)
			e.Add(s, uint64(n), uint16(n), int64(n)*evictPause, bytes.Repeat(binary.BigEndian.AppendUint32(nil, n), HeadLen/4))
		}
	})
	seen := 0
	for seen < 20_000 {
		for _, r := range e.all() {
			n := uint32(r.First / evictPause)
			want := sight(Reason(n%uint32(NumReasons)), n)
			want.VNI, want.Protocol = packet.VNI(n&0xffffff), uint16(n)
			if r.Sight != want || r.Last != r.First || r.Count != uint64(n) || r.Port != uint16(n) ||
				!bytes.Equal(r.Head, bytes.Repeat(binary.BigEndian.AppendUint32(nil, n), HeadLen/4)) {
				close(stop)
				t.Fatalf("an entry of several packets: %+v", r)
			}
			seen++
		}
	}
	close(stop)
	writer.Wait()
}

func BenchmarkEvidence(b *testing.B) {
	packet := make([]byte, 100)
	for _, c := range []struct {
		name    string
		sources uint32
	}{{"one", 1}, {"ten", 10}, {"many", 100_000}} {
		b.Run(c.name, func(b *testing.B) {
			var e Evidence
			b.ReportAllocs()
			for n := range uint32(b.N) {
				e.Add(sight(DropUnknownPeer, n%c.sources), 1, 6081, int64(n)*200, packet)
			}
		})
	}
}
