package fdb

import "sync/atomic"

// The table changes to a new array, larger, smaller or merely tidier, while
// everything else goes on. The copier takes no lock while it copies, or workers
// that learn would wait whenever the kernel takes the processor from it.
// Measured on two busy cores, 4 runs of 700,000 addresses at 200,000/s: calls of
// Learn above 1 ms during moves were 72 with a lock for every 256 slots, 21
// without; a table that did not grow had 22 in all. What makes this safe is one
// rule: as long as a move goes on,
// every word is written to the old array first and to the new one after, by
// writers, who hold the lock, and by touch, which does not. Readers use the old
// array. When all is copied the table points to the new one.

const (
	// stretch is how many slots removeAll looks at in one hold of the lock.
	stretch = 256
	// atOnce is the largest array that Learn copies itself, in 60 to 90
	// microseconds (measured). Larger ones are copied by a goroutine that ends with it.
	atOnce = 1 << 12
)

// reserve makes sure that one more address finds room: by a new array if the
// present one is crowded, at once or in the background. It reports whether
// there is room now and counts on it being taken. The lock is held.
func (t *Table) reserve() bool {
	a := t.cur.Load()
	if int(a.taken.Load()) >= crowded(len(a.slots)) && !t.moving {
		t.moving = true
		if len(a.slots) <= atOnce {
			t.startMove(newArray(slotsFor(t.Len() + 1)))
			t.copySlots(a, 0, len(a.slots))
			t.endMove()
			a = t.cur.Load()
		} else {
			go t.move()
		}
	}
	if int(a.taken.Load()) >= limit(len(a.slots)) {
		return false
	}
	if n := a.next.Load(); n != nil {
		if n.promised >= limit(len(n.slots)) {
			return false
		}
		n.promised++
	}
	return true
}

// tidy moves the table to an array without dead slots, which is smaller if it
// may be, when they are more than a quarter. An array begins at least a third
// full, so one that is far too large has that many.
func (t *Table) tidy() {
	t.mu.Lock()
	a := t.cur.Load()
	wanted := !t.moving && int(a.taken.Load())-t.Len() > len(a.slots)/4
	t.moving = t.moving || wanted
	t.mu.Unlock()
	if wanted {
		t.move()
	}
}

// move brings the table to an array of the size it needs. moving is set, by
// whoever calls this; the lock is not held.
func (t *Table) move() {
	a := t.cur.Load() // stays: only who has set moving changes it
	for started := false; !started; {
		size := slotsFor(t.Len() + 1)
		n := newArray(size) // page by page by the kernel: outside the lock
		t.mu.Lock()
		if started = slotsFor(t.Len()+1) <= size; started {
			t.startMove(n)
		}
		t.mu.Unlock()
	}
	t.copySlots(a, 0, len(a.slots))
	t.mu.Lock()
	t.endMove()
	t.mu.Unlock()
}

func (t *Table) startMove(n *array) {
	n.promised = t.Len()
	t.cur.Load().next.Store(n)
}

func (t *Table) endMove() {
	t.cur.Store(t.cur.Load().next.Load())
	t.moving = false
}

// copySlots copies the live ones of a's slots from i to before end to a.next.
// It needs no lock: it claims the slot first, so that whoever changes the
// original after the last look finds the copy and changes it too; whatever was
// changed before the last look is seen by it.
func (t *Table) copySlots(a *array, i, end int) {
	n := a.next.Load()
	for ; i < end; i++ {
		s := &a.slots[i]
		if value(s.value.Load()).dead() {
			continue // if it comes back, its writer puts it into n
		}
		key := s.key.Load()
		c := n.claim(key, t.hasher.hash(key))
		for again := true; again; { // as long as it changes under our hands
			v, heard, looked := s.value.Load(), s.updated.Load(), s.used.Load()
			c.updated.Store(heard)
			c.used.Store(looked)
			c.value.Store(v)
			again = s.value.Load() != v || s.updated.Load() != heard || s.used.Load() != looked
		}
	}
}

// touch sets one of the times of key, in a, where s is its slot, and in what
// takes the place of a. It needs no lock.
func touch(a *array, s *slot, key, hash uint64, clock func(*slot) *atomic.Int64, now int64) {
	for {
		clock(s).Store(now)
		if a = a.next.Load(); a == nil {
			return
		}
		if s = a.find(key, hash); s == nil {
			return // will be copied, with the time just stored
		}
	}
}

func updated(s *slot) *atomic.Int64 { return &s.updated }
func used(s *slot) *atomic.Int64    { return &s.used }
