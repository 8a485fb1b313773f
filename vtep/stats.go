package vtep

import "sync/atomic"

// Counters are kept per worker, so that no two threads write one cache line,
// and added up by whoever looks at them.

// traffic counts what one worker exchanged with one peer.
type traffic struct {
	rxPackets, rxBytes atomic.Uint64
	txPackets, txBytes atomic.Uint64
	txFlood, txFailed  atomic.Uint64
	// seen is the endpoint's clock at the last packet admitted, in ns.
	seen atomic.Int64
	_    [8]byte // fills the cache line
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
		seen = max(seen, t.seen.Load())
		failed += t.txFailed.Load()
	}
	s.TxPackets -= min(failed, s.TxPackets)
	return s, seen
}

func (s *Stats) add(o Stats) {
	s.RxPackets += o.RxPackets
	s.RxBytes += o.RxBytes
	s.TxPackets += o.TxPackets
	s.TxBytes += o.TxBytes
	s.TxFlood += o.TxFlood
}

func (d *Drops) add(c *dropCounters) {
	for r := range numReasons {
		d.Rx[r] += c.rx[r].Load()
		d.Tx[r] += c.tx[r].Load()
	}
}

// Total is the number of packets dropped in both directions.
func (d *Drops) Total() (n uint64) {
	for r := range numReasons {
		n += d.Rx[r] + d.Tx[r]
	}
	return n
}
