package view

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/cmd/internal/control"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/count"
)

// TestDropped: what is remembered of packets is told with it, the rest by tunnel, and nothing twice.
func TestDropped(t *testing.T) {
	source := netip.MustParseAddr("192.0.2.3")
	refused := func(reason count.Reason, vni, n uint64) vtep.Refused {
		return vtep.Refused{Reason: reason, Source: source, VNI: packet.VNI(vni), Protocol: 0x6558, Port: 6081, Count: n}
	}
	state := func(refused []vtep.Refused, none, gnv0 map[count.Reason]uint64, out uint64) *vtep.State {
		s := &vtep.State{Refused: refused, Tunnels: []vtep.TunnelState{{}}}
		s.Tunnels[0].Config.Device.Name = "gnv0"
		for r, n := range none {
			s.Drops.Rx[r] = n
		}
		for r, n := range gnv0 {
			s.Tunnels[0].Drops.Rx[r] = n
		}
		s.Tunnels[0].Drops.Tx[count.DropTooBig] = out
		return s
	}
	type counts = map[count.Reason]uint64
	at := time.Unix(1, 0)
	in := func(reason, dev string, n uint64) control.Event {
		return control.Event{Time: at, Object: "drop", Action: "in", Ifname: dev, Reason: reason, Packets: n}
	}
	of := func(reason string, id uint32, n uint64) control.Event {
		e := in(reason, "", n)
		e.Source, e.ID, e.Payload, e.Port = source, &id, "ethernet", 6081
		return e
	}
	before := state([]vtep.Refused{refused(count.DropUnknownVNI, 7, 10)}, counts{count.DropUnknownVNI: 10}, nil, 3)
	for name, c := range map[string]struct {
		now  *vtep.State
		want []control.Event
	}{
		"nothing new": {before, nil},
		"remembered": {
			state([]vtep.Refused{refused(count.DropUnknownVNI, 7, 15), refused(count.DropECN, 8, 2)}, counts{count.DropUnknownVNI: 15}, counts{count.DropECN: 2}, 3),
			[]control.Event{of("unknown_vni", 7, 5), of("ecn", 8, 2)},
		},
		"partly remembered": {
			state([]vtep.Refused{refused(count.DropUnknownVNI, 7, 11)}, counts{count.DropUnknownVNI: 20}, nil, 3),
			[]control.Event{in("unknown_vni", "", 9), of("unknown_vni", 7, 1)},
		},
		"forgotten and remembered anew": {
			state([]vtep.Refused{refused(count.DropUnknownVNI, 7, 4)}, counts{count.DropUnknownVNI: 14}, nil, 3),
			[]control.Event{of("unknown_vni", 7, 4)},
		},
		"out": {
			state(before.Refused, counts{count.DropUnknownVNI: 10}, nil, 8),
			[]control.Event{{Time: at, Object: "drop", Action: "out", Ifname: "gnv0", Reason: "too_big", Packets: 5}},
		},
	} {
		if d := cmp.Diff(c.want, Dropped(before, c.now, at), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); d != "" {
			t.Errorf("%s, -want +got:\n%s", name, d)
		}
	}
}
