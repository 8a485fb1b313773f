package daemon

import (
	"encoding/json"
	"io"
	"iter"
	"net/netip"
	"time"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep"
)

// memory1 is a memory file of version 1, as builds before version 2 wrote it: one value, which can
// only be read as a whole. It is read for an upgrade to lose nothing, once.
type memory1 struct {
	Memory struct{ Tunnels []tunnel1 }
}

type tunnel1 struct {
	vtep.TunnelMemory // but for Destinations
	Table             []learned1
}

type learned1 struct {
	VLAN    uint16
	Segment packet.VNI
	MAC     packet.MAC
	Local   bool
	Remote  netip.AddrPort
	VNI     packet.VNI
	HasVNI  bool
	Via     string
	NoPeer  bool
	State   fdb.State
	Flags   fdb.Flags
	Moves   uint16
	Updated time.Duration
	Used    time.Duration
}

func readMemory1(r io.Reader) (*memory1, error) {
	m := new(memory1)
	return m, json.NewDecoder(r).Decode(m)
}

func (m *memory1) all() vtep.Memory {
	return func(yield func(*vtep.TunnelMemory, iter.Seq[vtep.Learned]) bool) {
		for i := range m.Memory.Tunnels {
			t := &m.Memory.Tunnels[i]
			tm, at := t.TunnelMemory, make(map[vtep.DestinationMemory]int)
			for i := range t.Table {
				d := t.Table[i].destination()
				if _, known := at[d]; !known && !t.Table[i].Local {
					at[d] = len(tm.Destinations)
					tm.Destinations = append(tm.Destinations, d)
				}
			}
			if !yield(&tm, t.learned(at)) {
				return
			}
		}
	}
}

func (l *learned1) destination() vtep.DestinationMemory {
	return vtep.DestinationMemory{Remote: l.Remote, VNI: l.VNI, HasVNI: l.HasVNI, Via: l.Via, NoPeer: l.NoPeer}
}

func (t *tunnel1) learned(at map[vtep.DestinationMemory]int) iter.Seq[vtep.Learned] {
	return func(yield func(vtep.Learned) bool) {
		for i := range t.Table {
			l := &t.Table[i]
			to := vtep.LocalDestination
			if !l.Local {
				to = at[l.destination()]
			}
			entry := vtep.Learned{VLAN: l.VLAN, Segment: l.Segment, MAC: l.MAC, To: to, Flags: l.Flags, Moves: l.Moves, Updated: l.Updated, Used: l.Used}
			if l.State == fdb.Dynamic && !yield(entry) {
				return
			}
		}
	}
}
