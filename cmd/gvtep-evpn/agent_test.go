package main

import (
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"gvtep/internal/evpn"
	"gvtep/internal/evpn/speaker"
)

// TestCompleted: when what nobody named is taken away. With route target constraint the routes that are asked for come
// behind the End-of-RIB.
func TestCompleted(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, x := range []struct {
		name       string
		constraint bool
		ribs       []netip.Addr
		up         []netip.Addr
		after      time.Duration // the first End-of-RIB
		want       bool
	}{
		{"nobody", false, nil, nil, 0, false},
		{"one of two", false, []netip.Addr{one}, []netip.Addr{one}, time.Second, false},
		{"both", false, []netip.Addr{one, two}, []netip.Addr{one, two}, time.Second, true},
		{"one, and the other is not there", false, []netip.Addr{one}, []netip.Addr{one}, 11 * time.Second, true},
		{"one, and the other is on its way", false, []netip.Addr{one}, []netip.Addr{one, two}, 11 * time.Second, false},
		{"both, asked", true, []netip.Addr{one, two}, []netip.Addr{one, two}, time.Second, false},
		{"both, asked, later", true, []netip.Addr{one, two}, []netip.Addr{one, two}, 11 * time.Second, true},
	} {
		cfg := &evpn.Config{Neighbors: []evpn.Neighbor{{Addr: one}, {Addr: two}}, Restart: time.Minute, Constraint: x.constraint}
		a := newAgent(cfg, zap.NewNop(), nil)
		a.speaker = &speaker.Speaker{}
		now := a.started.Add(30 * time.Second)
		for _, n := range x.up {
			a.up[n] = true
		}
		for _, n := range x.ribs {
			a.ribs[n], a.firstRIB = true, now.Add(-x.after)
		}
		if a.completed(now); a.complete != x.want {
			t.Errorf("%s: complete is %v", x.name, a.complete)
		}
		if a.completed(a.started.Add(2 * time.Minute)); !a.complete {
			t.Errorf("%s: not complete after the restart time", x.name)
		}
	}
}
