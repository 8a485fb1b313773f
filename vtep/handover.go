package vtep

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
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
	state             state // guarded by Endpoint.mu
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
func (s *pollSet) advance(snap *snapshot, allPassed bool) (unpolled int, err error) {
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

// publish makes a snapshot of the configuration and hands it over. e.mu is held.
func (e *Endpoint) publish() error {
	old := e.snap.Load()
	snap := &snapshot{
		generation: old.generation + 1,
		admit:      maps.Clone(e.admit),
		sources:    maps.Clone(e.sources),
		trunks:     make(map[uint32][]*port),
		vnis:       make(map[vniKey]struct{}),
		peers:      make(map[int32]*peer),
		open:       make(map[vniKey]*port),
	}
	for _, t := range e.sorted() {
		snap.ports = append(snap.ports, t.port)
		t.state.current.Store(t.port)
		for _, p := range t.peers {
			snap.peers[p.id] = p
		}
		for _, s := range t.sockets {
			if !t.config.NoVNI {
				key := vniKey{s.id, t.config.VNI}
				snap.vnis[key] = struct{}{}
				if len(t.accept) > 0 {
					snap.open[key] = t.port
				}
			}
			if t.port.trunk != nil {
				snap.trunks[s.id] = append(snap.trunks[s.id], t.port)
			}
			if !slices.Contains(snap.sockets, s) {
				snap.sockets = append(snap.sockets, s)
			}
		}
	}
	snap.own = e.ownDevices()
	e.seat(snap)
	return e.hand(snap)
}

// seat gives every queue and socket of a snapshot its slot.
func (e *Endpoint) seat(snap *snapshot) {
	put := func(l **slot, fd int, t turn) {
		if *l == nil || (*l).state >= leaving {
			*l = e.poll.reserve(fd)
		}
		t.slot = *l
		for int(t.slot.index) >= len(snap.turns) {
			snap.turns = append(snap.turns, turn{})
		}
		snap.turns[t.slot.index] = t
	}
	for _, p := range snap.ports {
		if p.failed.Load() {
			continue
		}
		for i, q := range p.queues {
			put(&p.slots[i], q.FD(), turn{port: p, n: i})
		}
	}
	for _, s := range snap.sockets {
		for i, r := range s.receivers {
			if r != nil {
				put(&s.slots[i], r.FD(), turn{socket: s, n: i})
			}
		}
	}
}

// hand gives the workers a snapshot and waits until all have passed. e.mu is held.
func (e *Endpoint) hand(snap *snapshot) error {
	e.poll.advance(snap, false)
	e.snap.Store(snap)
	if e.running && !e.summon(5*time.Second, func() bool { return e.behind() < 0 }) {
		return fmt.Errorf("worker %d is stuck: it did not take over a change within 5 s", e.behind())
	}
	e.settled.Store(snap.generation)
	unpolled, err := e.poll.advance(snap, true)
	if unpolled > 0 && e.unpolled.Load() == 0 {
		e.log.Error("workers cannot wait for a descriptor, and try again each second", zap.Int("descriptors", unpolled), zapErr(err))
	}
	e.unpolled.Store(int32(unpolled))
	return e.finish()
}

// behind returns a running worker that has not passed to the newest snapshot, -1 if
// there is none.
func (e *Endpoint) behind() int {
	if !e.running {
		return -1
	}
	generation := e.snap.Load().generation
	return slices.IndexFunc(e.workers, func(w *worker) bool { return w.passed.Load() < generation })
}

// catchUp ends a change if it is not ended: because a worker was stuck that goes on now,
// or because the kernel would not let them wait for a descriptor.
func (e *Endpoint) catchUp() {
	open := func() bool { return e.settled.Load() < e.snap.Load().generation || e.unpolled.Load() > 0 }
	if !open() || !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	if !e.closed && open() {
		if err := e.hand(e.snap.Load()); err != nil {
			e.log.Warn("workers do not follow", zapErr(err))
		}
	}
}

// passed is called by a worker that has passed to another snapshot.
func (e *Endpoint) passed() {
	select {
	case e.passing <- struct{}{}:
	default:
	}
}

// afterwards has something done once all workers have passed to the next snapshot: at the
// end of publish, or when one that was stuck goes on. e.mu is held, here and there.
func (e *Endpoint) afterwards(f func()) { e.pending = append(e.pending, f) }

// finish does what was to be done afterwards, such as closing. If a worker may still use what
// is closed there, it does nothing: a descriptor that stays open costs less than the next
// tunnel's frames in a device that has the same number.
func (e *Endpoint) finish() error {
	if w := e.behind(); w >= 0 {
		return fmt.Errorf("worker %d has not passed to the newest snapshot: what older ones have stays open", w)
	}
	todo := e.pending
	e.pending = nil
	for _, f := range todo {
		f()
	}
	return nil
}
