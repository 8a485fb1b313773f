package packet

import (
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// Counter counts for one writer, and is read by anybody. It fills a cache
// line, so that those of several workers can lie side by side.
type Counter struct {
	n atomic.Uint64
	_ [56]byte
}

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Load returns the count.
func (c *Counter) Load() uint64 { return c.n.Load() }

// BatchBounds are the upper bounds of the buckets of Batches but the last,
// which has none.
var BatchBounds = [...]int{1, 2, 4, 8, 16, 32, 64}

// Batches is a histogram of how many packets one system call carried. One
// worker writes, anybody reads.
type Batches struct {
	buckets [len(BatchBounds) + 1]atomic.Uint64
	packets atomic.Uint64
}

// Add counts a batch of n packets, at least one.
func (b *Batches) Add(n int) {
	b.buckets[min(bits.Len(uint(n-1)), len(BatchBounds))].Add(1)
	b.packets.Add(uint64(n))
}

// BatchCounts are the counts of Batches, or the sum of several.
type BatchCounts struct {
	Buckets [len(BatchBounds) + 1]uint64 // not cumulative
	Packets uint64
}

// AddTo adds the counts to c.
func (b *Batches) AddTo(c *BatchCounts) {
	for i := range b.buckets {
		c.Buckets[i] += b.buckets[i].Load()
	}
	c.Packets += b.packets.Load()
}

// Sent is what left from one address, and perhaps one device, by any of the
// source ports there.
type Sent struct {
	Family    int // 4 or 6
	Local     netip.Addr
	Device    string // "": any
	Datagrams uint64
	GSO       bool // runs go out with UDP_SEGMENT
}
