package vtep

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

// Event is one change, for subscribers.
type Event struct {
	Time   time.Time
	Object string // "fdb", "peer" or "tunnel"
	Action string // "new", "moved", "replaced", "deleted", "aged", "flushed", "evicted", "changed"
	Tunnel string

	// For fdb.
	MAC    packet.MAC
	VLAN   uint16 // of a trunk; 0: no tag
	State  fdb.State
	Flags  fdb.Flags
	Local  bool           // behind our own device
	Remote netip.AddrPort // for peer, too
	From   netip.AddrPort // where the address was before it moved; invalid: our own device
}

// eventQueue is how many events a slow reader may be behind. What comes on
// top is lost to it, and it is told how many.
const eventQueue = 4096

// events hands events to subscribers. Without subscribers an event costs one load.
type events struct {
	listening atomic.Int32
	mu        sync.Mutex
	readers   map[*Subscription]struct{}
}

// Subscription receives events until it is closed.
type Subscription struct {
	C      <-chan Event
	c      chan Event
	lost   atomic.Uint64
	events *events
}

// Subscribe returns all events from now on.
func (e *Endpoint) Subscribe() *Subscription {
	c := make(chan Event, eventQueue)
	s := &Subscription{C: c, c: c, events: &e.events}
	e.events.mu.Lock()
	defer e.events.mu.Unlock()
	if e.events.readers == nil {
		e.events.readers = make(map[*Subscription]struct{})
	}
	e.events.readers[s] = struct{}{}
	e.events.listening.Add(1)
	return s
}

// Lost returns how many events did not fit since it was last asked.
func (s *Subscription) Lost() uint64 { return s.lost.Swap(0) }

// Close ends the subscription. Nothing is sent to C any more.
func (s *Subscription) Close() {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	if _, ok := s.events.readers[s]; ok {
		delete(s.events.readers, s)
		s.events.listening.Add(-1)
	}
}

// wanted reports whether there are subscribers.
func (ev *events) wanted() bool { return ev.listening.Load() != 0 }

// send hands ev to all subscribers. It never waits.
func (ev *events) send(event Event) {
	event.Time = time.Now()
	ev.mu.Lock()
	defer ev.mu.Unlock()
	for s := range ev.readers {
		select {
		case s.c <- event:
		default:
			s.lost.Add(1)
		}
	}
}

// fdbChanged passes on a change of a tunnel's table. The table calls it
// locked, from a worker too.
func (e *Endpoint) fdbChanged(tunnel string, vid uint16, state *forward.PortState, c fdb.Event) {
	port := state.Current.Load()
	if state.Fast.Load() {
		e.fast.fastEntry(port, c)
	}
	if !e.events.wanted() {
		return
	}
	event := Event{
		Object: "fdb", Action: c.Kind.String(), Tunnel: tunnel,
		MAC: c.MAC, VLAN: vid, State: c.State, Flags: c.Flags, Local: c.Nexthop == fdb.Local,
	}
	if port != nil {
		event.Remote = port.Segment.Remote(c.Nexthop)
		event.From = port.Segment.Remote(c.From)
	}
	e.events.send(event)
}
