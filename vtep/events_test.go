package vtep

import (
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
