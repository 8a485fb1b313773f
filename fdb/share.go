package fdb

import "sync/atomic"

// Shares. One nexthop may use all of the limit as long as nobody else wants a part of it.
// Then each has a share that it always finds room for: our own side half of the limit, for
// its stations are why we are here, and the peers that have any entries equal parts of the
// other half. A nexthop that has less than its share when the table is full takes the place
// of an entry whose nexthop has more, so a peer that forges MAC addresses only uses up its own
// share. A nexthop that has its share or more finds the table full.

// share is what one nexthop has in the table. Written under the table's lock.
type share struct {
	all     atomic.Int32
	dynamic atomic.Int32
}

// shares are those of all nexthops.
type shares struct {
	of    atomic.Pointer[[]share] // by nexthop
	peers atomic.Int64            // nexthops but Local that have dynamic entries
}

// find returns the share of a nexthop, nil if it never had one. It needs no lock.
func (s *shares) find(via Nexthop) *share {
	if all := s.of.Load(); all != nil && int(via) < len(*all) {
		return &(*all)[via]
	}
	return nil
}

// need returns the share of a nexthop. The table's lock is held.
func (s *shares) need(via Nexthop) *share {
	if have := s.find(via); have != nil {
		return have
	}
	var old []share
	if all := s.of.Load(); all != nil {
		old = *all
	}
	now := make([]share, max(int(via)+1, 2*len(old), 4))
	for i := range old { // nobody writes to them: the lock is held
		now[i].all.Store(old[i].all.Load())
		now[i].dynamic.Store(old[i].dynamic.Load())
	}
	s.of.Store(&now)
	return &now[via]
}

// count counts an entry with value v that comes (1) or goes (-1). The lock is held.
func (t *Table) count(v value, by int32) {
	t.counts[v.state()].Add(int64(by))
	s := t.shares.need(v.nexthop())
	s.all.Add(by)
	if v.state() != Dynamic {
		return
	}
	if n := s.dynamic.Add(by); v.nexthop() != Local && (n == 0 || n == 1 && by > 0) {
		t.shares.peers.Add(int64(by))
	}
}

// Behind returns how many entries point to a nexthop, and how many of them are dynamic. It
// takes no lock.
func (t *Table) Behind(via Nexthop) (all, dynamic int) {
	if s := t.shares.find(via); s != nil {
		return int(s.all.Load()), int(s.dynamic.Load())
	}
	return 0, 0
}

// Pointed calls f for all nexthops that dynamic entries point to. It takes no lock.
func (t *Table) Pointed(f func(Nexthop)) {
	all := t.shares.of.Load()
	if all == nil || t.counts[Dynamic].Load() == 0 {
		return
	}
	for via := range *all {
		if (*all)[via].dynamic.Load() > 0 {
			f(Nexthop(via))
		}
	}
}

// fair is the share of a nexthop if so many peers have one.
func (t *Table) fair(via Nexthop, peers int64) int64 {
	limit := t.limit.Load()
	if via == Local {
		return limit / 2
	}
	return (limit - limit/2) / max(peers, 1)
}

// claimants is how many peers have a share if via wants one.
func (t *Table) claimants(via Nexthop) int64 {
	n := t.shares.peers.Load()
	if via != Local && t.dynamicOf(via) == 0 {
		n++
	}
	return n
}

func (t *Table) dynamicOf(via Nexthop) int64 {
	if s := t.shares.find(via); s != nil {
		return int64(s.dynamic.Load())
	}
	return 0
}

// entitled reports whether a nexthop has less than its share. It needs no lock.
func (t *Table) entitled(via Nexthop) bool {
	return t.dynamicOf(via) < t.fair(via, t.claimants(via))
}

// makeRoom removes, for an entry of via's, one that was learned from a nexthop with more than
// its share: of those that stand near hash the one that was silent for longest. It reports
// whether it found one. The lock is held.
func (t *Table) makeRoom(via Nexthop, hash uint64, now int64) bool {
	a, peers := t.cur.Load(), t.claimants(via)
	var found *slot
	for i := range uint64(min(stretch, len(a.slots))) {
		s := &a.slots[(hash>>a.shift+i)&uint64(len(a.slots)-1)]
		v := value(s.value.Load())
		if v.state() != Dynamic || v.flags() != 0 {
			continue
		}
		if t.expired(v, s.updated.Load(), now) {
			t.remove(s, EventAged)
			return true
		}
		if t.dynamicOf(v.nexthop()) > t.fair(v.nexthop(), peers) && (found == nil || s.updated.Load() < found.updated.Load()) {
			found = s
		}
	}
	if found == nil {
		return false
	}
	t.remove(found, EventEvicted)
	return true
}
