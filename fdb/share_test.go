package fdb

import (
	"math/rand/v2"
	"testing"
	"time"
)

// learnMany has via learn n addresses from the first on, and returns how many were taken.
func learnMany(table *Table, via Nexthop, first, n int, now int64) (taken int) {
	for i := range n {
		if table.Learn(number(first+i), via, now) == New {
			taken++
		}
	}
	return taken
}

// dynamicOf counts what is behind a nexthop, by looking at all of it.
func dynamicOf(table *Table, via Nexthop, now int64) (n int) {
	for e := range table.All(now) {
		if e.Nexthop == via && e.State == Dynamic {
			n++
		}
	}
	return n
}

// TestShares: one nexthop may use all of the limit, until others want their shares.
func TestShares(t *testing.T) {
	const limit = 1000
	evicted := 0
	table := NewTable(Options{Limit: limit, Ageing: 300 * time.Second, OnChange: func(e Event) {
		if e.Kind == EventEvicted {
			evicted++
		}
	}})
	want(t, "the first peer has room for", learnMany(table, 1, 0, 2000, sec), limit)
	want(t, "then our own side for", learnMany(table, Local, 10_000, 2000, 2*sec), limit/2)
	want(t, "a second peer for", learnMany(table, 2, 20_000, 2000, 3*sec), limit/4)
	want(t, "the first for more", learnMany(table, 1, 30_000, 100, 3*sec), 0)
	want(t, "our own side for more", learnMany(table, Local, 40_000, 100, 3*sec), 0)
	for via, w := range map[Nexthop]int{Local: limit / 2, 1: limit / 4, 2: limit / 4} {
		want(t, "behind one", dynamicOf(table, via, 3*sec), w)
		all, dynamic := table.Behind(via)
		want(t, "counted behind it", all, w)
		want(t, "counted behind it as dynamic", dynamic, w)
	}
	want(t, "Dynamic", table.Count().Dynamic, limit)
	want(t, "evicted", evicted, limit*3/4)
	want(t, "Evicted", table.Stats().Evicted, uint64(limit*3/4))

	// What moves does so as ever, and what goes leaves its place to whoever comes.
	want(t, "a move", table.Learn(number(20_000), Local, 4*sec), Moved)
	want(t, "flushed", table.FlushNexthops(1, 7), limit/4)
	want(t, "our own side for more, with room", learnMany(table, Local, 50_000, 1000, 4*sec), limit/4)
}

// TestSharesSpare: only what was learned makes room, and the longest silent of it first.
func TestSharesSpare(t *testing.T) {
	table := NewTable(Options{Limit: 8, Ageing: 300 * time.Second})
	for i := range 6 {
		flags := []Flags{Sticky, ExternLearn}[i%2]
		if err := table.Add(Entry{MAC: number(i), Nexthop: 1, State: Dynamic, Flags: flags}, sec); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "learned", table.Learn(number(6), 1, sec), New)
	want(t, "learned later", table.Learn(number(7), 1, 100*sec), New)
	want(t, "our own side", table.Learn(number(8), Local, 100*sec), New)
	wantGone(t, table, number(6), 100*sec)
	want(t, "our own side again", table.Learn(number(9), Local, 100*sec), New)
	want(t, "and with nothing learned left", table.Learn(number(10), Local, 100*sec), Full)
	want(t, "Dynamic", table.Count().Dynamic, 8)
}

// TestSharesOfMany: many nexthops that fill the table leave our own side its half.
func TestSharesOfMany(t *testing.T) {
	table := NewTable(Options{Limit: 4096, Ageing: 300 * time.Second})
	for i := range 20_000 {
		table.Learn(number(i), Nexthop(1+rand.IntN(1024)), sec)
	}
	want(t, "full", table.Count().Dynamic, 4096)
	if n := learnMany(table, Local, 100_000, 2048, sec); n < 2000 {
		t.Errorf("our own side has room for %d of 2,048 addresses", n)
	}
	want(t, "Dynamic", table.Count().Dynamic, 4096)
}
