package vtep

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// TestPace: the first change is looked at soon, a stream of them once a second, less often if
// a look takes long, and after a quiet time it begins anew.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	var p pace
	now := time.Unix(1000, 0)
	look := func(took time.Duration) {
		p.looked(now, now.Add(took))
		now = now.Add(took)
	}
	for i, step := range []struct {
		after time.Duration // the end of the last look a change comes
		want  time.Duration // that it waits
		took  time.Duration
	}{
		{0, 20 * ms, 0}, {0, 40 * ms, 0}, {10 * ms, 70 * ms, 0}, {0, 160 * ms, 0}, {320 * ms, 20 * ms, 0}, // slower and slower
		{0, 640 * ms, 0}, {0, 1000 * ms, 0}, {0, 1000 * ms, 0}, {999 * ms, 20 * ms, 0},
		{1000 * ms, 20 * ms, 100 * ms}, // quiet for a second; a look that takes long
		{0, 2000 * ms, 3000 * ms},      // and one that takes very long
		{1000 * ms, 9000 * ms, 0},      // which is bounded
		{5000 * ms, 20 * ms, 0},        // quiet
		{0, 40 * ms, 0},
	} {
		now = now.Add(step.after)
		if got := p.wait(now); got != step.want {
			t.Fatalf("step %d: waits %s, want %s", i, got, step.want)
		}
		now = now.Add(step.want)
		look(step.took)
	}
}

// TestRouteChanges: a change of a route asks about those in its prefix, and nobody else; one of a
// link about all; a stream of them asks once a second.
func TestRouteChanges(t *testing.T) {
	const peers = 100
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	for i := range 2 {
		cfg := testTunnel(fmt.Sprint("gnv", i))
		cfg.VNI = packet.VNI(i)
		for j := range peers {
			cfg.Peers = append(cfg.Peers, Peer{Remote: netip.AddrFrom4([4]byte{198, 18, byte(i), byte(j)})})
		}
		h.add(cfg)
	}
	h.run()
	counts := func() (asked, renewed int) {
		h.underlay.mu.Lock()
		defer h.underlay.mu.Unlock()
		return h.underlay.asked, h.underlay.renewed
	}
	settled := func() (asked, renewed int) { // nothing has been asked for a while
		for {
			asked, renewed = counts()
			time.Sleep(5 * changePause)
			if again, _ := counts(); again == asked {
				return asked, renewed
			}
		}
	}
	routes := func(prefixes ...string) (c netio.Changes) {
		for _, p := range prefixes {
			c.Route(netip.MustParsePrefix(p))
		}
		return c
	}
	for _, tc := range []struct {
		name    string
		c       netio.Changes
		want    int
		renewed bool
	}{
		{"elsewhere", routes("203.0.113.0/24", "2001:db8::/32"), 0, false},
		{"one peer", routes("198.18.1.7/32"), 1, false},
		{"eight of one tunnel and one of the other", routes("198.18.0.8/29", "198.18.1.7/32", "203.0.113.0/24"), 9, false},
		{"one tunnel", routes("198.18.1.0/24"), peers, false},
		{"default", routes("0.0.0.0/0"), 2 * peers, false},
		{"the default of another family", routes("::/0"), 0, false},
		{"a link", netio.Changes{All: true}, 2 * peers, true},
	} {
		asked, renewed := settled()
		h.underlay.changed <- tc.c
		if tc.want > 0 {
			eventually(t, tc.name, func() bool { now, _ := counts(); return now-asked >= tc.want })
		}
		now, renewedNow := settled()
		if now-asked != tc.want || (renewedNow > renewed) != tc.renewed {
			t.Errorf("%s: asked about %d peers, want %d; sockets were looked at: %t, want %t", tc.name, now-asked, tc.want, renewedNow > renewed, tc.renewed)
		}
	}
	asked, _ := settled()
	const stream = 2 * time.Second
	for start := time.Now(); time.Since(start) < stream; time.Sleep(time.Millisecond) {
		h.underlay.changed <- routes("198.18.0.0/24")
	}
	now, _ := settled()
	// After 20, 40, 80, 160, 320, 640 ms and one second.
	if looks := (now - asked) / peers; looks < 1 || looks > 8 {
		t.Errorf("%d looks in %s of changes, want some 6", looks, stream)
	}
}

// TestPollInTurn: a poll asks about a thousand peers, the next about the next, and in the end about all.
func TestPollInTurn(t *testing.T) {
	const peers = 2500
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0")
	for i := range peers {
		cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
	}
	h.add(cfg)
	times := make(map[netip.Addr]int)
	h.underlay.asking = func(remote netip.AddrPort) { times[remote.Addr()]++ }
	for i := range 5 {
		asked := h.underlay.asked
		h.checkPaths(h.inTurn())
		if n := h.underlay.asked - asked; n != pollMost {
			t.Errorf("poll %d asked about %d peers, want %d", i, n, pollMost)
		}
	}
	for i := range peers {
		if n := times[scalePeer(i)]; n != 2 {
			t.Fatalf("%s was asked about %d times in two rounds", scalePeer(i), n)
		}
	}
}
