// Package capture copies packets of the workers for whoever wants to see them. Workers write each
// to a ring of its own, without lock, wait or allocation; one reader takes the copies out. A copy
// for which there is no room is not made, and counted.
package capture

import (
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// Point is where on its way a packet is seen.
type Point uint8

// The points.
const (
	OuterIn   Point = iota // datagrams as they come from the underlay
	OuterOut               // datagrams on their way to the underlay
	InnerIn                // frames and super-frames written to a device
	InnerOut               // frames and super-frames read from a device
	Drops                  // what is dropped on either way
	NumPoints = iota
)

// String is the word for it, in the command and as the name of the interface in the file.
func (p Point) String() string {
	return [...]string{"outer-in", "outer-out", "inner-in", "inner-out", "drops"}[p]
}

// Points is a set of points.
type Points uint8

// Of is the set with these points in it.
func Of(points ...Point) (s Points) {
	for _, p := range points {
		s |= 1 << p
	}
	return s
}

// Has reports whether p is in the set.
func (s Points) Has(p Point) bool { return s>>p&1 != 0 }

// Record is one packet, or of Drops perhaps several that there are no bytes of.
type Record struct {
	Time   int64 // ns of the endpoint's clock
	Point  Point
	Reason count.Reason // of Drops
	Out    bool         // on the way from the device to the underlay
	Frame  bool         // Data is a frame, or a packet of an L3 device; else a datagram from the tunnel header on
	IP     bool         // Frame: there is no Ethernet header
	TOS    uint8        // of a datagram; outgoing also TTL, 0: the default of the host
	TTL    uint8
	VLAN   uint16 // of a trunk, which the frame itself may no longer have; 0: none
	Count  uint32 // packets of a drop
	VNI    packet.VNI
	Dev    string         // the tunnel; "": not known, or none
	Source netip.AddrPort // of a datagram, port 0: not known; also of frames that came in one
	Dest   netip.AddrPort
	Length int    // of the whole packet, in bytes
	Data   []byte // its beginning; lent until the reader's function returns
}

// VNIRange is VNIs from First to Last.
type VNIRange struct{ First, Last packet.VNI }

// Options say what is copied.
type Options struct {
	Points  Points
	Dev     string // of this tunnel only; "": all
	Filter  Filter
	Snaplen int // bytes of each packet
	Rate    int // packets a second of all workers together; 0: no limit
	Buffer  int // bytes of each worker's ring

	// What of the datagrams that no tunnel takes is about Dev: those with its VNIs, and those of
	// its peers.
	VNIs  []VNIRange
	Peers map[netip.Addr]struct{}
}

// Limits of Options.
const (
	MaxSnaplen    = 262144 // as tcpdump has it; longer than any super-frame
	MinBuffer     = 512 << 10
	MaxBuffer     = 256 << 20
	DefaultBuffer = 4 << 20
	// bytesOfOne is for how many bytes of a ring there is a place for one more packet.
	bytesOfOne = 512
)

// Tap is a capture that runs. Add is for workers, each with its own number, Read for one reader.
type Tap struct {
	Options
	Began time.Time // zero of the clock of records
	rings []ring

	_      [64]byte     // what all workers write stands alone
	second atomic.Int64 // that used is about
	used   atomic.Int64
}

// New returns a tap for that many workers.
func New(o Options, workers int, began time.Time) *Tap {
	t := &Tap{Options: o, Began: began, rings: make([]ring, workers)}
	for i := range t.rings {
		t.rings[i].buf = make([]byte, o.Buffer)
		t.rings[i].slots = make([]slot, 1<<bits.Len(uint(o.Buffer/bytesOfOne-1)))
	}
	return t
}

// About reports whether something of this tunnel is wanted.
func (t *Tap) About(dev string) bool { return t.Dev == "" || t.Dev == dev }

// Concerns reports whether a datagram that no tunnel has taken is wanted.
func (t *Tap) Concerns(vni packet.VNI, source netip.Addr) bool {
	if t.Dev == "" {
		return true
	}
	for _, r := range t.VNIs {
		if r.First <= vni && vni <= r.Last {
			return true
		}
	}
	_, known := t.Peers[source]
	return known
}

// Add copies a packet, if the filter passes it. It is in two parts, the second of which may be nil.
// frame is what of it stands behind the tunnel header, nil: nothing can be said of it. h is scratch
// memory. Nothing of r and the packet is kept.
func (t *Tap) Add(worker int, r *Record, head, tail, frame []byte, h *packet.Headers) {
	if !t.Filter.Match(r, frame, h) {
		return
	}
	ring := &t.rings[worker]
	if t.Rate > 0 && !t.allow(r.Time) {
		ring.lost[r.Point].Add(1)
		return
	}
	if whole := len(head) + len(tail); whole > 0 {
		r.Length = whole
	}
	head = head[:min(len(head), t.Snaplen)]
	ring.add(r, head, tail[:min(len(tail), t.Snaplen-len(head))])
}

// allow reports whether one more packet is within the rate.
func (t *Tap) allow(now int64) bool {
	second := now / int64(time.Second)
	if last := t.second.Load(); last != second && t.second.CompareAndSwap(last, second) {
		t.used.Store(0)
	}
	return t.used.Add(1) <= int64(t.Rate)
}

// Read hands what was copied to each, the oldest first, for as long as each returns true, and
// reports whether it did to the end.
func (t *Tap) Read(each func(*Record) bool) bool {
	for {
		var oldest *ring
		for i := range t.rings {
			if r := &t.rings[i]; r.peek() != nil && (oldest == nil || r.peek().Time < oldest.peek().Time) {
				oldest = r
			}
		}
		if oldest == nil {
			return true
		}
		more := each(&oldest.peek().Record)
		oldest.free()
		if !more {
			return false
		}
	}
}

// Lost is how many packets of each point were not copied, for want of room or because of the rate.
func (t *Tap) Lost() (lost [NumPoints]uint64) {
	for i := range t.rings {
		for p := range lost {
			lost[p] += t.rings[i].lost[p].Load()
		}
	}
	return lost
}
