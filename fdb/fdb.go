// Package fdb is the forwarding table of one segment: which nexthop last spoke
// for an Ethernet address.
//
//	t := fdb.NewTable(fdb.Options{Limit: 4096, Ageing: 300 * time.Second})
//	switch t.Learn(src, via, now) {
//	case fdb.Pinned: // drop the frame
//	}
//	via, ok := t.Lookup(dst, now) // flood if not ok
//
// The rules of a learning bridge are inside, so that no caller can forget one:
// group and zero addresses and our own are not learned, what was set by hand
// neither moves nor ages, an address seen elsewhere moves at once, unless it
// moves to and fro (RFC 7432 section 15.1), the number of learned addresses is
// bounded and no nexthop can use up that of others, and only frames from an address keep its entry alive (IEEE
// 802.1D-2004 sections 7.8 and 7.9).
//
// Time is an argument: nanoseconds of any clock that does not go backwards.
// It may be a coarse one, read once per loop.
//
// All methods may be called from any goroutine. Lookup and Learn of an address
// that is where it was, or frozen, take no lock and wait for nobody. The others take a
// lock that is held for at most 256 entries, or to double an array of up to
// 4,096 slots, whatever the size of the table. While a larger one is replaced in
// the background Learn may return Crowded. An entry that has expired is not found
// from then on; Sweep only tidies up behind it.
package fdb

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"gvtep/internal/packet"
)

// granule is the distance between two stores of a time in one entry.
const granule = int64(time.Second)

// Options are the settings of a new table.
type Options struct {
	// Limit is how many dynamic entries there may be for Learn to make
	// another; 0 is no limit. See SetLimit.
	Limit int
	// Ageing is how long a dynamic entry lives when nothing is heard from
	// its address; 0 is forever. See SetAgeing.
	Ageing time.Duration
	// Own is the address of our own device; the zero MAC is none. See SetOwn.
	Own packet.MAC
	// NoDamping lets addresses move as often as they like. See SetDamping.
	NoDamping bool
	// OnChange, if not nil, is told of every change, in order. It is called
	// with the table locked: it must be quick and must not call the table.
	OnChange func(Event)
}

// Table is the forwarding table of one segment. Make it with NewTable.
type Table struct {
	// What every packet reads: one cache line that is seldom written.
	cur     atomic.Pointer[array]
	hasher  hasher
	own     atomic.Uint64 // key, 0: none
	ageing  atomic.Int64
	granule atomic.Int64 // see SetAgeing

	limit    atomic.Int64
	damping  atomic.Bool
	counts   [Permanent + 1]atomic.Int64 // by State, written under mu
	shares   shares
	onChange func(Event)

	mu     sync.Mutex
	moving bool // somebody is about to replace cur

	_       [64]byte // counters that many packets write do not slow down those above
	learned atomic.Uint64
	moved   atomic.Uint64
	aged    atomic.Uint64
	full    atomic.Uint64
	pinned  atomic.Uint64
	ownSeen atomic.Uint64
	ignored atomic.Uint64
	damped  atomic.Uint64
	froze   atomic.Uint64
	crowded atomic.Uint64
	evicted atomic.Uint64
}

// NewTable returns an empty table. It takes less than 1 KiB.
func NewTable(o Options) *Table {
	t := &Table{hasher: newHasher(), onChange: o.OnChange}
	t.cur.Store(newArray(minSlots))
	t.SetLimit(o.Limit)
	t.SetAgeing(o.Ageing)
	t.SetOwn(o.Own)
	t.SetDamping(!o.NoDamping)
	return t
}

// SetLimit sets how many dynamic entries there may be for Learn to make
// another; 0 is no limit. Entries above a lower limit stay.
func (t *Table) SetLimit(n int) { t.limit.Store(int64(max(n, 0))) }

// Limit returns what SetLimit has set.
func (t *Table) Limit() int { return int(t.limit.Load()) }

// SetAgeing sets how long a dynamic entry lives when nothing is heard from its
// address; 0 is forever. It holds for the entries that are there, too.
//
// An entry may go early by up to a second, or by an eighth of an ageing time
// below eight seconds: a refresh within that time of the last is not stored.
func (t *Table) SetAgeing(d time.Duration) {
	d = max(d, 0)
	g := granule
	if d > 0 {
		g = min(granule, int64(d/8))
	}
	t.granule.Store(g)
	t.ageing.Store(int64(d))
}

// Ageing returns what SetAgeing has set.
func (t *Table) Ageing() time.Duration { return time.Duration(t.ageing.Load()) }

// SetOwn sets the address of our own device, which is never learned, not from
// the device either; the zero MAC is none. A dynamic entry for it is removed.
func (t *Table) SetOwn(mac packet.MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mac.IsZero() {
		t.own.Store(0)
		return
	}
	key := keyOf(mac)
	t.own.Store(key)
	if s := t.cur.Load().find(key, t.hasher.hash(key)); s != nil && value(s.value.Load()).state() == Dynamic {
		t.remove(s, EventDeleted)
	}
}

// expired reports whether an entry with value v has not been heard from for
// too long.
func (t *Table) expired(v value, updated, now int64) bool {
	ageing := t.ageing.Load()
	return ageing != 0 && now-updated >= ageing && v.ages()
}

// Lookup returns where frames for mac go. It takes no lock and does not
// allocate.
func (t *Table) Lookup(mac packet.MAC, now int64) (Nexthop, bool) {
	key := keyOf(mac)
	hash := t.hasher.hash(key)
	a := t.cur.Load()
	s := a.find(key, hash)
	if s == nil {
		return 0, false
	}
	v := value(s.value.Load())
	if v.dead() || t.expired(v, s.updated.Load(), now) {
		return 0, false
	}
	if now-s.used.Load() >= granule {
		touch(a, s, key, hash, used, now)
	}
	return v.nexthop(), true
}

// Learn notes that a frame from mac came in via that nexthop. Call it for
// frames that are delivered, not for those that are dropped. For an address
// that is where it was, or frozen, it takes no lock and does not allocate.
func (t *Table) Learn(mac packet.MAC, via Nexthop, now int64) Result {
	if mac.IsGroup() || mac.IsZero() {
		t.ignored.Add(1)
		return Ignored
	}
	key := keyOf(mac)
	if key == t.own.Load() {
		t.ownSeen.Add(1)
		return Own
	}
	hash := t.hasher.hash(key)
	a := t.cur.Load()
	s := a.find(key, hash)
	var v value
	var heard int64
	if s != nil {
		v = value(s.value.Load())
		heard = s.updated.Load()
	}
	switch {
	case v.dead():
		if t.atLimit() && !t.entitled(via) {
			// Without the lock: a flood of made-up addresses holds nobody up.
			t.full.Add(1)
			return Full
		}
	case t.expired(v, heard, now):
	case v.nexthop() == via:
		if now-heard >= t.granule.Load() {
			touch(a, s, key, hash, updated, now)
		}
		return Known
	case v.pinned():
		t.pinned.Add(1)
		return Pinned
	case t.frozen(v, now) > 0:
		t.damped.Add(1)
		return Damped
	}
	return t.learn(key, hash, via, now)
}

// Heard notes that a frame from mac has come in via a nexthop at a time, perhaps some time
// ago, if that is where its entry is. It makes and moves none: it is for those who carry
// frames of known addresses only, and tell of them later.
func (t *Table) Heard(mac packet.MAC, via Nexthop, at int64) { t.note(mac, via, at, updated) }

// Used is Heard for frames to mac.
func (t *Table) Used(mac packet.MAC, via Nexthop, at int64) { t.note(mac, via, at, used) }

func (t *Table) note(mac packet.MAC, via Nexthop, at int64, clock func(*slot) *atomic.Int64) {
	key := keyOf(mac)
	hash := t.hasher.hash(key)
	a := t.cur.Load()
	s := a.find(key, hash)
	if s == nil {
		return
	}
	if v := value(s.value.Load()); v.dead() || v.nexthop() != via || clock(s).Load() >= at {
		return
	}
	touch(a, s, key, hash, clock, at)
}

func (t *Table) atLimit() bool {
	limit := t.limit.Load()
	return limit != 0 && t.counts[Dynamic].Load() >= limit
}

// learn is Learn where the table has to change.
func (t *Table) learn(key, hash uint64, via Nexthop, now int64) Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key == t.own.Load() { // since a moment ago
		t.ownSeen.Add(1)
		return Own
	}
	if s := t.alive(key, hash, now); s != nil {
		v := value(s.value.Load())
		switch {
		case v.nexthop() == via: // another worker was first
			return Known
		case v.pinned():
			t.pinned.Add(1)
			return Pinned
		case t.frozen(v, now) > 0:
			t.damped.Add(1)
			return Damped
		case t.rested(v, now): // and Sweep has not seen it yet
			t.rest(s, v)
			v = value(s.value.Load())
		}
		w := v.moved(via)
		if t.damping.Load() {
			w = w.struck(v, now)
		}
		t.put(key, hash, w, now, s.used.Load())
		t.count(v, -1)
		t.count(w, 1)
		t.moved.Add(1)
		t.tell(EventMoved, key, w, v.nexthop())
		if w.strikes() == DampMoves {
			t.froze.Add(1)
			t.tell(EventFrozen, key, w, 0)
		}
		return Moved
	}
	if t.atLimit() && !(t.entitled(via) && t.makeRoom(via, hash, now)) {
		t.full.Add(1)
		return Full
	}
	if !t.insert(key, hash, makeValue(via, Dynamic, 0, 0), now, now) {
		t.crowded.Add(1) // not full: its next frame, or the one after, finds room
		return Crowded
	}
	t.learned.Add(1)
	return New
}

// The following need the lock.

// alive returns the slot of key, or nil if there is none. An expired entry
// is removed first.
func (t *Table) alive(key, hash uint64, now int64) *slot {
	s := t.cur.Load().find(key, hash)
	if s == nil {
		return nil
	}
	v := value(s.value.Load())
	if v.dead() {
		return nil
	}
	if t.expired(v, s.updated.Load(), now) {
		t.remove(s, EventAged)
		return nil
	}
	return s
}

// insert makes an entry for a key that has none. It reports whether there
// was room.
func (t *Table) insert(key, hash uint64, v value, updated, used int64) bool {
	if !t.reserve() {
		return false
	}
	t.put(key, hash, v, updated, used)
	t.count(v, 1)
	t.tell(EventNew, key, v, 0)
	return true
}

// put stores an entry in all arrays. There is room for it.
func (t *Table) put(key, hash uint64, v value, updated, used int64) {
	for a := t.cur.Load(); a != nil; a = a.next.Load() {
		a.put(key, hash, v, updated, used)
	}
}

// change sets the value of s, but no times, in all arrays.
func (t *Table) change(s *slot, v value) {
	s.value.Store(uint64(v))
	if n := t.cur.Load().next.Load(); n != nil {
		key := s.key.Load()
		if c := n.find(key, t.hasher.hash(key)); c != nil {
			c.value.Store(uint64(v))
		}
	}
}

// remove takes the entry of s, which is alive, from all arrays.
func (t *Table) remove(s *slot, kind EventKind) {
	key, v := s.key.Load(), value(s.value.Load())
	t.change(s, 0)
	t.count(v, -1)
	switch kind {
	case EventAged:
		t.aged.Add(1)
	case EventEvicted:
		t.evicted.Add(1)
	}
	t.tell(kind, key, v, 0)
}

func (t *Table) tell(kind EventKind, key uint64, v value, from Nexthop) {
	if t.onChange != nil {
		t.onChange(Event{Kind: kind, MAC: macOf(key), Nexthop: v.nexthop(), From: from, State: v.state(), Flags: v.flags()})
	}
}

// Add makes an entry, with the ages it says. Every address is allowed, groups
// and the zero address too, and the limit does not hold for it. The error is ErrExists if there is one already,
// or ErrInvalid if e has no State.
func (t *Table) Add(e Entry, now int64) error { return t.set(e, now, false) }

// Replace makes an entry or puts it in the place of the one there is. The
// error is ErrInvalid if e has no State.
func (t *Table) Replace(e Entry, now int64) error { return t.set(e, now, true) }

func (t *Table) set(e Entry, now int64, replace bool) error {
	if e.State < Dynamic || e.State > Permanent {
		return ErrInvalid
	}
	key := keyOf(e.MAC)
	hash := t.hasher.hash(key)
	v := makeValue(e.Nexthop, e.State, e.Flags, e.Moves)
	updated, used := now-int64(e.Updated), now-int64(e.Used)
	for {
		err := t.trySet(key, hash, v, updated, used, now, replace)
		if err != errCrowded {
			return err
		}
		time.Sleep(time.Millisecond) // a larger array is on its way
	}
}

var errCrowded = errors.New("fdb: crowded")

func (t *Table) trySet(key, hash uint64, v value, updated, used, now int64, replace bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.alive(key, hash, now)
	if s == nil {
		if !t.insert(key, hash, v, updated, used) {
			return errCrowded
		}
		return nil
	}
	if !replace {
		return ErrExists
	}
	old := value(s.value.Load())
	t.count(old, -1)
	t.count(v, 1)
	t.put(key, hash, v, updated, used)
	t.tell(EventReplaced, key, v, old.nexthop())
	return nil
}

// Delete removes the entry of mac, whatever its state. The error is
// ErrNotFound if there is none.
func (t *Table) Delete(mac packet.MAC, now int64) error {
	key := keyOf(mac)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.alive(key, t.hasher.hash(key), now)
	if s == nil {
		return ErrNotFound
	}
	t.remove(s, EventDeleted)
	return nil
}

// Flush removes the entries that match says, nil for all, and returns how many.
// match may be called more than once for an entry, also with the table locked:
// it must be quick and must not call the table.
func (t *Table) Flush(now int64, match func(Entry) bool) int {
	return t.removeAll(EventFlushed, func(s *slot, v value) bool {
		return !t.expired(v, s.updated.Load(), now) && (match == nil || match(t.entry(s, v, now)))
	})
}

// FlushNexthops removes all entries, of any state, that point to nexthops which are
// about to lose their meaning, and returns how many. It reads the table once, whatever
// their number, and not at all if there are none.
func (t *Table) FlushNexthops(gone ...Nexthop) int {
	var marked []bool
	for _, via := range gone {
		if all, _ := t.Behind(via); all == 0 {
			continue
		}
		if int(via) >= len(marked) {
			marked = append(marked, make([]bool, int(via)+1-len(marked))...)
		}
		marked[via] = true
	}
	if marked == nil {
		return 0
	}
	return t.removeAll(EventFlushed, func(_ *slot, v value) bool { return int(v.nexthop()) < len(marked) && marked[v.nexthop()] })
}

// Sweep removes the entries that have expired, tells which of the frozen may
// move again, gives back memory that is no longer needed, and returns how many
// entries it removed. Call it every few seconds: until then expired entries
// count for the limit. It reads the whole table, 32 bytes a slot, and locks
// only where there is something to do.
func (t *Table) Sweep(now int64) int {
	removed := 0
	t.each(func(s *slot, v value) bool {
		return t.expired(v, s.updated.Load(), now) || t.rested(v, now)
	}, func(s *slot, v value) {
		if t.expired(v, s.updated.Load(), now) {
			t.remove(s, EventAged)
			removed++
		} else {
			t.rest(s, v)
		}
	})
	t.tidy()
	return removed
}

// removeAll removes what match says and returns how many that were.
func (t *Table) removeAll(kind EventKind, match func(*slot, value) bool) int {
	removed := 0
	t.each(match, func(s *slot, _ value) {
		t.remove(s, kind)
		removed++
	})
	return removed
}

// each calls do, with the lock held, for what match says, stretch by stretch.
// What is there from beginning to end is looked at, perhaps twice; what comes
// or goes meanwhile may be missed.
func (t *Table) each(match func(*slot, value) bool, do func(*slot, value)) {
	matches := func(s *slot) bool {
		v := value(s.value.Load())
		return !v.dead() && match(s, v)
	}
	a := t.cur.Load()
	for i := 0; i < len(a.slots); {
		end := min(i+stretch, len(a.slots))
		for i < end && !matches(&a.slots[i]) {
			i++
		}
		if i == end {
			continue
		}
		t.mu.Lock()
		if now := t.cur.Load(); now != a {
			a, i = now, 0
			t.mu.Unlock()
			continue
		}
		for ; i < end; i++ {
			if s := &a.slots[i]; matches(s) {
				do(s, value(s.value.Load()))
			}
		}
		t.mu.Unlock()
	}
}

// All yields the entries that have not expired, in no order, with their ages
// at now. It takes no lock: changes made meanwhile may or may not be seen, and
// no address comes twice.
func (t *Table) All(now int64) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		a := t.cur.Load()
		for i := range a.slots {
			s := &a.slots[i]
			v := value(s.value.Load())
			if v.dead() || t.expired(v, s.updated.Load(), now) {
				continue
			}
			if !yield(t.entry(s, v, now)) {
				return
			}
		}
	}
}

// Get returns the entry of mac. Unlike Lookup it does not count as use.
func (t *Table) Get(mac packet.MAC, now int64) (Entry, bool) {
	key := keyOf(mac)
	s := t.cur.Load().find(key, t.hasher.hash(key))
	if s == nil {
		return Entry{}, false
	}
	v := value(s.value.Load())
	if v.dead() || t.expired(v, s.updated.Load(), now) {
		return Entry{}, false
	}
	return t.entry(s, v, now), true
}

func (t *Table) entry(s *slot, v value, now int64) Entry {
	return Entry{
		MAC:     macOf(s.key.Load()),
		Nexthop: v.nexthop(),
		State:   v.state(),
		Flags:   v.flags(),
		Moves:   v.moves(),
		Frozen:  t.frozen(v, now),
		Updated: time.Duration(max(now-s.updated.Load(), 0)),
		Used:    time.Duration(max(now-s.used.Load(), 0)),
	}
}

// Count returns the number of entries by state.
func (t *Table) Count() Counts {
	return Counts{
		Dynamic:   int(t.counts[Dynamic].Load()),
		Static:    int(t.counts[Static].Load()),
		Permanent: int(t.counts[Permanent].Load()),
	}
}

// Len returns the number of entries. Those that have expired since the last
// Sweep are among them.
func (t *Table) Len() int {
	c := t.Count()
	return c.Dynamic + c.Static + c.Permanent
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	return Stats{
		Learned: t.learned.Load(),
		Moved:   t.moved.Load(),
		Aged:    t.aged.Load(),
		Full:    t.full.Load(),
		Pinned:  t.pinned.Load(),
		Own:     t.ownSeen.Load(),
		Ignored: t.ignored.Load(),
		Damped:  t.damped.Load(),
		Frozen:  t.froze.Load(),
		Crowded: t.crowded.Load(),
		Evicted: t.evicted.Load(),
	}
}
