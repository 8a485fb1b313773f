package fdb

import (
	"math/rand/v2"
	"testing"
	"time"

	"gvtep/internal/packet"
)

// model is the table as one would write it if speed did not matter.
type model struct {
	entries map[packet.MAC]*modelEntry
	limit   int
	ageing  int64
	damping bool
	thawed  int // entries that thawed, by themselves
	own     packet.MAC
	stats   Stats
	gone    []Event // entries that the table removed in this operation
	seesAll bool    // the table looks at all of itself for an entry to evict
}

type modelEntry struct {
	Entry         // ages unused
	updated, used int64
	moves         []int64 // in which seconds, those that count
	frozen        int64   // until when, if it is not 0
}

func (m *model) granule() int64 {
	if m.ageing > 0 && m.ageing/8 < sec {
		return m.ageing / 8
	}
	return sec
}

func (m *model) expired(e *modelEntry, now int64) bool {
	return m.ageing > 0 && e.State == Dynamic && e.Flags&ExternLearn == 0 && now-e.updated >= m.ageing
}

// get returns the live entry; an expired one is dropped if tidy.
func (m *model) get(mac packet.MAC, now int64, tidy bool) *modelEntry {
	e := m.entries[mac]
	if e != nil && m.expired(e, now) {
		if tidy {
			delete(m.entries, mac)
			m.stats.Aged++
		}
		return nil
	}
	return e
}

func (m *model) count(s State) (n int) {
	for _, e := range m.entries {
		if e.State == s {
			n++
		}
	}
	return n
}

func (m *model) learn(mac packet.MAC, via Nexthop, now int64) Result {
	if mac.IsGroup() || mac.IsZero() {
		m.stats.Ignored++
		return Ignored
	}
	if mac == m.own {
		m.stats.Own++
		return Own
	}
	e := m.get(mac, now, true)
	switch {
	case e == nil && m.limit > 0 && m.count(Dynamic) >= m.limit && !m.evict(via, now):
		m.stats.Full++
		return Full
	case e == nil:
		m.entries[mac] = &modelEntry{Entry: Entry{MAC: mac, Nexthop: via, State: Dynamic}, updated: now, used: now}
		m.stats.Learned++
		return New
	case e.Nexthop == via:
		if now-e.updated >= m.granule() {
			e.updated = now
		}
		return Known
	case e.State != Dynamic || e.Flags&Sticky != 0:
		m.stats.Pinned++
		return Pinned
	case m.damping && now < e.frozen:
		m.stats.Damped++
		return Damped
	}
	m.rest(e, now)
	if !m.damping {
		e.moves = nil
	} else {
		if e.moves = append(e.moves, now/sec); len(e.moves) == 5 {
			e.frozen = (now/sec + 31) * sec
			m.stats.Frozen++
		}
	}
	e.Nexthop, e.updated, e.Flags = via, now, e.Flags&^ExternLearn
	e.Moves++
	m.stats.Moved++
	return Moved
}

// evict makes room as the table did, and reports whether it did.
func (m *model) evict(via Nexthop, now int64) bool {
	has := map[Nexthop]int{}
	for _, e := range m.entries {
		if e.State == Dynamic {
			has[e.Nexthop]++
		}
	}
	peers := len(has)
	if has[Local] > 0 {
		peers--
	}
	if via != Local && has[via] == 0 {
		peers++
	}
	share := func(of Nexthop) int {
		if of == Local {
			return m.limit / 2
		}
		return (m.limit - m.limit/2) / max(peers, 1)
	}
	may := func(e *modelEntry) bool {
		return e.State == Dynamic && e.Flags == 0 && (m.expired(e, now) || has[e.Nexthop] > share(e.Nexthop))
	}
	if has[via] >= share(via) {
		return false
	}
	for _, gone := range m.gone {
		e := m.entries[gone.MAC]
		if e == nil || !may(e) || (gone.Kind == EventAged) != m.expired(e, now) {
			continue // the address itself, which had expired
		}
		delete(m.entries, gone.MAC)
		if gone.Kind == EventAged {
			m.stats.Aged++
		} else {
			m.stats.Evicted++
		}
		return true
	}
	for _, e := range m.entries {
		if m.seesAll && may(e) {
			return true // which the table has not: the results will differ
		}
	}
	return false
}

// rest forgets what no longer counts.
func (m *model) rest(e *modelEntry, now int64) {
	switch {
	case e.frozen != 0 && (!m.damping || now >= e.frozen):
		e.moves, e.frozen = nil, 0
		m.thawed++
	case e.frozen == 0 && len(e.moves) > 0 && now/sec-e.moves[0] >= 180:
		e.moves = nil
	}
}

func (m *model) lookup(mac packet.MAC, now int64) (Nexthop, bool) {
	e := m.get(mac, now, false)
	if e == nil {
		return 0, false
	}
	if now-e.used >= sec {
		e.used = now
	}
	return e.Nexthop, true
}

func (m *model) set(x Entry, now int64, replace bool) error {
	if x.State == 0 {
		return ErrInvalid
	}
	if m.get(x.MAC, now, true) != nil && !replace {
		return ErrExists
	}
	x.Frozen = 0
	m.entries[x.MAC] = &modelEntry{Entry: x, updated: now - int64(x.Updated), used: now - int64(x.Used)}
	return nil
}

func (m *model) remove(mac packet.MAC, now int64) error {
	if m.get(mac, now, true) == nil {
		return ErrNotFound
	}
	delete(m.entries, mac)
	return nil
}

func (m *model) removeAll(match func(*modelEntry) bool) (n int) {
	for mac, e := range m.entries {
		if match(e) {
			delete(m.entries, mac)
			n++
		}
	}
	return n
}

func (m *model) setOwn(mac packet.MAC) {
	m.own = mac
	if e := m.entries[mac]; e != nil && e.State == Dynamic && !mac.IsZero() {
		delete(m.entries, mac)
	}
}

// rig drives a table and a model with the same operations, and moves the table
// to another array slot by slot between them.
type rig struct {
	t      *testing.T
	table  *Table
	model  *model
	mirror map[packet.MAC]Entry // what the events say
	now    int64
	moved  int   // slots copied, if moving
	froze  int   // by the events
	thawed int   // by the events
	swept  int64 // when last
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, mirror: map[packet.MAC]Entry{}, model: &model{entries: map[packet.MAC]*modelEntry{}, damping: true}, now: 1000 * sec, swept: 1000 * sec}
	r.table = NewTable(Options{OnChange: func(e Event) {
		old, there := r.mirror[e.MAC]
		switch e.Kind {
		case EventNew:
			if there {
				t.Errorf("%v of %v, which is there", e.Kind, e.MAC)
			}
		default:
			if !there {
				t.Errorf("%v of %v, which is not there", e.Kind, e.MAC)
			}
		}
		switch e.Kind {
		case EventMoved, EventReplaced:
			if e.From != old.Nexthop {
				t.Errorf("%v of %v from %d, want from %d", e.Kind, e.MAC, e.From, old.Nexthop)
			}
			fallthrough
		case EventNew:
			r.mirror[e.MAC] = Entry{MAC: e.MAC, Nexthop: e.Nexthop, State: e.State, Flags: e.Flags}
		default:
			switch e.Kind {
			case EventFrozen:
				r.froze++
			case EventThawed:
				r.thawed++
			}
			if e.Nexthop != old.Nexthop || e.State != old.State || e.Flags != old.Flags {
				t.Errorf("%v of %v: got %+v, want %+v", e.Kind, e.MAC, e, old)
			}
			if e.Kind != EventFrozen && e.Kind != EventThawed {
				delete(r.mirror, e.MAC)
				r.model.gone = append(r.model.gone, e)
			}
		}
	}})
	return r
}

// mac maps a number to an address: the zero address, groups, and up to 1,000
// stations.
func (r *rig) mac(n int) packet.MAC {
	switch n %= 1024; {
	case n == 0:
		return packet.MAC{}
	case n < 4:
		return packet.MAC{1, 0, 0x5e, 0, 0, byte(n)}
	}
	return number(n)
}

// moveStart and moveStep do what move does, in the rig's time.
func (r *rig) moveStart(larger int) {
	t := r.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.moving {
		t.moving, r.moved = true, 0
		t.startMove(newArray(slotsFor(t.Len()+1) << larger))
	}
}

func (r *rig) moveStep(n int) {
	t := r.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.moving {
		return
	}
	a := t.cur.Load()
	end := min(r.moved+n, len(a.slots))
	t.copySlots(a, r.moved, end)
	if r.moved = end; end == len(a.slots) {
		t.endMove()
	}
}

// room ends a move when a table grown by Learn would have waited for it.
func (r *rig) room() {
	a := r.table.cur.Load()
	n := a.next.Load()
	if int(a.taken.Load())+1 >= limit(len(a.slots)) || n != nil && n.promised+1 >= limit(len(n.slots)) {
		r.moveStep(1 << 30)
	}
}

// do performs one operation, made of four numbers, on both.
func (r *rig) do(op, a, b, c int) {
	r.t.Helper()
	t, m, mac, via := r.table, r.model, r.mac(a), Nexthop(b%5)
	r.room()
	m.gone, m.seesAll = nil, len(t.cur.Load().slots) <= stretch
	if r.now-r.swept > 300*sec { // or what damping remembers has no meaning
		r.sweep()
	}
	switch op % 32 {
	default: // more often than the others
		r.now += int64(c) * int64(time.Millisecond)
		want(r.t, "Learn", t.Learn(mac, via, r.now), m.learn(mac, via, r.now))
	case 0, 1, 2, 3, 4, 5:
		r.now += int64(c) * int64(time.Millisecond)
		gotVia, got := t.Lookup(mac, r.now)
		wantVia, found := m.lookup(mac, r.now)
		want(r.t, "Lookup finds", got, found)
		want(r.t, "Lookup", gotVia, wantVia)
	case 6, 7:
		e := Entry{MAC: mac, Nexthop: via, State: State(c % 4), Flags: Flags(c / 4 % 4), Updated: time.Duration(c%7) * time.Second}
		want(r.t, "Add", t.Add(e, r.now), m.set(e, r.now, false))
	case 8:
		e := Entry{MAC: mac, Nexthop: via, State: State(c % 4), Flags: Flags(c / 4 % 4), Used: time.Duration(c%7) * time.Second}
		want(r.t, "Replace", t.Replace(e, r.now), m.set(e, r.now, true))
	case 9, 10:
		want(r.t, "Delete", t.Delete(mac, r.now), m.remove(mac, r.now))
	case 11:
		if c%4 == 0 {
			want(r.t, "FlushNexthops", t.FlushNexthops(via), m.removeAll(func(e *modelEntry) bool { return e.Nexthop == via }))
		}
	case 12:
		if c%4 == 0 {
			state := State(b%3 + 1)
			want(r.t, "Flush", t.Flush(r.now, func(e Entry) bool { return e.State == state && e.MAC[5]&1 != 0 }),
				m.removeAll(func(e *modelEntry) bool { return e.State == state && e.MAC[5]&1 != 0 && !m.expired(e, r.now) }))
		}
	case 13:
		r.sweep()
	case 14:
		if c%4 == 0 {
			m.limit = a % 2048
			t.SetLimit(m.limit)
		}
	case 15:
		if c%4 == 0 {
			m.ageing = int64(b%40) * sec
			t.SetAgeing(time.Duration(m.ageing))
		}
	case 16:
		if c%4 == 0 {
			m.setOwn(mac)
			t.SetOwn(mac)
		}
	case 22:
		switch {
		case c < 8:
			m.damping = c%4 != 0
			t.SetDamping(m.damping)
		case c < 16:
			r.now += int64(b) * sec
		}
	case 17:
		r.moveStart(c % 3)
	case 18, 19, 20, 21:
		r.moveStep(c)
	}
}

func (r *rig) sweep() {
	r.t.Helper()
	m := r.model
	n := m.removeAll(func(e *modelEntry) bool { return m.expired(e, r.now) })
	m.stats.Aged += uint64(n)
	for _, e := range m.entries {
		m.rest(e, r.now)
	}
	want(r.t, "Sweep", r.table.Sweep(r.now), n)
	r.swept = r.now
}

// check compares all that can be seen.
func (r *rig) check() {
	r.t.Helper()
	t, m := r.table, r.model
	seen := map[packet.MAC]bool{}
	for e := range t.All(r.now) {
		if seen[e.MAC] {
			r.t.Errorf("All yields %v twice", e.MAC)
		}
		seen[e.MAC] = true
		x := m.get(e.MAC, r.now, false)
		if x == nil {
			r.t.Errorf("All yields %+v, want none", e)
			continue
		}
		w := x.Entry
		if m.damping {
			w.Frozen = time.Duration(max(x.frozen-r.now, 0))
		}
		w.Updated, w.Used = time.Duration(r.now-x.updated), time.Duration(r.now-x.used)
		want(r.t, "entry", e, w)
		if got, ok := t.Get(e.MAC, r.now); !ok || got != e {
			r.t.Errorf("Get(%v): got %+v, %t; want %+v", e.MAC, got, ok, e)
		}
	}
	for mac := range m.entries {
		if m.get(mac, r.now, false) != nil && !seen[mac] {
			r.t.Errorf("All does not yield %v", mac)
		}
	}
	want(r.t, "counts", t.Count(), Counts{m.count(Dynamic), m.count(Static), m.count(Permanent)})
	want(r.t, "Len", t.Len(), len(m.entries))
	want(r.t, "stats", t.Stats(), m.stats)
	want(r.t, "frozen by the events", r.froze, int(m.stats.Frozen))
	want(r.t, "thawed by the events", r.thawed, m.thawed)
	for mac, e := range m.entries {
		want(r.t, "mirror of the events", r.mirror[mac], Entry{MAC: mac, Nexthop: e.Nexthop, State: e.State, Flags: e.Flags})
	}
	want(r.t, "length of the mirror", len(r.mirror), len(m.entries))
	// An array holds its keys once each, and counts them.
	for a := t.cur.Load(); a != nil; a = a.next.Load() {
		keys := map[uint64]bool{}
		for i := range a.slots {
			if key := a.slots[i].key.Load(); key != 0 {
				if keys[key] {
					r.t.Errorf("%v has two slots", macOf(key))
				}
				keys[key] = true
			}
		}
		want(r.t, "slots taken", int(a.taken.Load()), len(keys))
	}
}

func TestModel(t *testing.T) {
	runs := 60
	if testing.Short() {
		runs = 10
	}
	for range runs {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 0))
		r := newRig(t)
		addresses := 1 << (2 + rnd.IntN(9)) // few are met often, many make it grow
		for range 4000 {
			r.do(rnd.IntN(32), rnd.IntN(addresses), rnd.IntN(256), rnd.IntN(256))
			if rnd.IntN(200) == 0 {
				r.check()
			}
			if t.Failed() {
				t.Fatalf("seed %d, %d addresses", seed, addresses)
			}
		}
		r.check()
		if t.Failed() {
			t.Fatalf("seed %d, %d addresses", seed, addresses)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{31, 0, 9, 1, 0, 0, 0, 9, 1, 0})
	f.Add([]byte{15, 0, 0, 10, 4, 31, 0, 9, 1, 0, 31, 0, 9, 2, 255, 13, 0, 0, 0, 0})
	f.Add([]byte{17, 0, 0, 0, 1, 31, 0, 9, 1, 0, 18, 0, 0, 0, 4, 31, 0, 9, 2, 0, 18, 0, 0, 0, 255, 9, 0, 9, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		r := newRig(t)
		for ; len(ops) >= 5; ops = ops[5:] {
			r.do(int(ops[0]), int(ops[1])<<8|int(ops[2]), int(ops[3]), int(ops[4]))
		}
		r.check()
	})
}
