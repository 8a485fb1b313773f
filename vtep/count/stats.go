package count

import "sync/atomic"

// Stats are packets and bytes of inner frames, Rx from the underlay, Tx to it.
type Stats struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	// TxFlood are those of TxPackets that were copies of flooded frames.
	TxFlood, TxFloodBytes uint64
	// TxGroup are those of TxFlood that went to a multicast group.
	TxGroup, TxGroupBytes uint64
}

// Traffic counts what one worker exchanged with one peer. Copies of flooded
// frames are counted apart, not twice: read one after the other, a part and
// the whole of it never fit.
type Traffic struct {
	RxPackets, RxBytes       atomic.Uint64
	TxPackets, TxBytes       atomic.Uint64 // without floods
	FloodPackets, FloodBytes atomic.Uint64
	TxFailed                 atomic.Uint64 // of either
	// Seen is the endpoint's clock at the last packet admitted, in ns.
	Seen atomic.Int64 // all together fill a cache line
}

// DropCounters counts what one worker dropped.
type DropCounters struct {
	Rx, Tx [NumReasons]atomic.Uint64
}

func SumTraffic(all []Traffic) (s Stats, seen int64) {
	var packets, failed uint64
	for i := range all {
		t := &all[i]
		s.RxPackets += t.RxPackets.Load()
		s.RxBytes += t.RxBytes.Load()
		packets += t.TxPackets.Load()
		s.TxBytes += t.TxBytes.Load()
		s.TxFlood += t.FloodPackets.Load()
		s.TxFloodBytes += t.FloodBytes.Load()
		failed += t.TxFailed.Load()
		seen = max(seen, t.Seen.Load())
	}
	// Nobody knows which of them the kernel refused.
	of := min(failed, packets)
	packets -= of
	s.TxFlood -= min(failed-of, s.TxFlood)
	s.TxPackets, s.TxBytes = packets+s.TxFlood, s.TxBytes+s.TxFloodBytes
	return s, seen
}

func (s *Stats) Add(o Stats) {
	s.RxPackets += o.RxPackets
	s.RxBytes += o.RxBytes
	s.TxPackets += o.TxPackets
	s.TxBytes += o.TxBytes
	s.TxFlood += o.TxFlood
	s.TxFloodBytes += o.TxFloodBytes
	s.TxGroup += o.TxGroup
	s.TxGroupBytes += o.TxGroupBytes
}

func (d *Drops) Add(c *DropCounters) {
	for r := range NumReasons {
		d.Rx[r] += c.Rx[r].Load()
		d.Tx[r] += c.Tx[r].Load()
	}
}

func (d *Drops) Join(o *Drops) {
	for r := range NumReasons {
		d.Rx[r] += o.Rx[r]
		d.Tx[r] += o.Tx[r]
	}
}

// Total is the number of packets dropped in both directions.
func (d *Drops) Total() (n uint64) {
	for r := range NumReasons {
		n += d.Rx[r] + d.Tx[r]
	}
	return n
}
