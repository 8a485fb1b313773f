package fdb

import (
	"slices"
	"testing"
	"time"

	"gvtep/internal/packet"
)

const sec = int64(time.Second)

var (
	macA   = packet.MAC{2, 0, 0, 0, 0x0a, 1}
	macB   = packet.MAC{2, 0, 0, 0, 0x0b, 2}
	macOwn = packet.MAC{2, 0, 0, 0, 0, 0xff}
)

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// wantAt demands that mac is found behind via.
func wantAt(t *testing.T, table *Table, mac packet.MAC, via Nexthop, now int64) {
	t.Helper()
	if got, ok := table.Lookup(mac, now); !ok || got != via {
		t.Errorf("Lookup(%v) at %v: got %d, %t; want %d", mac, time.Duration(now), got, ok, via)
	}
}

func wantGone(t *testing.T, table *Table, mac packet.MAC, now int64) {
	t.Helper()
	if got, ok := table.Lookup(mac, now); ok {
		t.Errorf("Lookup(%v) at %v: got %d, want none", mac, time.Duration(now), got)
	}
}

func TestLearn(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry Entry // there beforehand, if it has a state
		mac   packet.MAC
		via   Nexthop
		want  Result
		after Entry // zero: not found
	}{
		{name: "new", mac: macB, via: 5, want: New, after: Entry{MAC: macB, Nexthop: 5, State: Dynamic}},
		{name: "new behind the device", mac: macB, via: Local, want: New, after: Entry{MAC: macB, State: Dynamic}},
		{name: "known", entry: Entry{MAC: macB, Nexthop: 5, State: Dynamic}, mac: macB, via: 5, want: Known, after: Entry{MAC: macB, Nexthop: 5, State: Dynamic}},
		{name: "remote to remote", entry: Entry{MAC: macB, Nexthop: 5, State: Dynamic}, mac: macB, via: 6, want: Moved, after: Entry{MAC: macB, Nexthop: 6, State: Dynamic, Moves: 1}},
		{name: "remote to local", entry: Entry{MAC: macB, Nexthop: 5, State: Dynamic}, mac: macB, via: Local, want: Moved, after: Entry{MAC: macB, State: Dynamic, Moves: 1}},
		{name: "local to remote", entry: Entry{MAC: macB, State: Dynamic}, mac: macB, via: 5, want: Moved, after: Entry{MAC: macB, Nexthop: 5, State: Dynamic, Moves: 1}},
		{name: "moves do not wrap", entry: Entry{MAC: macB, State: Dynamic, Moves: 65535}, mac: macB, via: 5, want: Moved, after: Entry{MAC: macB, Nexthop: 5, State: Dynamic, Moves: 65535}},
		{name: "static in place", entry: Entry{MAC: macB, Nexthop: 5, State: Static}, mac: macB, via: 5, want: Known, after: Entry{MAC: macB, Nexthop: 5, State: Static}},
		{name: "static elsewhere", entry: Entry{MAC: macB, Nexthop: 5, State: Static}, mac: macB, via: 6, want: Pinned, after: Entry{MAC: macB, Nexthop: 5, State: Static}},
		{name: "permanent elsewhere", entry: Entry{MAC: macB, Nexthop: 5, State: Permanent}, mac: macB, via: Local, want: Pinned, after: Entry{MAC: macB, Nexthop: 5, State: Permanent}},
		{name: "sticky elsewhere", entry: Entry{MAC: macB, Nexthop: 5, State: Dynamic, Flags: Sticky}, mac: macB, via: 6, want: Pinned, after: Entry{MAC: macB, Nexthop: 5, State: Dynamic, Flags: Sticky}},
		{name: "extern_learn elsewhere", entry: Entry{MAC: macB, Nexthop: 5, State: Dynamic, Flags: ExternLearn}, mac: macB, via: 6, want: Moved, after: Entry{MAC: macB, Nexthop: 6, State: Dynamic, Moves: 1}},
		{name: "group", mac: packet.MAC{3, 0, 0, 0, 0x0b, 2}, via: 5, want: Ignored},
		{name: "broadcast", mac: packet.MAC{255, 255, 255, 255, 255, 255}, via: 5, want: Ignored},
		{name: "zero", mac: packet.MAC{}, via: 5, want: Ignored},
		{name: "own", mac: macOwn, via: 5, want: Own},
		{name: "own behind the device", mac: macOwn, via: Local, want: Own},
		{name: "own set by hand", entry: Entry{MAC: macOwn, State: Static}, mac: macOwn, via: 5, want: Own, after: Entry{MAC: macOwn, State: Static}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable(Options{Limit: 100, Ageing: 300 * time.Second, Own: macOwn})
			if c.entry.State != 0 {
				if err := table.Add(c.entry, 0); err != nil {
					t.Fatal(err)
				}
			}
			want(t, "Learn", table.Learn(c.mac, c.via, 0), c.want)
			got, _ := table.Get(c.mac, 0)
			want(t, "entry", got, c.after)
			via, ok := table.Lookup(c.mac, 0)
			want(t, "Lookup finds", ok, c.after.State != 0)
			want(t, "Lookup", via, c.after.Nexthop)
		})
	}
}

func TestAgeing(t *testing.T) {
	for _, c := range []struct {
		name   string
		ageing time.Duration
		entry  Entry
		heard  []time.Duration // when frames came from the address
		alive  time.Duration   // still found
		gone   time.Duration   // no longer found; 0: never
	}{
		{name: "silent", ageing: 300 * time.Second, alive: 299999 * time.Millisecond, gone: 300 * time.Second},
		{name: "heard again", ageing: 300 * time.Second, heard: []time.Duration{200 * time.Second}, alive: 499 * time.Second, gone: 500 * time.Second},
		{name: "heard within a second is not stored", ageing: 10 * time.Second, heard: []time.Duration{999 * time.Millisecond}, alive: 9999 * time.Millisecond, gone: 10 * time.Second},
		// An eighth of 2 s is 250 ms: 300, 600 and 900 are stored.
		{name: "heard every 100 ms", ageing: 2 * time.Second, heard: []time.Duration{100e6, 200e6, 300e6, 400e6, 500e6, 600e6, 700e6, 800e6, 900e6, 1000e6}, alive: 2899 * time.Millisecond, gone: 2900 * time.Millisecond},
		{name: "never", ageing: 0, alive: 1e6 * time.Second},
		{name: "static", ageing: time.Second, entry: Entry{State: Static}, alive: 1e6 * time.Second},
		{name: "permanent", ageing: time.Second, entry: Entry{State: Permanent}, alive: 1e6 * time.Second},
		{name: "extern_learn", ageing: time.Second, entry: Entry{State: Dynamic, Flags: ExternLearn}, alive: 1e6 * time.Second},
		{name: "sticky", ageing: time.Second, entry: Entry{State: Dynamic, Flags: Sticky}, alive: 999 * time.Millisecond, gone: time.Second},
		{name: "restored with its age", ageing: 300 * time.Second, entry: Entry{State: Dynamic, Updated: 100 * time.Second}, alive: 199 * time.Second, gone: 200 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			const start = 1000 * sec
			table := NewTable(Options{Ageing: c.ageing})
			if c.entry.State != 0 {
				c.entry.MAC, c.entry.Nexthop = macB, 5
				if err := table.Add(c.entry, start); err != nil {
					t.Fatal(err)
				}
			} else {
				want(t, "first Learn", table.Learn(macB, 5, start), New)
			}
			for _, d := range c.heard {
				want(t, "Learn at "+d.String(), table.Learn(macB, 5, start+int64(d)), Known)
			}
			// Frames towards the address do not keep it alive.
			for d := time.Duration(0); d < min(c.alive, 500*time.Second); d += 500 * time.Millisecond {
				wantAt(t, table, macB, 5, start+int64(d))
			}
			wantAt(t, table, macB, 5, start+int64(c.alive))
			want(t, "swept while alive", table.Sweep(start+int64(c.alive)), 0)
			if c.gone == 0 {
				return
			}
			gone := start + int64(c.gone)
			wantGone(t, table, macB, gone)
			if _, ok := table.Get(macB, gone); ok {
				t.Error("Get finds an expired entry")
			}
			for e := range table.All(gone) {
				t.Errorf("All yields an expired entry: %+v", e)
			}
			want(t, "Delete", table.Delete(macA, gone), ErrNotFound)
			want(t, "swept", table.Sweep(gone), 1)
			want(t, "Len", table.Len(), 0)
			want(t, "aged", table.Stats().Aged, 1)
		})
	}
}

// TestEarlyAtMost bounds how much too early an entry can go, frames coming at
// any distance.
func TestEarlyAtMost(t *testing.T) {
	for _, ageing := range []time.Duration{time.Second, 2 * time.Second, 10 * time.Second, 300 * time.Second} {
		for _, every := range []time.Duration{time.Millisecond, 90 * time.Millisecond, 333 * time.Millisecond, 700 * time.Millisecond} {
			table := NewTable(Options{Ageing: ageing})
			var last int64
			for now := int64(0); now < 20*sec; now += int64(every) {
				if r := table.Learn(macB, 5, now); r != Known && now > 0 {
					t.Fatalf("ageing %v, a frame every %v: Learn at %v got %v, want known", ageing, every, time.Duration(now), r)
				}
				last = now
			}
			allowed := min(time.Second, ageing/8)
			wantAt(t, table, macB, 5, last+int64(ageing-allowed))
			wantGone(t, table, macB, last+int64(ageing))
		}
	}
}

func TestExpiredIsLearnedAnew(t *testing.T) {
	var events []EventKind
	table := NewTable(Options{Limit: 1, Ageing: 10 * time.Second, OnChange: func(e Event) { events = append(events, e.Kind) }})
	want(t, "first", table.Learn(macB, 5, 0), New)
	want(t, "expired, elsewhere", table.Learn(macB, 6, 10*sec), New)
	wantAt(t, table, macB, 6, 10*sec)
	e, _ := table.Get(macB, 10*sec)
	want(t, "moves", e.Moves, 0)
	want(t, "Delete of an expired one", table.Delete(macB, 20*sec), ErrNotFound)
	want(t, "Len", table.Len(), 0)
	if w := []EventKind{EventNew, EventAged, EventNew, EventAged}; !slices.Equal(events, w) {
		t.Errorf("events: got %v, want %v", events, w)
	}
}

func TestLimit(t *testing.T) {
	table := NewTable(Options{Limit: 2, Ageing: 300 * time.Second})
	for i := range 5 {
		if err := table.Add(Entry{MAC: number(100 + i), Nexthop: 9, State: Static}, 0); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "first", table.Learn(number(1), 5, 0), New)
	want(t, "second", table.Learn(number(2), 5, 0), New)
	want(t, "third", table.Learn(number(3), 5, 0), Full)
	want(t, "known when full", table.Learn(number(1), 5, 2*sec), Known)
	want(t, "move when full", table.Learn(number(2), 6, 2*sec), Moved)
	wantGone(t, table, number(3), 2*sec)
	table.SetLimit(3)
	want(t, "third with more room", table.Learn(number(3), 5, 2*sec), New)
	table.SetLimit(1)
	want(t, "entries above a lower limit", table.Count(), Counts{Dynamic: 3, Static: 5})
	want(t, "known above a lower limit", table.Learn(number(3), 5, 2*sec), Known)
	want(t, "fourth", table.Learn(number(4), 5, 2*sec), Full)
	want(t, "swept", table.Sweep(302*sec), 3)
	want(t, "after the sweep", table.Learn(number(4), 5, 302*sec), New)
	table.SetLimit(0)
	for i := range 1000 {
		want(t, "without limit", table.Learn(number(1000+i), 5, 302*sec), New)
	}
	want(t, "stats", table.Stats(), Stats{Learned: 1004, Moved: 1, Aged: 3, Full: 2})
}

// TestCrowded stops a move halfway. Addresses that then find no room are not
// counted as those that are over the limit, and are learned once it has gone on.
func TestCrowded(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit int // 0: none
		there int // when the move begins
		room  int // new addresses that are learned meanwhile
		want  Result
		stats Stats
	}{
		// 1/8 of 8192 slots lie between a crowded array and one without room.
		{"no limit", 0, 6144, 1024, Crowded, Stats{Learned: 7168, Crowded: 500}},
		{"far from the limit", 10_000, 6144, 1024, Crowded, Stats{Learned: 7168, Crowded: 500}},
		{"at the limit", 7168, 6144, 1024, Full, Stats{Learned: 7168, Full: 500}},
		{"before the limit", 6500, 6144, 356, Full, Stats{Learned: 6500, Full: 500}},
		// The new array, of 16 slots, takes 14.
		{"to a smaller array", 0, 10, 4, Crowded, Stats{Learned: 6004, Crowded: 500}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable(Options{Limit: c.limit})
			learn := func(from, to int, r Result) {
				t.Helper()
				for i := from; i < to; i++ {
					if got := table.Learn(number(i), 1, 0); got != r {
						t.Fatalf("Learn of address %d: got %v, want %v", i, got, r)
					}
				}
			}
			n := max(c.there, 6000) // in 8192 slots
			learn(0, n, New)
			for i := c.there; i < n; i++ {
				want(t, "Delete", table.Delete(number(i), 0), nil)
			}
			a := table.cur.Load()
			table.mu.Lock()
			table.moving = true
			table.startMove(newArray(slotsFor(table.Len() + 1)))
			table.mu.Unlock()
			learn(n, n+c.room, New)
			learn(n+c.room, n+c.room+500, c.want)
			want(t, "stats", table.Stats(), c.stats)
			learn(0, c.there, Known)
			table.copySlots(a, 0, len(a.slots))
			table.mu.Lock()
			table.endMove()
			table.mu.Unlock()
			table.SetLimit(0)
			learn(n+c.room, n+c.room+500, New)
			learn(0, c.there, Known)
			learn(n, n+c.room, Known)
		})
	}
}

func TestVerbs(t *testing.T) {
	table := NewTable(Options{Ageing: 300 * time.Second})
	b := Entry{MAC: macB, Nexthop: 5, State: Static}
	want(t, "Delete of none", table.Delete(macB, 0), ErrNotFound)
	want(t, "Add", table.Add(b, 0), nil)
	want(t, "Add again", table.Add(b, 0), ErrExists)
	want(t, "Add without state", table.Add(Entry{MAC: macA}, 0), ErrInvalid)
	b.Nexthop, b.State = 6, Permanent
	want(t, "Replace", table.Replace(b, 0), nil)
	want(t, "counts", table.Count(), Counts{Permanent: 1})
	wantAt(t, table, macB, 6, 0)
	want(t, "Replace of none", table.Replace(Entry{MAC: macA, Nexthop: 7, State: Dynamic}, 0), nil)
	wantAt(t, table, macA, 7, 0)
	want(t, "Add of the zero address", table.Add(Entry{Nexthop: 8, State: Permanent}, 0), nil)
	wantAt(t, table, packet.MAC{}, 8, 0)
	want(t, "Delete", table.Delete(packet.MAC{}, 0), nil)
	wantGone(t, table, packet.MAC{}, 0)
	want(t, "flush by nexthop", table.FlushNexthops(6), 1)
	wantGone(t, table, macB, 0)
	wantAt(t, table, macA, 7, 0)
	want(t, "flush of what is not there", table.Flush(0, func(e Entry) bool { return e.State == Static }), 0)
	want(t, "flush all", table.Flush(0, nil), 1)
	want(t, "Len", table.Len(), 0)
}

// TestFlushAcrossMove replaces the array in the middle of a flush: what was there
// when the flush began goes all the same.
func TestFlushAcrossMove(t *testing.T) {
	for _, after := range []int{1, 100, 400, 700} {
		table := filled(1000)
		calls, moved := 0, false
		n := table.Flush(1, func(Entry) bool {
			calls++
			if calls >= after && !moved && table.mu.TryLock() { // between two holds of the lock
				moved, table.moving = true, true
				table.mu.Unlock()
				table.move()
			}
			return true
		})
		if n != 1000 || table.Len() != 0 || !moved {
			t.Errorf("move after %d calls (%t): got %d flushed and %d left, want 1000 and none", after, moved, n, table.Len())
		}
	}
}

func TestUsed(t *testing.T) {
	table := NewTable(Options{})
	table.Learn(macB, 5, 0)
	table.Lookup(macB, 7*sec)
	e, _ := table.Get(macB, 10*sec)
	want(t, "used", e.Used, 3*time.Second)
	want(t, "updated", e.Updated, 10*time.Second)
}

func TestSetOwn(t *testing.T) {
	table := NewTable(Options{})
	table.Learn(macA, 5, 0)
	table.Add(Entry{MAC: macB, Nexthop: 5, State: Static}, 0)
	table.SetOwn(macA)
	wantGone(t, table, macA, 0)
	want(t, "own", table.Learn(macA, 5, 0), Own)
	table.SetOwn(macB)
	wantAt(t, table, macB, 5, 0)
	want(t, "no longer own", table.Learn(macA, 5, 0), New)
	// A worker that asked before the address was set gets to the lock after.
	table.SetOwn(number(1))
	want(t, "own since a moment ago", table.learn(keyOf(number(1)), table.hasher.hash(keyOf(number(1))), 5, 0), Own)
	wantGone(t, table, number(1), 0)
	table.SetOwn(packet.MAC{})
	want(t, "none is own", table.Learn(macB, 5, 0), Known)
}

// TestSeries fills arrays with addresses as people and attackers number them,
// under many secrets. Searches must be about as short as for random addresses
// under each: the bounds are twice what was measured over 400 secrets.
func TestSeries(t *testing.T) {
	const n, size = 3000, 4096
	for _, c := range []struct {
		name string
		mac  func(i uint64) uint64
	}{
		{"counted up", func(i uint64) uint64 { return 0x02<<40 + i }},
		{"in steps of 256", func(i uint64) uint64 { return 0x02<<40 + i<<8 }},
		{"in steps of 65536", func(i uint64) uint64 { return 0x02<<40 + i<<16 }},
		{"in steps of a prime", func(i uint64) uint64 { return 0x02<<40 + i*1000003 }},
		{"high bits", func(i uint64) uint64 { return i << 24 &^ (1 << 40) }},
	} {
		worst, longest := 0.0, 0
		for range 100 {
			h, a := newHasher(), newArray(size)
			for i := range uint64(n) {
				a.claim(keyOf(macOf(c.mac(i))), h.hash(keyOf(macOf(c.mac(i)))))
			}
			total := 0
			for i := range a.slots {
				if key := a.slots[i].key.Load(); key != 0 {
					d := (i - int(h.hash(key)>>a.shift)) & (size - 1)
					total, longest = total+d, max(longest, d)
				}
			}
			worst = max(worst, float64(total)/n)
		}
		if worst > 4 || longest > 400 {
			t.Errorf("%s: got searches of %.1f slots beyond the first on average, %d at most; want up to 4 and 400", c.name, worst, longest)
		}
	}
}

// settled waits for a move in the background and returns the array.
func (t *Table) settled() *array {
	for {
		t.mu.Lock()
		moving := t.moving
		t.mu.Unlock()
		if !moving {
			return t.cur.Load()
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNoAllocs(t *testing.T) {
	table := filled(1000)
	table.SetAgeing(0)
	mac, frozen := number(7), number(8)
	for i := range DampMoves {
		table.Learn(frozen, Nexthop(100+i), 0)
	}
	now := int64(0)
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"Lookup", func() { table.Lookup(mac, 1) }},
		{"Lookup that stores the time", func() { now += 2 * sec; table.Lookup(mac, now%(100*sec)) }},
		{"Lookup of none", func() { table.Lookup(macB, 1) }},
		{"Learn known", func() { table.Learn(mac, 7, 1) }},
		{"Learn refresh", func() { now += 2 * sec; table.Learn(mac, 7, now) }},
		{"Learn moved", func() { now += 2 * int64(DampWindow); table.Learn(mac, Nexthop(now/int64(DampWindow)), now) }},
		{"Learn damped", func() { want(t, "Learn", table.Learn(frozen, 1, 1), Damped) }},
		{"Get", func() { table.Get(mac, 1) }},
		{"Sweep", func() { table.Sweep(1) }},
	} {
		if n := testing.AllocsPerRun(100, c.run); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", c.name, n)
		}
	}
}

// TestHeardElsewhere: those who carry known addresses beside the table keep entries alive
// and used, and neither make nor move nor rejuvenate one.
func TestHeardElsewhere(t *testing.T) {
	table := NewTable(Options{Ageing: 10 * time.Second})
	table.Heard(macB, 5, 0)
	want(t, "entries made", table.Len(), 0)
	table.Learn(macB, 5, 0)
	table.Heard(macB, 6, 9*sec) // from elsewhere: not its entry
	wantGone(t, table, macB, 10*sec)
	table.Heard(macB, 5, 9*sec)
	wantAt(t, table, macB, 5, 18*sec)
	table.Heard(macB, 5, 3*sec) // older than what is known
	wantAt(t, table, macB, 5, 18*sec)
	wantGone(t, table, macB, 19*sec)
	table.Learn(macA, 5, 20*sec)
	table.Used(macA, 5, 25*sec)
	if e, _ := table.Get(macA, 26*sec); e.Used != time.Second || e.Updated != 6*time.Second {
		t.Errorf("used %v ago, heard %v ago, want 1s and 6s", e.Used, e.Updated)
	}
}
