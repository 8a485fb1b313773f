package fastpath

import (
	"errors"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// batch is how many entries one system call reads of a map.
const batch = 1024

// Entry implements netio.FastPath.
func (p *Path) Entry(port uint32, mac packet.MAC, peer int32) {
	p.queue.Lock()
	p.pending[stationOf(port, mac)] = peer
	first := len(p.pending) == 1
	p.queue.Unlock()
	if first {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// flush brings the entries that were told into the map, of each station the last.
func (p *Path) flush() {
	p.queue.Lock()
	all := p.pending
	p.pending = make(map[bpfStation]int32)
	p.queue.Unlock()
	if len(all) == 0 {
		return
	}
	var err error
	for station, peer := range all {
		if peer == netio.FastNowhere {
			err = errors.Join(err, ignore(p.kernel.Fdb.Delete(station), ebpf.ErrKeyNotExist))
		} else {
			err = errors.Join(err, p.kernel.Fdb.Put(station, bpfPlace{Peer: peer}))
		}
	}
	p.mu.Lock()
	p.must(err)
	p.mu.Unlock()
}

// ignore returns err unless it is what.
func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// now is the clock of the programs.
func now() uint64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it cannot fail
	return uint64(t.Nano())
}

// since is the time since a stamp of the programs, negative if there is none.
func since(stamp, now uint64) time.Duration {
	if stamp == 0 {
		return -1
	}
	return time.Duration(max(int64(now-stamp), 0))
}

// last reads the counters of one peer for the last time. p.mu is held.
func (p *Path) last(id int32, into map[int32]netio.FastCounts) {
	var each []bpfTraffic
	if p.kernel == nil || p.kernel.Counts.Lookup(id, &each) != nil {
		return
	}
	t := total(each)
	p.tell([]int32{id}, []bpfTraffic{t})
	into[id] = total([]bpfTraffic{t, p.base[id]}).counts(now())
}

// uncount forgets the counters of a peer. p.mu is held.
func (p *Path) uncount(id int32) {
	p.must(p.kernel.Counts.Delete(id))
	if p.told != nil {
		p.must(p.told.Delete(id))
	}
	delete(p.said, id)
	delete(p.base, id)
}

// tell notes for the next process what was told of counters. p.mu is held.
func (p *Path) tell(ids []int32, all []bpfTraffic) {
	if p.told == nil || len(ids) == 0 {
		return
	}
	if _, err := p.told.BatchUpdate(ids, all, nil); err != nil {
		p.must(err)
		return
	}
	for i, id := range ids {
		p.said[id] = all[i]
	}
}

// total adds up what the processors have counted.
func total(each []bpfTraffic) (t bpfTraffic) {
	for i := range each {
		t.RxPackets += each[i].RxPackets
		t.RxBytes += each[i].RxBytes
		t.TxPackets += each[i].TxPackets
		t.TxBytes += each[i].TxBytes
		t.Seen = max(t.Seen, each[i].Seen)
	}
	return t
}

// without is what was counted after there was so much.
func (t bpfTraffic) without(before bpfTraffic) bpfTraffic {
	t.RxPackets -= before.RxPackets
	t.RxBytes -= before.RxBytes
	t.TxPackets -= before.TxPackets
	t.TxBytes -= before.TxBytes
	return t
}

func (t bpfTraffic) counts(now uint64) netio.FastCounts {
	return netio.FastCounts{
		RxPackets: t.RxPackets, RxBytes: t.RxBytes, TxPackets: t.TxPackets, TxBytes: t.TxBytes, Seen: since(t.Seen, now),
	}
}

// Counts implements netio.FastPath.
func (p *Path) Counts(yield func(peer int32, c netio.FastCounts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kernel == nil {
		return
	}
	var ids []int32
	var moved []bpfTraffic
	eachTraffic(p.kernel.Counts, func(id int32, t bpfTraffic) {
		if p.told != nil && p.said[id] != t {
			ids, moved = append(ids, id), append(moved, t)
		}
		yield(id, total([]bpfTraffic{t, p.base[id]}).counts(now()))
	})
	p.tell(ids, moved)
}

// eachTraffic reads a map of counters.
func eachTraffic(m *ebpf.Map, yield func(peer int32, t bpfTraffic)) {
	cpus := ebpf.MustPossibleCPU()
	keys, values := make([]int32, batch), make([]bpfTraffic, batch*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			yield(keys[i], total(values[i*cpus:(i+1)*cpus]))
		}
		if err != nil { // the end
			return
		}
	}
}

// Heard implements netio.FastPath. Entries of tunnels that are no longer there are removed.
func (p *Path) Heard(yield func(port uint32, mac packet.MAC, peer int32, heard, used time.Duration)) {
	p.mu.Lock()
	kernel, earlier := p.kernel, p.earlier
	p.earlier = nil
	there := make(map[uint32]bool, len(p.tunnels))
	for port := range p.tunnels {
		there[port] = true
	}
	p.mu.Unlock()
	if kernel == nil {
		return
	}
	if earlier != nil {
		earlier.heard(yield)
		earlier.stations.Close()
	}
	var gone []bpfStation
	at := now()
	each(kernel.Fdb, func(key bpfStation, v *bpfPlace) {
		switch {
		case !there[key.Port]:
			gone = append(gone, key)
		case v.Heard != 0 || v.Used != 0:
			yield(key.Port, key.Mac, v.Peer, since(v.Heard, at), since(v.Used, at))
		}
	})
	for _, key := range gone {
		kernel.Fdb.Delete(key) // an entry of nobody harms nobody
	}
}

// Punts implements netio.FastPath.
func (p *Path) Punts() (all []netio.FastPunt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kernel == nil {
		return nil
	}
	reasons := count.Punts()
	keys, values := make([]uint32, 2*(len(reasons)+1)), make([]uint64, 2*(len(reasons)+1)*ebpf.MustPossibleCPU())
	var cursor ebpf.MapBatchCursor
	n, _ := p.kernel.Punts.BatchLookup(&cursor, keys, values, nil) // all of them, and so the end
	for i, key := range keys[:n] {
		if key < 2 {
			continue // no reason has this number
		}
		c := netio.FastPunt{Reason: reasons[key/2-1].Name, In: key%2 == 1}
		for _, n := range values[i*len(values)/len(keys) : (i+1)*len(values)/len(keys)] {
			c.Count += n
		}
		all = append(all, c)
	}
	return all
}
