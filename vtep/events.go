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
	Seq    uint64 // one more than that of the event before; never used again, by a later process either
	Time   time.Time
	Object string // "fdb", "peer" or "tunnel"
	// Action is "new", "moved", "replaced", "deleted", "aged", "flushed", "evicted" or "changed"; of the device of
	// a tunnel also "up", "down" and "gone"; of a peer also "route_lost", "route_back", by BFD "up" and "down", and what others Tell.
	Action string
	Tunnel string
	Cause  *Cause // nil: it is not known, or was not asked for

	// For fdb.
	MAC    packet.MAC
	VLAN   uint16 // of a trunk; 0: no tag
	State  fdb.State
	Flags  fdb.Flags
	Local  bool           // behind our own device
	Remote netip.AddrPort // for peer, too
	From   netip.AddrPort // where the address was before it moved; invalid: our own device

	Refused *PeerRefused // of a peer whose packets are dropped
}

// Cause is who asked for a change, and what it changes.
type Cause struct {
	By   Caller
	Keys []KeyChange // at most MaxKeys of them
	More int         // that are not in Keys
}

// MaxKeys is how many keywords of one change a Cause has.
const MaxKeys = 100

// Caller is a process that asked for a change. PID 0: a signal, which Command names.
type Caller struct {
	PID, UID int
	Command  string // its command line; "": it is not to be seen
}

// KeyChange is a keyword that has another value now.
type KeyChange struct{ Key, Old, New string } // as in a file; "": not set

// eventQueue is how many events a slow reader may be behind. What comes on
// top is lost to it, and it is told how many.
const eventQueue = 4096

// eventMemory is for how long events are remembered when the last reader has gone: it may come
// back and go on where it was.
const eventMemory = 10 * time.Minute

// events hands events to subscribers, and remembers the last eventQueue of them. As long as
// nobody has asked for events, one costs a load.
type events struct {
	recording atomic.Bool
	mu        sync.Mutex
	readers   map[*Subscription]struct{}
	left      time.Time // when the last reader went
	seq       uint64    // of the last event
	log       []Event   // a ring: an event is at its number modulo eventQueue
	first     uint64    // the oldest in log
}

// Subscription receives events until it is closed.
type Subscription struct {
	// Seq is the number of the last event before those of C.
	Seq    uint64
	C      <-chan Event
	c      chan Event
	lost   atomic.Uint64
	events *events
}

// Subscribe returns all events from now on.
func (e *Endpoint) Subscribe() *Subscription {
	e.events.mu.Lock()
	defer e.events.mu.Unlock()
	return e.events.subscribe()
}

// SubscribeAfter returns all events after one that was seen before, with those that are
// remembered. It reports false if some between are not.
func (e *Endpoint) SubscribeAfter(seq uint64) (*Subscription, bool) {
	ev := &e.events
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if !ev.recording.Load() || seq > ev.seq || seq+1 < ev.first {
		return nil, false
	}
	s := ev.subscribe()
	s.Seq = seq
	for n := seq + 1; n <= ev.seq; n++ {
		s.c <- ev.log[n%eventQueue] // which has room for all that are remembered
	}
	return s, true
}

// subscribe needs the lock.
func (ev *events) subscribe() *Subscription {
	if !ev.recording.Load() {
		// Numbers begin with the time in ms, of which each has room for a thousand: what a
		// process before this one gave out is less. What came while nobody listened has no
		// number, so one is left out.
		ev.seq = max(ev.seq+1, uint64(time.Now().UnixMilli())*1000)
		ev.first, ev.log = ev.seq+1, make([]Event, eventQueue)
		ev.recording.Store(true)
	}
	c := make(chan Event, eventQueue)
	s := &Subscription{Seq: ev.seq, C: c, c: c, events: ev}
	if ev.readers == nil {
		ev.readers = make(map[*Subscription]struct{})
	}
	ev.readers[s] = struct{}{}
	return s
}

// Lost returns how many events did not fit since it was last asked.
func (s *Subscription) Lost() uint64 { return s.lost.Swap(0) }

// Close ends the subscription. Nothing is sent to C any more.
func (s *Subscription) Close() {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	delete(s.events.readers, s)
	s.events.left = time.Now()
}

// wanted reports whether there are subscribers, or were lately.
func (ev *events) wanted() bool { return ev.recording.Load() }

// send hands ev to all subscribers. It never waits.
func (ev *events) send(event Event) {
	event.Time = time.Now()
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if !ev.recording.Load() {
		return
	}
	if len(ev.readers) == 0 && event.Time.Sub(ev.left) > eventMemory {
		ev.recording.Store(false)
		ev.log = nil
		return
	}
	ev.seq++
	event.Seq = ev.seq
	ev.log[ev.seq%eventQueue] = event
	ev.first = max(ev.first, ev.seq-min(ev.seq, eventQueue-1))
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
