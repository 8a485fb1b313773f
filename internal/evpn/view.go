package evpn

import (
	"net/netip"
	"time"

	"gvtep/internal/packet"
)

// RouteState is a received route and what became of it.
type RouteState struct {
	Route
	Dev     string // where it is installed
	Why     Reason // it is not
	Leaving time.Time
}

// Routes yields what was received, in no order, until yield fails.
func (t *Table) Routes(yield func(RouteState) bool) {
	for _, r := range t.routes {
		s := RouteState{Route: r.Route, Why: r.why, Leaving: r.leaving}
		if r.seg != nil {
			s.Dev = r.seg.Dev
		}
		if !yield(s) {
			return
		}
	}
}

// StationState is a station, here or elsewhere.
type StationState struct {
	VNI    uint32
	Dev    string
	MAC    packet.MAC
	Local  bool
	Port   int        // of a local one
	VTEP   netip.Addr // of another
	IPs    []netip.Addr
	Seq    uint32 // of who has it
	Remote uint32 // of the best of the others
	Frozen bool
}

// Stations yields the stations of all segments, in no order.
func (t *Table) Stations(yield func(StationState) bool) {
	for _, s := range t.segments {
		for mac, st := range s.stations {
			x, ok := stateOf(s, mac, st)
			if ok && !yield(x) {
				return
			}
		}
	}
}

func stateOf(s *segment, mac packet.MAC, st *station) (StationState, bool) {
	x := StationState{VNI: s.VNI, Dev: s.Dev, MAC: mac, Frozen: st.frozen}
	b := best(st.remote)
	if b != nil {
		x.VTEP, x.Seq, x.Remote = b.NextHop, b.Seq, b.Seq
		for _, r := range st.remote {
			if r.IP.IsValid() && r.NextHop == b.NextHop {
				x.IPs = append(x.IPs, r.IP)
			}
		}
	}
	if st.local != nil {
		x.Local, x.Port, x.VTEP, x.Seq, x.IPs = true, st.local.port, netip.Addr{}, st.local.seq, append([]netip.Addr(nil), st.ips...)
	}
	return x, b != nil || st.local != nil
}

// Locals yields the stations of ours in a segment.
func (t *Table) Locals(vni uint32, yield func(packet.MAC, int) bool) {
	s := t.segments[vni]
	if s == nil {
		return
	}
	for mac, st := range s.stations {
		if st.local != nil && !yield(mac, st.local.port) {
			return
		}
	}
}

// Has reports whether a station is one of ours in a segment.
func (t *Table) Has(vni uint32, mac packet.MAC) bool {
	s := t.segments[vni]
	return s != nil && s.stations[mac] != nil && s.stations[mac].local != nil
}

// SegmentState is a segment and how much is known of it.
type SegmentState struct {
	Segment
	RD                    RD
	Local, Remote, Frozen int // stations
	VTEPs                 int // that want what is flooded, or have networks
	Networks              int
}

// Segments yields all segments, in no order.
func (t *Table) Segments(yield func(SegmentState) bool) {
	for _, s := range t.segments {
		x := SegmentState{Segment: s.Segment, RD: RDOf(t.rules.RouterID, s.number), VTEPs: len(s.there), Networks: len(s.nets)}
		for _, st := range s.stations {
			if st.local != nil {
				x.Local++
			} else if len(st.remote) > 0 {
				x.Remote++
			}
			if st.frozen {
				x.Frozen++
			}
		}
		if !yield(x) {
			return
		}
	}
}

// Counts sums up the routes received by kind and by what became of them, Taken among it.
func (t *Table) Counts() (kinds map[Kind]int, why map[Reason]int, leaving int) {
	kinds, why = map[Kind]int{}, map[Reason]int{}
	for _, r := range t.routes {
		kinds[r.Kind]++
		why[r.why]++
	}
	return kinds, why, len(t.leaving)
}

// Moves is how often stations moved to us or from us.
func (t *Table) Moves() uint64 { return t.moves }
