package fdb

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"gvtep/internal/packet"
)

// number returns the i-th of a series of unicast addresses in no obvious order.
func number(i int) packet.MAC {
	x := uint32(i) * 2654435761
	return packet.MAC{0x02, byte(i >> 24), byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}
}

// filled returns a table with n dynamic entries.
func filled(n int) *Table {
	t := NewTable(Options{Ageing: 300 * time.Second})
	for i := range n {
		for t.Learn(number(i), Nexthop(i), 0) == Crowded {
			time.Sleep(time.Millisecond)
		}
	}
	return t
}

const million = 1_000_000

func BenchmarkLookupHot(b *testing.B) {
	t := filled(million)
	mac := number(4711)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := t.Lookup(mac, 1); !ok {
			b.Fatal("lost")
		}
	}
}

// shuffled returns the addresses of filled(n) in random order.
func shuffled(n int) []packet.MAC {
	macs := make([]packet.MAC, n)
	for i, j := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		macs[i] = number(j)
	}
	return macs
}

// BenchmarkLookupIndependent looks up random addresses one after the other, as
// the packets of a batch do.
func BenchmarkLookupIndependent(b *testing.B) {
	t := filled(million)
	macs := shuffled(million)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := t.Lookup(macs[i], 1); !ok {
			b.Fatal("lost")
		}
		if i++; i == len(macs) {
			i = 0
		}
	}
	b.ReportMetric(float64(len(t.cur.Load().slots))*32/million, "bytes/entry")
}

// BenchmarkLookupDependent cannot begin a lookup before the last one is done.
func BenchmarkLookupDependent(b *testing.B) {
	t := filled(million)
	macs := shuffled(million)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		via, ok := t.Lookup(macs[i], 1)
		if !ok {
			b.Fatal("lost")
		}
		if i += 1 + int(via>>31); i == len(macs) {
			i = 0
		}
	}
}

func BenchmarkLookupMiss(b *testing.B) {
	t := filled(million)
	b.ReportAllocs()
	i := 2 * million
	for b.Loop() {
		if _, ok := t.Lookup(number(i), 1); ok {
			b.Fatal("found")
		}
		i++
	}
}

func BenchmarkLearnKnown(b *testing.B) {
	t := filled(million)
	mac := number(4711)
	b.ReportAllocs()
	for b.Loop() {
		if r := t.Learn(mac, 4711, 1); r != Known {
			b.Fatal(r)
		}
	}
}

// BenchmarkLearnRefresh stores the time in every call.
func BenchmarkLearnRefresh(b *testing.B) {
	t := filled(million)
	mac := number(4711)
	b.ReportAllocs()
	now := int64(0)
	for b.Loop() {
		now += granule
		if r := t.Learn(mac, 4711, now); r != Known {
			b.Fatal(r)
		}
	}
}

// BenchmarkLearnFlapping is an address that is heard from two places in turn, by
// as many workers as there are processors.
func BenchmarkLearnFlapping(b *testing.B) {
	for _, c := range []struct {
		name      string
		noDamping bool
	}{{"damped", false}, {"undamped", true}} {
		b.Run(c.name, func(b *testing.B) {
			t := NewTable(Options{NoDamping: c.noDamping})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					t.Learn(macB, Nexthop(1+i%2), 1)
				}
			})
		})
	}
}

// BenchmarkLearnNew fills tables from nothing to a million entries, growth
// included.
func BenchmarkLearnNew(b *testing.B) {
	var t *Table
	i, crowded := million, 0
	for b.Loop() {
		if i == million {
			i, t = 0, NewTable(Options{})
		}
		if t.Learn(number(i), 1, 1) == Crowded {
			crowded++
		}
		i++
	}
	b.ReportMetric(float64(crowded)/float64(b.N), "crowded/op")
}

func BenchmarkSweep(b *testing.B) {
	t := filled(million)
	for b.Loop() {
		t.Sweep(1)
	}
}

// BenchmarkLearnPaced learns 200,000 new addresses a second, growth from nothing
// included, and reports how many found no room at first and how long calls of
// Learn took, while a reader looks up what was learned at the same pace: all of
// it has to be found where it was learned. ns/op is of Learn.
func BenchmarkLearnPaced(b *testing.B) {
	const burst = 200 // each millisecond
	t := NewTable(Options{})
	var learned atomic.Int64 // all addresses below are
	stop, done := make(chan struct{}), make(chan struct{})
	lookups, lost := 0, 0
	go func() {
		defer close(done)
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			for range burst {
				top := int(learned.Load())
				if top == 0 {
					break
				}
				i := top - 1 - rnd.IntN(top)>>rnd.IntN(12) // the newest are the likeliest to be lost
				lookups++
				if via, ok := t.Lookup(number(i), 1); !ok || via != Nexthop(i) {
					if lost++; lost < 10 {
						b.Errorf("Lookup of address %d of %d: got %d, %t", i, top, via, ok)
					}
				}
			}
		}
	}()
	took := make([]time.Duration, b.N)
	var total time.Duration
	crowded := 0
	next := time.Now()
	for i := range b.N {
		if i%burst == 0 {
			time.Sleep(time.Until(next))
			next = next.Add(time.Millisecond)
		}
		start := time.Now()
		r := t.Learn(number(i), Nexthop(i), 1)
		took[i] = time.Since(start)
		total += took[i]
		for r == Crowded {
			crowded++
			time.Sleep(10 * time.Microsecond) // until its next frame
			r = t.Learn(number(i), Nexthop(i), 1)
		}
		if r != New {
			b.Fatalf("Learn of address %d: got %v, want new", i, r)
		}
		learned.Store(int64(i + 1))
	}
	close(stop)
	<-done
	slices.Sort(took)
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(took[b.N*9999/10000].Nanoseconds())/1000, "p99.99-us")
	b.ReportMetric(float64(took[b.N-1].Nanoseconds())/1000, "max-us")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "learned/s")
	b.ReportMetric(float64(lookups), "lookups")
	b.ReportMetric(float64(lost), "lost")
	b.ReportMetric(float64(crowded), "crowded")
}
