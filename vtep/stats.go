package vtep

import "sync/atomic"

// Counters are kept per worker, so that no two threads write one cache line,
// and added up by whoever looks at them.

// traffic counts what one worker exchanged with one peer.
type traffic struct {
	rxPackets, rxBytes atomic.Uint64
	txPackets, txBytes atomic.Uint64
	txFlood, txFailed  atomic.Uint64
	txFloodBytes       atomic.Uint64
	// seen is the endpoint's clock at the last packet admitted, in ns.
	seen atomic.Int64 // together they fill a cache line
}

// dropCounters counts what one worker dropped.
type dropCounters struct {
	rx, tx [numReasons]atomic.Uint64
}

func sumTraffic(all []traffic) (s Stats, seen int64) {
	var failed uint64
	for i := range all {
		t := &all[i]
		s.RxPackets += t.rxPackets.Load()
		s.RxBytes += t.rxBytes.Load()
		s.TxPackets += t.txPackets.Load()
		s.TxBytes += t.txBytes.Load()
		s.TxFlood += t.txFlood.Load()
		s.TxFloodBytes += t.txFloodBytes.Load()
		seen = max(seen, t.seen.Load())
		failed += t.txFailed.Load()
	}
	s.TxPackets -= min(failed, s.TxPackets)
	s.TxFlood = min(s.TxFlood, s.TxPackets)
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
	s.TxPackets = max(s.TxPackets, p.last.TxPackets)
	s.TxFlood = max(s.TxFlood, p.last.TxFlood)
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
