package vtep

import (
	"slices"
	"testing"
	"time"
)

// TestEventsResume: who comes back with the number of the last event that it saw goes on there, or
// is told that it cannot.
func TestEventsResume(t *testing.T) {
	var e Endpoint
	send := func(n int) {
		for range n {
			e.events.send(Event{Object: "fdb"})
		}
	}
	if _, ok := e.SubscribeAfter(1); ok {
		t.Error("it goes on after what no process has said")
	}
	send(3) // nobody listens, and nobody is told
	first := e.Subscribe()
	send(2)
	a, b := <-first.C, <-first.C
	if a.Seq != first.Seq+1 || b.Seq != a.Seq+1 {
		t.Fatalf("numbers %d and %d after %d", a.Seq, b.Seq, first.Seq)
	}
	if before := uint64(time.Now().Add(-time.Hour).UnixMilli()) * 1000; a.Seq < before {
		t.Errorf("number %d is one that an earlier process may have given, up to %d", a.Seq, before)
	}
	first.Close()
	send(3)
	again, ok := e.SubscribeAfter(a.Seq)
	if !ok || len(again.C) != 4 {
		t.Fatalf("after %d: %v, want 4 events", a.Seq, ok)
	}
	send(1)
	for want := b.Seq; want < b.Seq+5; want++ {
		if got := <-again.C; got.Seq != want {
			t.Fatalf("event %d, want %d", got.Seq, want)
		}
	}
	again.Close()
	send(eventQueue - 5) // with the four after b
	if s, ok := e.SubscribeAfter(b.Seq); !ok || len(s.C) != eventQueue-1 {
		t.Error("what is remembered is not told")
	}
	send(2)
	if _, ok := e.SubscribeAfter(b.Seq); ok {
		t.Error("it goes on over a gap")
	}
	if _, ok := e.SubscribeAfter(e.events.seq + 1); ok {
		t.Error("it goes on after what has not been")
	}
	last := e.events.seq
	for s := range e.events.readers {
		s.Close()
	}
	e.events.left = time.Now().Add(-2 * eventMemory)
	send(1)
	if e.events.wanted() {
		t.Error("events are still remembered")
	}
	if _, ok := e.SubscribeAfter(last); ok {
		t.Error("it goes on after what was not remembered")
	}
	if s := e.Subscribe(); s.Seq <= last {
		t.Errorf("number %d was used before", s.Seq)
	}
}

// TestWhoSwitched: a device that goes up or down is told of once, with the change of ours that did it,
// or with none; so are routes that go and come.
func TestWhoSwitched(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	sub := l.Subscribe()
	defer sub.Close()
	by := &Caller{PID: 4711, Command: "gvtep tunnel down gnv0"}
	set := func(down bool, by *Caller) func() {
		return func() {
			cfg, err := l.Config("gnv0")
			if err != nil {
				t.Fatal(err)
			}
			cfg.Device.Down = down
			cause := &Cause{By: *by, Keys: []KeyChange{{"up", "true", "false"}}}
			if err := l.Apply(Change{Set: []Tunnel{cfg}, Causes: map[string]*Cause{"gnv0": cause}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	byHand := func(down bool) func() {
		return func() {
			l.dev.mu.Lock()
			l.dev.down = down
			l.dev.mu.Unlock()
		}
	}
	mtu := func(n int) func() {
		return func() {
			l.underlay.mu.Lock()
			l.underlay.mtu = n
			l.underlay.mu.Unlock()
			l.checkPaths(anyPeer)
		}
	}
	for i, step := range []struct {
		do   func()
		want []string
	}{
		{func() {}, nil},
		{byHand(true), []string{"down"}},
		{func() {}, nil},
		{byHand(false), []string{"up"}},
		{set(true, by), []string{"changed by gvtep tunnel down gnv0", "down by gvtep tunnel down gnv0"}},
		{byHand(true), nil}, // it is down already
		{byHand(false), nil},
		{set(false, &Caller{Command: "SIGHUP"}), []string{"changed by SIGHUP", "up by SIGHUP"}},
		{byHand(true), []string{"down"}}, // the change before is over
		{byHand(false), []string{"up"}},
		{mtu(0), []string{"route_lost"}},
		{mtu(0), nil},
		{mtu(1500), []string{"route_back"}},
		{func() { l.dev.mu.Lock(); l.dev.closed = true; l.dev.mu.Unlock() }, []string{"gone"}},
	} {
		step.do()
		l.followDevices()
		var got []string
		for len(sub.C) > 0 {
			e := <-sub.C
			text := e.Action
			if e.Cause != nil {
				text += " by " + e.Cause.By.Command
				// What changed is told of the tunnel alone.
				if e.Tunnel != "gnv0" || (len(e.Cause.Keys) == 1) != (e.Action == "changed") {
					t.Errorf("step %d: %+v, %+v", i, e, e.Cause)
				}
			}
			got = append(got, text)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// TestBriefRefused: whose packets are dropped is refused, with the reason, and then heard.
func TestBriefRefused(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	f := frame(broadcast, macB, 0x0806, make([]byte, 46))
	brief := func() BriefPeer { return l.Brief()[0].Peers[0] }
	if p := brief(); p.Contact != Silent || p.Refused != nil {
		t.Errorf("at the beginning: %+v", p)
	}
	odd := good(f)
	odd[6]++ // another VNI
	l.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(odd), odd)
	l.step()
	if p := brief(); p.Contact != Rejects || p.Refused == nil || p.Refused.Reason.String() != "unknown_vni" || p.Refused.Count != 1 {
		t.Errorf("packets of another VNI: %+v, %+v", p, p.Refused)
	}
	l.says("192.0.2.2", f)
	if p := brief(); p.Contact != Heard || p.Refused != nil {
		t.Errorf("a packet that was taken: %+v", p)
	}
}
