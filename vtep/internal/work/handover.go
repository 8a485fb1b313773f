package work

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"gvtep/vtep/internal/forward"
)

// The hand-over of a change.
//
// Workers read one snapshot, which never changes. A change makes the next one, and each
// worker passes to it when it begins a round; a round takes milliseconds at most. Until
// the last worker has passed, some may use what only older snapshots have. So:
//
// Nothing is closed, and no slot is used for another descriptor, before all workers
// have passed to a snapshot without it. finish holds to that.
//
// And no worker is told of a descriptor that it does not know: what is new is waited for
// when all have passed, and what leaves is no longer waited for before the first one does.

// state is how far the hand-over of a descriptor has come. It goes one way only.
type state uint8

const (
	fresh   state = iota // not waited for yet: some worker may not know it
	waited               // for, in the epoll set
	leaving              // no longer waited for; some worker may have it yet
	gone                 // no worker has it: it may be closed, and its index is free
)

// slot is a descriptor in the set. epoll reports its index and generation, never
// the descriptor, which the kernel reuses.
type slot struct {
	index, generation int32
	fd                int
	state             state // guarded by those who change the pool
	// owned is set while a worker has it. That only one has is the kernel's
	// doing; this orders what one does with it before what the next one does
	// in Go's memory model, which knows nothing of epoll.
	owned atomic.Bool
}

// reserve gives a descriptor a slot.
func (s *pollSet) reserve(fd int) *slot {
	if len(s.free) == 0 {
		s.free = append(s.free, int32(len(s.slots)))
		s.slots = append(s.slots, &slot{state: gone})
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.slots[i] = &slot{index: i, generation: s.slots[i].generation + 1, fd: fd}
	return s.slots[i]
}

// advance takes all descriptors as far as they can go on the way to a snapshot,
// to which all workers have passed or not. It returns how many the kernel would not
// let them wait for, and its first error.
func (s *pollSet) advance(snap *view, allPassed bool) (unpolled int, err error) {
	for _, l := range s.slots {
		wanted := snap.turn(l) != nil
		if l.state == waited && !wanted {
			unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, l.fd, nil)
		}
		if l.state < leaving && !wanted {
			l.state = leaving
		}
		switch {
		case !allPassed:
		case l.state == fresh:
			ev := l.event()
			if e := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, l.fd, &ev); e == nil {
				l.state = waited
			} else if unpolled++; err == nil {
				err = e
			}
		case l.state == leaving:
			l.state = gone
			s.free = append(s.free, l.index)
		}
	}
	return unpolled, err
}

// descriptor names a queue of a port or a socket.
type descriptor struct {
	port   uint32          // its id; 0: a socket
	socket *forward.Socket // nil: a queue
	n      int
}

// turn is what a view knows of a slot: one queue of a port or one socket.
type turn struct {
	slot   *slot
	port   *forward.Port
	socket *forward.Socket
	n      int // which of its queues or sockets
}

// view is a snapshot as the workers have it.
type view struct {
	*forward.Snapshot
	generation uint64
	closing    bool
	turns      []turn // by index of the slot
}

// turn returns what is known of a slot, nil if it is not in the view.
func (v *view) turn(l *slot) *turn { return v.turnAt(l.index, l.generation) }

func (v *view) turnAt(index, generation int32) *turn {
	if int(index) >= len(v.turns) {
		return nil
	}
	if t := &v.turns[index]; t.slot != nil && t.slot.generation == generation {
		return t
	}
	return nil
}

// Publish hands a snapshot to the workers and waits until all have passed to it. From then
// on no worker touches what only older snapshots have.
func (p *Pool) Publish(snap *forward.Snapshot) error {
	last := p.view.Load()
	v := &view{Snapshot: snap, generation: last.generation + 1}
	same := v.seatedAs(last)
	if same {
		v.turns = slices.Clone(last.turns)
	} else {
		v.turns = make([]turn, 0, len(p.poll.slots))
	}
	for i, port := range snap.Ports {
		if same && port == last.Ports[i] {
			continue
		}
		if port.Failed.Load() {
			continue
		}
		for i, q := range port.Queues {
			p.seat(v, descriptor{port: port.ID, n: i}, q, turn{port: port, n: i})
		}
	}
	for _, s := range snap.Sockets {
		if same {
			break
		}
		for i, r := range s.Receivers {
			if r != nil {
				p.seat(v, descriptor{socket: s, n: i}, r, turn{socket: s, n: i})
			}
		}
	}
	return p.hand(v)
}

// seatedAs reports whether the descriptors of a view are those of the last one, in the same order:
// a change of some tunnels, which costs no look at the queues of the others.
func (v *view) seatedAs(last *view) bool {
	return slices.Equal(v.Sockets, last.Sockets) &&
		slices.EqualFunc(v.Ports, last.Ports, func(now, before *forward.Port) bool {
			return now.ID == before.ID && slices.Equal(now.Queues, before.Queues) && !now.Failed.Load()
		})
}

// seat gives a descriptor of a view its slot. One that has a slot is not asked for its number.
func (p *Pool) seat(v *view, d descriptor, of interface{ FD() int }, t turn) {
	t.slot = p.slots[d]
	if t.slot == nil || t.slot.state >= leaving {
		t.slot = p.poll.reserve(of.FD())
		p.slots[d] = t.slot
	}
	if more := int(t.slot.index) + 1 - len(v.turns); more > 0 {
		v.turns = append(v.turns, make([]turn, more)...)
	}
	v.turns[t.slot.index] = t
}

// hand gives the workers a view and waits until all have passed.
func (p *Pool) hand(v *view) error {
	p.poll.advance(v, false)
	p.view.Store(v)
	if p.running && !p.summon(answerBound, func() bool { return p.behind() < 0 }) {
		return fmt.Errorf("worker %d is stuck: it did not take over a change within %s", p.behind(), answerBound)
	}
	p.settled.Store(v.generation)
	unpolled, err := p.poll.advance(v, true)
	maps.DeleteFunc(p.slots, func(_ descriptor, l *slot) bool { return l.state == gone })
	if unpolled > 0 && p.unpolled.Load() == 0 {
		p.Owner.Unpolled(unpolled, err)
	}
	p.unpolled.Store(int32(unpolled))
	return p.finish()
}

// behind returns a running worker that has not passed to the newest view, -1 if
// there is none.
func (p *Pool) behind() int {
	if !p.running {
		return -1
	}
	generation := p.view.Load().generation
	return slices.IndexFunc(p.workers, func(w *worker) bool { return w.passed.Load() < generation })
}

// Unfinished reports whether a change is not ended: because a worker is stuck, or because the
// kernel would not let them wait for a descriptor. Anybody may ask.
func (p *Pool) Unfinished() bool {
	return p.settled.Load() < p.view.Load().generation || p.unpolled.Load() > 0
}

// CatchUp ends a change that is unfinished, if that can be done now.
func (p *Pool) CatchUp() error {
	if !p.Unfinished() {
		return nil
	}
	return p.hand(p.view.Load())
}

// hasPassed is called by a worker that has passed to another snapshot, or seen the wake-up
// event.
func (p *Pool) hasPassed() {
	select {
	case p.passing <- struct{}{}:
	default:
	}
}

// Afterwards has something done once all workers have passed to the next snapshot: at the
// end of publish, or when one that was stuck goes on.
func (p *Pool) Afterwards(f func()) { p.todo = append(p.todo, f) }

// finish does what was to be done afterwards, such as closing. If a worker may still use what
// is closed there, it does nothing: a descriptor that stays open costs less than the next
// tunnel's frames in a device that has the same number.
func (p *Pool) finish() error {
	if w := p.behind(); w >= 0 {
		return fmt.Errorf("worker %d has not passed to the newest snapshot: what older ones have stays open", w)
	}
	all := p.todo
	p.todo = nil
	for _, f := range all {
		f()
	}
	return nil
}
