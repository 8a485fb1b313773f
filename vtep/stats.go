package vtep

import "sync/atomic"

// Counters are kept per worker, so that no two threads write one cache line,
// and added up by whoever looks at them.

// traffic counts what one worker exchanged with one peer. Copies of flooded
// frames are counted apart, not twice: read one after the other, a part and
// the whole of it never fit.
type traffic struct {
	rxPackets, rxBytes       atomic.Uint64
	txPackets, txBytes       atomic.Uint64 // without floods
	floodPackets, floodBytes atomic.Uint64
	txFailed                 atomic.Uint64 // of either
	// seen is the endpoint's clock at the last packet admitted, in ns.
	seen atomic.Int64 // all together fill a cache line
}

// dropCounters counts what one worker dropped.
type dropCounters struct {
	rx, tx [numReasons]atomic.Uint64
}

func sumTraffic(all []traffic) (s Stats, seen int64) {
	var packets, failed uint64
	for i := range all {
		t := &all[i]
		s.RxPackets += t.rxPackets.Load()
		s.RxBytes += t.rxBytes.Load()
		packets += t.txPackets.Load()
		s.TxBytes += t.txBytes.Load()
		s.TxFlood += t.floodPackets.Load()
		s.TxFloodBytes += t.floodBytes.Load()
		failed += t.txFailed.Load()
		seen = max(seen, t.seen.Load())
	}
	// Nobody knows which of them the kernel refused.
	of := min(failed, packets)
	packets -= of
	s.TxFlood -= min(failed-of, s.TxFlood)
	s.TxPackets, s.TxBytes = packets+s.TxFlood, s.TxBytes+s.TxFloodBytes
	return s, seen
}

func (s *Stats) add(o Stats) {
	s.RxPackets += o.RxPackets
	s.RxBytes += o.RxBytes
	s.TxPackets += o.TxPackets
	s.TxBytes += o.TxBytes
	s.TxFlood += o.TxFlood
	s.TxFloodBytes += o.TxFloodBytes
	s.TxGroup += o.TxGroup
	s.TxGroupBytes += o.TxGroupBytes
}

// told returns the counters of a peer as they are told: a failed send is known
// only after it was counted, and nobody may see a counter go back. e.mu is held.
func (p *peer) told() (s Stats, seen int64) {
	s, seen = sumTraffic(p.traffic)
	unicast := max(s.TxPackets-s.TxFlood, p.last.TxPackets-p.last.TxFlood)
	s.TxFlood = max(s.TxFlood, p.last.TxFlood)
	s.TxPackets = unicast + s.TxFlood
	p.last = s
	if p.dest.remote.Addr().IsMulticast() {
		s.TxGroup, s.TxGroupBytes = s.TxFlood, s.TxFloodBytes
	}
	return s, seen
}

func (d *Drops) add(c *dropCounters) {
	for r := range numReasons {
		d.Rx[r] += c.rx[r].Load()
		d.Tx[r] += c.tx[r].Load()
	}
}

func (d *Drops) join(o *Drops) {
	for r := range numReasons {
		d.Rx[r] += o.Rx[r]
		d.Tx[r] += o.Tx[r]
	}
}

// Total is the number of packets dropped in both directions.
func (d *Drops) Total() (n uint64) {
	for r := range numReasons {
		n += d.Rx[r] + d.Tx[r]
	}
	return n
}
