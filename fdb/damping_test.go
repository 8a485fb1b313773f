package fdb

import (
	"slices"
	"sync"
	"testing"
	"time"

	"gvtep/internal/packet"
)

// TestDamping hears one address at one place after the other.
func TestDamping(t *testing.T) {
	const ms = int64(time.Millisecond)
	type heard struct {
		at   int64
		via  Nexthop
		want Result
	}
	five := []heard{{0, 1, New}, {100 * ms, 2, Moved}, {200 * ms, 1, Moved}, {300 * ms, 2, Moved}, {400 * ms, 1, Moved}, {500 * ms, 2, Moved}}
	for _, c := range []struct {
		name   string
		entry  Entry // there beforehand, if it has a state
		ageing time.Duration
		off    bool
		heard  []heard
		frozen time.Duration // at the end
		events []EventKind   // other than new and moved
	}{
		{name: "four moves", heard: append(five[:5:5], heard{400 * ms, 1, Known})},
		{name: "five moves", heard: append(five[:6:6], heard{600 * ms, 1, Damped}, heard{600 * ms, 3, Damped}, heard{600 * ms, 2, Known}),
			frozen: 30*time.Second + 400*time.Millisecond, events: []EventKind{EventFrozen}},
		{name: "local and remote", heard: []heard{{0, Local, New}, {1, 2, Moved}, {2, Local, Moved}, {3, 2, Moved}, {4, Local, Moved}, {5, 2, Moved}, {6, Local, Damped}, {7, 2, Known}},
			frozen: 31*time.Second - 7, events: []EventKind{EventFrozen}},
		{name: "never the same place", heard: []heard{{0, 1, New}, {0, 2, Moved}, {0, 3, Moved}, {0, 4, Moved}, {0, 5, Moved}, {0, 6, Moved}, {0, 7, Damped}, {0, 6, Known}},
			frozen: 31 * time.Second, events: []EventKind{EventFrozen}},
		{name: "the fifth within 180 s", heard: append(five[:5:5], heard{180*sec - 1, 2, Moved}, heard{180 * sec, 1, Damped}),
			frozen: 30 * time.Second, events: []EventKind{EventFrozen}},
		{name: "the fifth after 180 s", heard: append(five[:5:5], heard{180 * sec, 2, Moved}, heard{182 * sec, 1, Moved})},
		{name: "a new count after 180 s", heard: append(five[:5:5], heard{181 * sec, 2, Moved}, heard{182 * sec, 1, Moved}, heard{183 * sec, 2, Moved}, heard{184 * sec, 1, Moved}, heard{360 * sec, 2, Moved}, heard{360 * sec, 1, Damped}),
			frozen: 31 * time.Second, events: []EventKind{EventFrozen}},
		{name: "frozen to the end", heard: append(five[:6:6], heard{31*sec - 1, 1, Damped}), frozen: 1, events: []EventKind{EventFrozen}},
		{name: "thaws", heard: append(five[:6:6], heard{31 * sec, 1, Moved}), events: []EventKind{EventFrozen, EventThawed}},
		{name: "freezes again", heard: append(five[:6:6], heard{31 * sec, 1, Moved}, heard{31 * sec, 2, Moved}, heard{31 * sec, 1, Moved}, heard{31 * sec, 2, Moved}, heard{31 * sec, 1, Moved}, heard{31 * sec, 2, Damped}),
			frozen: 31 * time.Second, events: []EventKind{EventFrozen, EventThawed, EventFrozen}},
		{name: "the clock of another worker is behind", heard: append(five[:6:6], heard{-10 * sec, 1, Damped}), frozen: 41 * time.Second, events: []EventKind{EventFrozen}},
		{name: "frozen and silent", ageing: 10 * time.Second, heard: append(five[:6:6], heard{10 * sec, 1, Damped}, heard{11 * sec, 1, New}), events: []EventKind{EventFrozen, EventAged}},
		{name: "off", off: true, heard: append(five[:6:6], heard{600 * ms, 1, Moved}, heard{600 * ms, 2, Moved})},
		{name: "static", entry: Entry{State: Static, Nexthop: 1}, heard: []heard{{0, 2, Pinned}, {0, 3, Pinned}, {0, 2, Pinned}, {0, 3, Pinned}, {0, 2, Pinned}, {0, 3, Pinned}, {0, 1, Known}}},
		{name: "sticky", entry: Entry{State: Dynamic, Flags: Sticky, Nexthop: 1}, heard: []heard{{0, 2, Pinned}, {0, 3, Pinned}, {0, 2, Pinned}, {0, 3, Pinned}, {0, 2, Pinned}, {0, 3, Pinned}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const start = 1000 * sec
			var events []EventKind
			table := NewTable(Options{Ageing: c.ageing, NoDamping: c.off, OnChange: func(e Event) {
				if e.Kind != EventNew && e.Kind != EventMoved {
					events = append(events, e.Kind)
				}
			}})
			want(t, "Damping", table.Damping(), !c.off)
			if c.entry.State != 0 {
				c.entry.MAC = macB
				if err := table.Add(c.entry, start); err != nil {
					t.Fatal(err)
				}
			}
			var last int64
			var damped, frozen uint64
			for i, h := range c.heard {
				before, _ := table.Get(macB, start+h.at)
				if got := table.Learn(macB, h.via, start+h.at); got != h.want {
					t.Errorf("Learn %d, at %v via %d: got %v, want %v", i, time.Duration(h.at), h.via, got, h.want)
				}
				if h.want == Damped {
					wantAt(t, table, macB, before.Nexthop, start+h.at)
					damped++
				}
				last = start + h.at
			}
			e, _ := table.Get(macB, last)
			want(t, "frozen", e.Frozen, c.frozen)
			if !slices.Equal(events, c.events) {
				t.Errorf("events: got %v, want %v", events, c.events)
			}
			for _, k := range c.events {
				if k == EventFrozen {
					frozen++
				}
			}
			want(t, "damped", table.Stats().Damped, damped)
			want(t, "stats: frozen", table.Stats().Frozen, frozen)
		})
	}
}

// freeze makes macB frozen behind nexthop 6 at second 0.
func freeze(t *testing.T, table *Table) {
	t.Helper()
	for i := range DampMoves + 1 {
		table.Learn(macB, Nexthop(1+i), 0)
	}
	want(t, "frozen", table.Learn(macB, 1, 0), Damped)
}

func TestThaw(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Table)
		want Event // what is told
		next Result
	}{
		{"swept too early", func(table *Table) { table.Sweep(31*sec - 1) }, Event{}, Damped},
		{"swept", func(table *Table) { table.Sweep(31 * sec) }, Event{Kind: EventThawed, MAC: macB, Nexthop: 6, State: Dynamic}, Moved},
		{"off", func(table *Table) { table.SetDamping(false) }, Event{}, Moved},
		{"off and swept", func(table *Table) { table.SetDamping(false); table.Sweep(0) }, Event{Kind: EventThawed, MAC: macB, Nexthop: 6, State: Dynamic}, Moved},
		{"off, swept and on", func(table *Table) { table.SetDamping(false); table.Sweep(0); table.SetDamping(true) }, Event{Kind: EventThawed, MAC: macB, Nexthop: 6, State: Dynamic}, Moved},
		{"deleted", func(table *Table) { table.Delete(macB, 0) }, Event{Kind: EventDeleted, MAC: macB, Nexthop: 6, State: Dynamic}, New},
		{"replaced", func(table *Table) { table.Replace(Entry{MAC: macB, Nexthop: 9, State: Dynamic}, 0) }, Event{Kind: EventReplaced, MAC: macB, Nexthop: 9, From: 6, State: Dynamic}, Moved},
	} {
		t.Run(c.name, func(t *testing.T) {
			var last Event
			table := NewTable(Options{OnChange: func(e Event) { last = e }})
			freeze(t, table)
			last = Event{}
			c.do(table)
			want(t, "event", last, c.want)
			want(t, "Learn", table.Learn(macB, 1, 0), c.next)
		})
	}
}

// TestFrozenSinceAMomentAgo: a worker that asked before the address froze gets to
// the lock after.
func TestFrozenSinceAMomentAgo(t *testing.T) {
	table := NewTable(Options{})
	freeze(t, table)
	key := keyOf(macB)
	want(t, "learn", table.learn(key, table.hasher.hash(key), 1, 0), Damped)
	wantAt(t, table, macB, 6, 0)
	want(t, "damped", table.Stats().Damped, 2)
}

// TestFlagsStayInPlace: flags that do not exist are no strikes.
func TestFlagsStayInPlace(t *testing.T) {
	table := NewTable(Options{})
	want(t, "Add", table.Add(Entry{MAC: macB, Nexthop: 5, State: Dynamic, Flags: 0xff}, 0), nil)
	e, _ := table.Get(macB, 0)
	want(t, "entry", e, Entry{MAC: macB, Nexthop: 5, State: Dynamic, Flags: Sticky | ExternLearn})
}

// TestThawedInBothArrays sweeps while the table moves to another array.
func TestThawedInBothArrays(t *testing.T) {
	table := NewTable(Options{})
	freeze(t, table)
	a := table.cur.Load()
	table.moving = true
	table.startMove(newArray(minSlots))
	table.copySlots(a, 0, len(a.slots))
	table.Sweep(31 * sec)
	table.endMove()
	// So long after that the second in which it froze has come round again.
	want(t, "Learn", table.Learn(macB, 1, 512*sec), Moved)
}

// TestStrikesDoNotComeBack: what is older than a round of since is forgotten.
func TestStrikesDoNotComeBack(t *testing.T) {
	table := NewTable(Options{})
	table.Learn(macB, 1, 0)
	for i := range int64(20) {
		now := i * 512 * sec
		table.Sweep(now)
		want(t, "Learn", table.Learn(macB, Nexthop(2+i), now), Moved)
		table.Sweep(now + 200*sec)
	}
	e, _ := table.Get(macB, 20*512*sec)
	want(t, "moves", e.Moves, 20)
}

// TestFlapping lets two workers fight for one address. It moves five times and
// no more, and everybody is told once.
func TestFlapping(t *testing.T) {
	const rounds = 20_000
	kinds := map[EventKind]int{}
	table := NewTable(Options{OnChange: func(e Event) { kinds[e.Kind]++ }})
	var wg sync.WaitGroup
	for id := range 2 {
		wg.Go(func() {
			for range rounds {
				table.Learn(macB, Nexthop(1+id), 7*sec)
			}
			for range rounds { // by itself, if it had no opponent
				table.Learn(macB, Nexthop(1+id), 7*sec)
				table.Learn(macB, Nexthop(3+id), 7*sec)
			}
		})
	}
	wg.Wait()
	s := table.Stats()
	want(t, "moved", s.Moved, DampMoves)
	want(t, "frozen", s.Frozen, 1)
	want(t, "told", kinds[EventMoved], DampMoves)
	want(t, "told frozen", kinds[EventFrozen], 1)
	want(t, "told thawed", kinds[EventThawed], 0)
	if s.Damped < rounds {
		t.Errorf("damped: got %d, want at least %d", s.Damped, rounds)
	}
}

// TestGroups: a group or the zero address can be set by hand, to a nexthop that
// stands for several peers, and is never learned.
func TestGroups(t *testing.T) {
	for _, mac := range []packet.MAC{{1, 0, 0x5e, 0, 0, 5}, {0x33, 0x33, 0, 0, 0, 1}, {255, 255, 255, 255, 255, 255}, {}} {
		table := NewTable(Options{Limit: 1, Ageing: 10 * time.Second})
		want(t, "Learn", table.Learn(mac, 1, 0), Ignored)
		wantGone(t, table, mac, 0)
		for _, state := range []State{Static, Permanent} {
			want(t, "Add", table.Add(Entry{MAC: mac, Nexthop: 7, State: state}, 0), nil)
			want(t, "Add again", table.Add(Entry{MAC: mac, Nexthop: 8, State: state}, 0), ErrExists)
			want(t, "Replace", table.Replace(Entry{MAC: mac, Nexthop: 9, State: state}, 0), nil)
			want(t, "Learn over it", table.Learn(mac, 1, 0), Ignored)
			wantAt(t, table, mac, 9, 1000*sec)
			want(t, "Sweep", table.Sweep(1000*sec), 0)
			n := 0
			for e := range table.All(0) {
				want(t, "All", e, Entry{MAC: mac, Nexthop: 9, State: state})
				n++
			}
			want(t, "entries", n, 1)
			want(t, "Delete", table.Delete(mac, 0), nil)
			wantGone(t, table, mac, 0)
		}
	}
}
