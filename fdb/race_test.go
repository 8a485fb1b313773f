package fdb

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// TestReadersDoNotWait holds the lock that whoever changes the table takes, also
// while a larger array is being filled: what workers do for most packets goes on.
func TestReadersDoNotWait(t *testing.T) {
	moved := Entry{MAC: number(2), Nexthop: 2, State: Dynamic, Moves: 1}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, table *Table)
	}{
		{"Lookup", func(t *testing.T, table *Table) { wantAt(t, table, number(1), 1, 0) }},
		{"Lookup that stores the time", func(t *testing.T, table *Table) { wantAt(t, table, number(1), 1, 5*sec) }},
		{"Lookup of none", func(t *testing.T, table *Table) { wantGone(t, table, macB, 0) }},
		{"Lookup of an expired one", func(t *testing.T, table *Table) { wantGone(t, table, number(1), 10*sec) }},
		{"Learn known", func(t *testing.T, table *Table) { want(t, "Learn", table.Learn(number(1), 1, 0), Known) }},
		{"Learn refresh", func(t *testing.T, table *Table) {
			want(t, "Learn", table.Learn(number(1), 1, 9*sec), Known)
			wantAt(t, table, number(1), 1, 18*sec)
		}},
		{"Learn frozen", func(t *testing.T, table *Table) { want(t, "Learn", table.Learn(macB, 1, 0), Damped) }},
		{"Learn pinned", func(t *testing.T, table *Table) { want(t, "Learn", table.Learn(number(3), 1, 0), Pinned) }},
		{"Learn own", func(t *testing.T, table *Table) { want(t, "Learn", table.Learn(macOwn, 1, 0), Own) }},
		{"Learn without room", func(t *testing.T, table *Table) {
			table.SetLimit(1)
			want(t, "Learn", table.Learn(number(4), 1, 0), Full)
		}},
		{"Get", func(t *testing.T, table *Table) {
			e, _ := table.Get(number(2), 0)
			want(t, "Get", e, moved)
		}},
		{"All", func(t *testing.T, table *Table) {
			for e := range table.All(0) {
				if e.MAC == moved.MAC {
					want(t, "All", e, moved)
				}
			}
		}},
		{"counters", func(t *testing.T, table *Table) {
			table.Stats()
			table.Count()
		}},
	} {
		for _, moving := range []bool{false, true} {
			name := c.name
			if moving {
				name += " while moving"
			}
			t.Run(name, func(t *testing.T) {
				table := NewTable(Options{Ageing: 10 * time.Second, Own: macOwn})
				table.Learn(number(1), 1, 0)
				table.Learn(number(2), 1, 0)
				table.Learn(number(2), 2, 0)
				if err := table.Add(Entry{MAC: number(3), Nexthop: 3, State: Static}, 0); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(c.name, "frozen") {
					freeze(t, table)
				}
				table.mu.Lock()
				if moving {
					table.startMove(newArray(2 * minSlots))
					table.copySlots(table.cur.Load(), 0, minSlots/2) // and not yet the rest
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					c.do(t, table)
				}()
				select {
				case <-done:
				case <-time.After(10 * time.Second):
					t.Error("waits for the lock")
				}
				table.mu.Unlock()
				<-done
			})
		}
	}
}

// TestGrowthUnderReaders grows tables from nothing: an address once learned is
// found at every moment since, where it was learned. In a large one the long
// moves are met, those that Learn makes itself only in many small ones.
func TestGrowthUnderReaders(t *testing.T) {
	for _, c := range []struct {
		name           string
		tables, n, few int // few: addresses with the race detector
	}{{"large", 1, 400_000, 60_000}, {"small", 200, 5000, 200}} {
		t.Run(c.name, func(t *testing.T) {
			if raceEnabled {
				c.n = c.few
			}
			type growing struct {
				table   *Table
				learned atomic.Int64
			}
			var current atomic.Pointer[growing]
			var lookups atomic.Int64
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for id := range 2 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(id), 0))
					for !t.Failed() {
						select {
						case <-stop:
							return
						default:
						}
						for range 1000 {
							g := current.Load()
							if g == nil {
								continue
							}
							top := g.learned.Load()
							if top == 0 {
								continue
							}
							// The newest are the likeliest to be lost.
							i := int(top) - 1 - rnd.IntN(int(top))>>rnd.IntN(12)
							if via, ok := g.table.Lookup(number(i), sec); !ok || via != Nexthop(i) {
								t.Errorf("Lookup of address %d of %d: got %d, %t", i, top, via, ok)
								return
							}
							if r := g.table.Learn(number(i), Nexthop(i), sec); r != Known {
								t.Errorf("Learn of address %d of %d: got %v, want known", i, top, r)
								return
							}
							lookups.Add(1)
						}
					}
				})
			}
			crowded := 0
			for range c.tables {
				g := &growing{table: NewTable(Options{Ageing: 300 * time.Second})}
				current.Store(g)
				for i := range c.n {
					for {
						r := g.table.Learn(number(i), Nexthop(i), 0)
						if r == New {
							break
						}
						if r != Crowded {
							t.Fatalf("Learn of address %d: got %v, want new", i, r)
						}
						crowded++
						runtime.Gosched()
					}
					g.learned.Store(int64(i + 1))
				}
			}
			close(stop)
			wg.Wait()
			table := current.Load().table
			table.settled()
			for i := range c.n {
				wantAt(t, table, number(i), Nexthop(i), sec)
			}
			want(t, "Len", table.Len(), c.n)
			t.Logf("%d addresses, %d slots, %d lookups meanwhile, %d tries without room", c.n, len(table.cur.Load().slots), lookups.Load(), crowded)
		})
	}
}

// TestKnownAtEveryStep moves a table by hand, from the smallest size to a large
// one and back, and stops every so often: what was learned is found where it was
// learned, and new addresses find their way into both arrays.
func TestKnownAtEveryStep(t *testing.T) {
	table := NewTable(Options{})
	first, next := 0, 0 // the addresses that are there are those between
	learn := func(n int) {
		for range n {
			if r := table.Learn(number(next), Nexthop(next), 0); r != New {
				t.Fatalf("Learn of address %d: got %v, want new", next, r)
			}
			next++
		}
	}
	check := func() {
		for i := first; i < next; i++ {
			if via, ok := table.Lookup(number(i), 0); !ok || via != Nexthop(i) {
				t.Fatalf("Lookup of address %d of %d to %d: got %d, %t", i, first, next, via, ok)
			}
			if r := table.Learn(number(i), Nexthop(i), 0); r != Known {
				t.Fatalf("Learn of address %d of %d to %d: got %v, want known", i, first, next, r)
			}
		}
	}
	move := func(more int) {
		a := table.cur.Load()
		table.mu.Lock()
		table.moving = true
		table.startMove(newArray(slotsFor(table.Len() + 1)))
		table.mu.Unlock()
		check()
		const steps = 8
		for i := range steps {
			table.copySlots(a, i*len(a.slots)/steps, (i+1)*len(a.slots)/steps)
			learn(more)
			check()
		}
		table.mu.Lock()
		table.endMove()
		table.mu.Unlock()
		check()
	}
	largest := 1 << 16
	if raceEnabled {
		largest = 1 << 13
	}
	for size := minSlots; size <= largest; size *= 2 {
		want(t, "slots", len(table.cur.Load().slots), size)
		learn(crowded(size) - (next - first)) // the next one would begin a move
		move(size / 8 / 16)
	}
	for table.Len() > 20 {
		for gone := first + (next-first)*3/4; first < gone; first++ {
			want(t, "Delete", table.Delete(number(first), 0), nil)
		}
		size := len(table.cur.Load().slots)
		move(0)
		if got := len(table.cur.Load().slots); got >= size {
			t.Fatalf("slots for %d addresses: got %d, want less than %d", table.Len(), got, size)
		}
	}
}

// TestNoTimeIsLost refreshes addresses every two seconds of their time while the
// table moves from array to array without pause. With an ageing time of
// three, one lost refresh lets the address expire before the next.
func TestNoTimeIsLost(t *testing.T) {
	const each, rounds = 500, 300
	table := NewTable(Options{Ageing: 3 * time.Second})
	var wg sync.WaitGroup
	var done atomic.Int32
	for id := range 2 {
		for i := range each {
			want(t, "Learn", table.Learn(number(id*each+i), 1, 0), New)
		}
		wg.Go(func() {
			defer done.Add(1)
			for round := range rounds {
				now := int64(round+1) * 2 * sec
				for i := range each {
					if r := table.Learn(number(id*each+i), 1, now); r != Known {
						t.Errorf("address %d, round %d: got %v, want known", i, round, r)
						return
					}
				}
			}
		})
	}
	moves := 0
	for ; done.Load() < 2; moves++ {
		table.mu.Lock()
		table.moving = true
		table.mu.Unlock()
		table.move()
	}
	wg.Wait()
	t.Logf("%d moves during %d rounds", moves, rounds)
}

// TestCopyRace writes one slot while it is copied, many times over. However the
// two meet, the copy ends up as the original.
func TestCopyRace(t *testing.T) {
	rounds := 200_000
	if raceEnabled {
		rounds = 3_000
	}
	key := keyOf(macB)
	for _, c := range []struct {
		name  string
		write func(t *Table, a *array, hash uint64, i int64)
	}{
		{"heard", func(t *Table, a *array, hash uint64, i int64) { touch(a, a.find(key, hash), key, hash, updated, i) }},
		{"looked up", func(t *Table, a *array, hash uint64, i int64) { touch(a, a.find(key, hash), key, hash, used, i) }},
		{"moved", func(t *Table, a *array, hash uint64, i int64) {
			t.put(key, hash, makeValue(Nexthop(i), Dynamic, 0, 0), i, i)
		}},
		{"removed", func(t *Table, a *array, hash uint64, i int64) { t.remove(a.find(key, hash), EventDeleted) }},
		{"removed and set", func(t *Table, a *array, hash uint64, i int64) {
			v := value(a.find(key, hash).value.Load())
			t.remove(a.find(key, hash), EventDeleted)
			t.put(key, hash, v, i, i)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable(Options{})
			hash := table.hasher.hash(key)
			table.Learn(macB, 1, 1)
			var begun, ended atomic.Int64
			var current atomic.Pointer[array]
			go func() { // the copier
				for i := int64(1); i <= int64(rounds); i++ {
					for spin := 0; begun.Load() < i; spin++ {
						if spin > 2000 {
							runtime.Gosched()
						}
					}
					a := current.Load()
					home := int(hash >> a.shift)
					table.copySlots(a, home, home+1)
					ended.Store(i)
				}
			}()
			for i := int64(1); i <= int64(rounds); i++ {
				a := newArray(minSlots)
				a.put(key, hash, makeValue(1, Dynamic, 0, 0), 1, 1)
				a.next.Store(newArray(minSlots))
				table.cur.Store(a)
				current.Store(a)
				begun.Store(i)
				// The copier needs some 100 ns to see that it begins: sweep
				// from before its copy to after it.
				for range i % 1021 {
					begun.Load()
				}
				c.write(table, a, hash, i+1)
				for ended.Load() < i {
					runtime.Gosched()
				}
				s := a.find(key, hash)
				d := a.next.Load().find(key, hash)
				if d == nil {
					d = new(slot)
				}
				if v := s.value.Load(); d.value.Load() != v || v != 0 && (d.updated.Load() != s.updated.Load() || d.used.Load() != s.used.Load()) {
					t.Fatalf("round %d: copied value %#x, times %d and %d; want %#x, %d and %d", i,
						d.value.Load(), d.updated.Load(), d.used.Load(), v, s.updated.Load(), s.used.Load())
				}
			}
		})
	}
}

// TestTogether lets everybody at one table. What must hold is that an address
// is only ever found where somebody put it, that a static entry stays, and
// that the books balance in the end.
func TestTogether(t *testing.T) {
	const addresses = 6000 // more than are copied at once
	dur := 2 * time.Second
	if testing.Short() {
		dur = 300 * time.Millisecond
	}
	var events atomic.Int64 // entries there are, by the events
	table := NewTable(Options{Ageing: 100 * time.Millisecond, OnChange: func(e Event) {
		switch e.Kind {
		case EventNew:
			events.Add(1)
		case EventDeleted, EventAged, EventFlushed:
			events.Add(-1)
		}
	}})
	// An address i goes with nexthops that are i modulo 100.
	via := func(i, k int) Nexthop { return Nexthop(k*100 + i%100) }
	static := number(addresses)
	const there, elsewhere = Nexthop(1e6), Nexthop(1e6 + 1) // no flush is for these
	if err := table.Add(Entry{MAC: static, Nexthop: there, State: Static}, 0); err != nil {
		t.Fatal(err)
	}
	var clock atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(dur)
	run := func(pause time.Duration, step func(rnd *rand.Rand, now int64)) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for time.Now().Before(end) && !t.Failed() {
				step(rnd, clock.Load())
				if pause > 0 {
					time.Sleep(pause)
				}
			}
		})
	}
	for range 2 {
		run(0, func(rnd *rand.Rand, now int64) { // workers
			for range 200 {
				i, k := rnd.IntN(addresses)>>rnd.IntN(8), rnd.IntN(50)/49 // some seldom enough to expire
				table.Learn(number(i), via(i, k), now)
				j := rnd.IntN(addresses)
				if got, ok := table.Lookup(number(j), now); ok && int(got)%100 != j%100 {
					t.Errorf("address %d found behind %d, where nobody put it", j, got)
				}
				if r := table.Learn(static, elsewhere, now); r != Pinned {
					t.Errorf("static entry elsewhere: got %v, want pinned", r)
				}
				if got, ok := table.Lookup(static, now); !ok || got != there {
					t.Errorf("static entry: got %d, %t; want %d", got, ok, there)
				}
			}
		})
	}
	run(5*time.Millisecond, func(rnd *rand.Rand, now int64) {
		clock.Add(int64(rnd.IntN(200)) * int64(time.Millisecond))
		table.Sweep(now)
	})
	run(7*time.Millisecond, func(rnd *rand.Rand, now int64) { table.FlushNexthops(via(rnd.IntN(100), 0)) })
	run(40*time.Millisecond, func(rnd *rand.Rand, now int64) {
		table.Flush(now, func(e Entry) bool { return e.State == Dynamic })
	})
	run(time.Millisecond, func(rnd *rand.Rand, now int64) {
		i := rnd.IntN(addresses)
		table.Replace(Entry{MAC: number(i), Nexthop: via(i, 1), State: Dynamic}, now)
		table.Delete(number(rnd.IntN(addresses)), now)
		table.Add(Entry{MAC: number(i), Nexthop: via(i, 2), State: Dynamic}, now)
	})
	run(3*time.Millisecond, func(rnd *rand.Rand, now int64) {
		seen := map[uint64]bool{}
		for e := range table.All(now) {
			if seen[keyOf(e.MAC)] {
				t.Errorf("All yields %v twice", e.MAC)
			}
			seen[keyOf(e.MAC)] = true
		}
		table.SetOwn(number(rnd.IntN(addresses)))
	})
	wg.Wait()
	table.settled()
	n := 0
	for range table.All(-1 << 62) { // before anything expires
		n++
	}
	want(t, "Len", table.Len(), n)
	want(t, "entries by the events", int(events.Load()), n)
	table.Flush(-1<<62, nil)
	want(t, "Len after flushing all", table.Len(), 0)
	table.Sweep(clock.Load())
	// With few dead slots it may keep its size: that is not worth a move (tidy).
	if a := table.cur.Load(); len(a.slots) > minSlots && int(a.taken.Load()) > len(a.slots)/4 {
		t.Errorf("the empty table has %d slots, %d of them dead, want %d", len(a.slots), a.taken.Load(), minSlots)
	}
	t.Logf("%+v", table.Stats())
}

// TestFloodOfAddresses is the attack on a bounded table: it stays as it is.
func TestFloodOfAddresses(t *testing.T) {
	table := NewTable(Options{Limit: 4096, Ageing: 300 * time.Second})
	via := func(i int) Nexthop { return []Nexthop{Local, Local, 1, 2}[i%4] } // each its share
	for i := range 4096 {
		want(t, "Learn", table.Learn(number(i), via(i), 0), New)
	}
	slots := len(table.settled().slots)
	for i := range 1_000_000 {
		if r := table.Learn(number(10_000+i), 2, 0); r != Full {
			t.Fatalf("Learn of address %d: got %v, want full", i, r)
		}
	}
	for i := range 4096 {
		wantAt(t, table, number(i), via(i), 0)
	}
	want(t, "slots", len(table.settled().slots), slots)
}

// TestChurn learns and forgets: leftovers of addresses do not fill the table.
func TestChurn(t *testing.T) {
	table := NewTable(Options{Limit: 1000, Ageing: 10 * time.Second})
	for i := range 100_000 {
		now := int64(i) * sec / 50 // 500 alive
		if r := table.Learn(number(i), 1, now); r != New {
			t.Fatalf("Learn of address %d: got %v, want new", i, r)
		}
		if i%100 == 0 {
			table.Sweep(now)
		}
	}
	if got := len(table.settled().slots); got > 2048 {
		t.Errorf("slots for 500 addresses at a time: got %d, want at most 2048", got)
	}
}

func TestMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the second one frees what a finished move left
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	want(t, "size of a slot", unsafe.Sizeof(slot{}), 32)

	const segments = 4000
	before := heap()
	small := make([]*Table, segments)
	for i := range small {
		small[i] = NewTable(Options{Limit: 4096, Ageing: 300 * time.Second})
		for j := range 10 {
			small[i].Learn(number(j), 1, 0)
		}
	}
	per := float64(heap()-before) / segments
	t.Logf("a table of 10 addresses: %.0f bytes", per)
	if per > 1024 {
		t.Errorf("a table of 10 addresses: got %.0f bytes, want at most 1024", per)
	}
	runtime.KeepAlive(small)
	small = nil

	// The worst sizes are those that have just made the table double.
	for _, n := range []int{1<<17/4*3 + 1, million} {
		if raceEnabled && n == million {
			continue
		}
		before = heap()
		table := filled(n)
		table.settled()
		per = float64(heap()-before) / float64(n)
		t.Logf("%d addresses: %.1f bytes each", n, per)
		if per > 100 {
			t.Errorf("%d addresses: got %.1f bytes each, want at most 100", n, per)
		}
		runtime.KeepAlive(table)
	}
}
