package vtep

import (
	"slices"
	"testing"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/spec"
)

// lively has endpoints do all there is to do, sessions included, until done, for a minute at most.
func lively(t *testing.T, what string, done func() bool, hosts ...*host) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			for _, h := range hosts {
				for _, p := range h.State().Tunnels[0].Peers {
					t.Logf("%s: %+v", p.Remote, p.Live)
				}
			}
			t.Fatalf("%s: not within a minute", what)
		}
		for _, h := range hosts {
			h.step()
			select {
			case a := <-h.live.arrived:
				h.live.turn(&a, h.clock)
			default:
				h.live.turn(nil, h.clock)
			}
			h.live.pause(h.clock())
			h.tellHealth()
		}
	}
}

func (h *host) liveness(i int) BFDState { return h.State().Tunnels[0].Peers[i].Live }

func watchedTunnel(bfd spec.BFD, remotes ...string) Tunnel {
	cfg := testTunnel("gnv0", remotes...)
	cfg.BFD = bfd
	return cfg
}

var fast50 = spec.BFD{Interval: 50 * time.Millisecond, Mult: 3}

// TestLiveness: three hosts. One falls silent: it gets nothing any more, its stations are flooded to
// the other, and it has all again when it is back. One that knows no BFD keeps all.
func TestLiveness(t *testing.T) {
	wire := new(memWire)
	a, b, c := newHost(t, wire, 1, "192.0.2.1"), newHost(t, wire, 1, "192.0.2.2"), newHost(t, wire, 1, "192.0.2.3")
	dev := a.add(watchedTunnel(fast50, "192.0.2.2", "192.0.2.3"))
	b.add(watchedTunnel(fast50, "192.0.2.1"))
	c.add(testTunnel("gnv0", "192.0.2.1"))
	events := a.Subscribe()
	defer events.Close()
	lively(t, "up", func() bool { return a.liveness(0).Up && b.liveness(0).Up }, a, b, c)
	if st := a.liveness(1); st.Up || st.Dead || !st.On {
		t.Errorf("who knows no BFD: %+v", st)
	}
	if n := c.State().Drops.Rx[count.DropControl]; n == 0 {
		t.Error("who has no BFD counts no control packet")
	}
	if seen := a.State().Tunnels[0].Peers[0].LastSeen; seen.IsZero() {
		t.Error("who answers BFD was never heard")
	}
	inject := func() { // a station behind b speaks
		d := good(frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 1, 2, "hello")))
		a.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), d)
		a.step()
	}
	sent := func() (to []string) {
		a.underlay.mu.Lock()
		a.underlay.sent, a.underlay.keep = nil, true
		a.underlay.mu.Unlock()
		dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "to b"))},
			memFrame{bytes: frame(broadcast, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.255", 1, 2, "to all"))})
		a.step()
		a.underlay.mu.Lock()
		defer a.underlay.mu.Unlock()
		for _, d := range a.underlay.sent {
			to = append(to, d.to.Addr().String())
		}
		a.underlay.keep = false
		return to
	}
	inject()
	if got, want := sent(), []string{"192.0.2.2", "192.0.2.2", "192.0.2.3"}; !slices.Equal(got, want) {
		t.Errorf("while b is alive: to %v, want %v", got, want)
	}
	lively(t, "dead", func() bool { return a.liveness(0).Dead }, a, c)
	if got, want := sent(), []string{"192.0.2.3", "192.0.2.3"}; !slices.Equal(got, want) {
		t.Errorf("while b is dead: to %v, want %v: its station is unknown", got, want)
	}
	if err := a.Update("gnv0", func(cfg *Tunnel) error { cfg.Peers = cfg.Peers[:1]; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := sent(); got != nil || a.State().Tunnels[0].Drops.Tx[count.DropPeerDown] != 2 {
		t.Errorf("with nobody else: to %v, %d counted", got, a.State().Tunnels[0].Drops.Tx[count.DropPeerDown])
	}
	lively(t, "up again", func() bool { return a.liveness(0).Up && b.liveness(0).Up }, a, b, c)
	if got, want := sent(), []string{"192.0.2.2", "192.0.2.2"}; !slices.Equal(got, want) {
		t.Errorf("b is back: to %v, want %v", got, want)
	}
	if n := a.liveness(0).Downs; n < 1 {
		t.Errorf("%d times down", n)
	}
	// Switched off, it is told: the other end goes on without.
	lively(t, "up", func() bool { return a.liveness(0).Up && b.liveness(0).Up }, a, b)
	if err := b.Update("gnv0", func(cfg *Tunnel) error { cfg.BFD = spec.BFD{}; return nil }); err != nil {
		t.Fatal(err)
	}
	lively(t, "off there", func() bool { return a.liveness(0).Remote == "admin_down" }, a, b)
	if st := a.liveness(0); st.Dead || st.Up {
		t.Errorf("off there: %+v", st)
	}
	var actions []string
	for len(events.C) > 0 {
		if e := <-events.C; e.Object == "peer" && (e.Action == "up" || e.Action == "down") && e.Remote.Addr() == addr("192.0.2.2") {
			actions = append(actions, e.Action)
		}
	}
	if len(actions) < 3 || !slices.Equal(actions[:3], []string{"up", "down", "up"}) {
		t.Errorf("events %v", actions)
	}
}

// TestControlPackets: what is no BFD for us, or too much of it, goes nowhere and is counted.
func TestControlPackets(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := watchedTunnel(fast50, "192.0.2.2", "192.0.2.3")
	cfg.Peers[1].BFD = spec.BFD{Given: true} // off
	h.add(cfg)
	p := bfd.Packet{State: bfd.Down, Mult: 3, My: 7, DesiredTx: 1e6, RequiredRx: 1e5}
	to, from := bfd.Address{MAC: macA}, bfd.Address{MAC: macB}
	inner := bfd.AppendFrame(nil, false, from, to, 7, &p)
	head, _ := encap.AppendControl(nil, testVNI, packet.EtherTypeEthernet)
	good := append(slices.Clone(head), inner...)
	for _, tc := range []struct {
		name   string
		from   string
		bytes  []byte
		reason count.Reason
	}{
		{"from who has it off", "192.0.2.3", good, count.DropControl},
		{"from a stranger", "192.0.2.66", good, count.DropControl},
		{"for another MAC address", "192.0.2.2", append(slices.Clone(head), bfd.AppendFrame(nil, false, from, bfd.Address{MAC: macB}, 7, &p)...), count.DropBadBFD},
		{"no BFD", "192.0.2.2", append(slices.Clone(head), "something else"...), count.DropBadBFD},
		{"an IP packet in an Ethernet tunnel", "192.0.2.2", slices.Concat([]byte{0, 0x80, 8, 0}, head[4:], bfd.AppendFrame(nil, true, from, to, 7, &p)), count.DropBadBFD},
		{"with a critical option", "192.0.2.2", slices.Concat([]byte{1, 0xc0}, head[2:], []byte{0xff, 0, 0x80, 0}, inner), count.DropCriticalOption},
		{"good", "192.0.2.2", good, count.NumReasons},
	} {
		before := h.State()
		h.underlay.inject(addr(tc.from), 6081, 0, 2, len(tc.bytes), tc.bytes)
		h.step()
		after := h.State()
		for _, r := range count.Reasons() {
			if n, want := after.Dropped.Rx[r]-before.Dropped.Rx[r], uint64(0); n != want && r != tc.reason || r == tc.reason && n != 1 {
				t.Errorf("%s: %s counted %d times", tc.name, r, n)
			}
		}
	}
	if n := len(h.live.arrived); n != 1 {
		t.Errorf("%d packets are handed over, want 1", n)
	}
	// A flood of good ones is cut short, and allocates nothing.
	h.underlay.forget = true
	r := h.underlay.listeners[0].receivers[0]
	train := packet.Train{From: addr("192.0.2.2"), Ifindex: 2, Data: good, Size: len(good)}
	taken := 0
	began := time.Now()
	allocs := testing.AllocsPerRun(2000, func() {
		r.mu.Lock()
		r.queued = append(r.queued, train)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
		for len(h.live.arrived) > 0 {
			a := <-h.live.arrived
			taken++
			h.live.turn(&a, h.clock)
			h.live.pause(h.clock())
			h.live.told = h.live.told[:0]
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a packet", allocs)
	}
	if most := controlRate/5 + int(time.Since(began).Seconds()*controlRate) + 5; taken > most {
		t.Errorf("%d packets taken of a flood, want %d at most", taken, most)
	}
}

// TestTooWatchful: all tunnels together have a bounded number of sessions.
func TestTooWatchful(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0")
	cfg.BFD = spec.BFD{Interval: time.Second, Mult: 3}
	for i := range spec.BFDSessions {
		cfg.Peers = append(cfg.Peers, Peer{Remote: addr("198.18.0.0").Next()})
		for range i {
			cfg.Peers[i].Remote = cfg.Peers[max(0, i-1)].Remote.Next()
		}
	}
	h.add(cfg)
	more := testTunnel("gnv1", "192.0.2.2")
	more.VNI++
	more.BFD = cfg.BFD
	if err := h.Add(more); err == nil || h.Remove("gnv1") == nil {
		t.Errorf("one session too many: %v", err)
	}
	more.BFD = spec.BFD{}
	if err := h.Add(more); err != nil {
		t.Error(err)
	}
}
