package vtep

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/spec"
)

// Batch is a set of changes of one tunnel's peers, routes, neighbours and entries that take
// effect together: gathered without a lock, in some 24 bytes an entry, and then handed to
// ApplyBatch. Later lines go before earlier ones.
type Batch struct {
	Owner string // who has what is written
	Sync  bool   // what Owner had and no line names is removed

	entries [][]batchEntry
	places  []Entry // the entries but for what is each one's own
	placeAt map[Entry]uint32

	peers      []batchPeer
	routes     []batchRoute
	neighbours []batchNeighbour
	lines      int
}

const (
	batchStretch = 8192
	// MaxBatch is how many lines a batch may have, and MaxBatchOthers how many of them that are
	// no entries, which take more room.
	MaxBatch       = 4 << 20
	MaxBatchOthers = 1 << 18
)

type batchEntry struct {
	mac   packet.MAC
	del   bool
	place uint32
	seq   uint32
	line  uint32
}

type batchPeer struct {
	peer Peer
	del  bool
	line int
}

type batchRoute struct {
	route netip.Prefix
	to    netip.Addr
	del   bool
	line  int
}

type batchNeighbour struct {
	of   neighbour
	mac  packet.MAC
	seq  uint32
	del  bool
	line int
}

// LineError is what is wrong with a line of a batch, of which then nothing is applied.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// BatchResult counts what became of a batch.
type BatchResult struct {
	Lines   int
	Set     int // new, or other than before
	Same    int // there already
	Removed int
	// Skipped are lines about what is not the owner's: it is the configuration's, or, of
	// those that remove, another's, moved, or gone.
	Skipped int
}

// room counts a line.
func (b *Batch) room(others int) error {
	if b.lines++; b.lines > MaxBatch || others >= MaxBatchOthers {
		return spec.Wrong("the batch is too long: at most %d lines, %d of them for other than entries", MaxBatch, MaxBatchOthers)
	}
	return nil
}

// Entry adds a line about an entry of the table. Its VLAN is resolved.
func (b *Batch) Entry(line int, e Entry, seq uint32, del bool) error {
	if e.MAC.IsGroup() || e.MAC.IsZero() {
		return spec.Wrong("%s: want the address of a station: the flood list is the peers, and groups are set with fdb append", e.MAC)
	}
	own := batchEntry{mac: e.MAC, del: del, seq: seq, line: uint32(line)}
	e.MAC, e.HasSrcVNI, e.SrcVNI = packet.MAC{}, false, 0
	place, known := b.placeAt[e]
	if !known {
		if b.placeAt == nil {
			b.placeAt = make(map[Entry]uint32)
		}
		place = uint32(len(b.places))
		b.placeAt[e] = place
		b.places = append(b.places, e)
	}
	own.place = place
	last := len(b.entries) - 1
	if last < 0 || len(b.entries[last]) == batchStretch {
		b.entries = append(b.entries, make([]batchEntry, 0, batchStretch))
		last++
	}
	b.entries[last] = append(b.entries[last], own)
	return b.room(0)
}

// Peer adds a line about a peer. Without Routes it keeps those it has.
func (b *Batch) Peer(line int, p Peer, del bool) error {
	b.peers = append(b.peers, batchPeer{p, del, line})
	return b.room(len(b.peers))
}

// Route adds a line about a route, which moves to the peer to.
func (b *Batch) Route(line int, route netip.Prefix, to netip.Addr, del bool) error {
	b.routes = append(b.routes, batchRoute{route, to, del, line})
	return b.room(len(b.routes))
}

// Neighbour adds a line about a neighbour in a VLAN, 0 of the tunnel's own segment.
func (b *Batch) Neighbour(line int, vid uint16, n Neighbour, seq uint32, del bool) error {
	if !packet.IsStation(n.Addr) || n.Addr.Zone() != "" || !del && (n.MAC.IsZero() || n.MAC.IsGroup()) {
		return spec.Wrong("neigh %s: want the addresses of one station, IP and Ethernet", n)
	}
	b.neighbours = append(b.neighbours, batchNeighbour{neighbour{vid, n.Addr}, n.MAC, seq, del, line})
	return b.room(len(b.neighbours))
}

// ApplyBatch makes the changes of a batch, all or none: peers and routes with one hand-over,
// and then the entries. A second one is made only if destinations go to which nothing points
// any more. What is wrong with a line is a *LineError.
func (e *Endpoint) ApplyBatch(name string, b *Batch) (BatchResult, error) {
	if b.Owner == "" || b.Owner == ConfigOwner {
		return BatchResult{}, spec.Wrong("owner %q: want the name of a controller; %s is what the configuration has", b.Owner, ConfigOwner)
	}
	e.askAhead(func() (all []question) {
		t, err := e.tunnel(name)
		if err != nil {
			return nil
		}
		ask := func(d forward.Destination) {
			if t.byDestination[d] == nil {
				all = append(all, questionOf(&t.config, d))
			}
		}
		for i := range b.peers {
			if p := &b.peers[i]; !p.del {
				ask(t.destination(p.peer.Remote, p.peer.Port))
			}
		}
		for _, p := range b.places {
			if !p.Local && checkEntry(&t.config, &p) == nil {
				ask(t.entryDestination(p))
			}
		}
		return all
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return BatchResult{}, err
	}
	x := batching{Endpoint: e, Batch: b, t: t, cfg: t.config, me: t.owned.number(b.Owner), now: e.clock()}
	x.number = t.owned.batches + 1
	x.Lines = b.lines
	if err := x.prepare(); err != nil {
		return BatchResult{}, err
	}
	if err := x.handOver(); err != nil {
		return BatchResult{}, err
	}
	x.setNeighbours()
	x.setEntries()
	return x.BatchResult, e.dropUnpointed(x.t)
}

// batching is a batch under way. Endpoint.mu is held.
type batching struct {
	*Endpoint
	*Batch
	BatchResult
	t      *tunnel
	cfg    Tunnel // with the peers and routes as they will be
	me     uint16
	number uint64
	now    int64

	peerStamps  map[netip.Addr]stamp   // as they will be; nil: as they are
	routeStamps map[netip.Prefix]stamp // the same
	named       map[netip.Addr]*batchPeer
	pointed     []forward.Destination
}

// prepare checks all that can be wrong, and changes nothing.
func (x *batching) prepare() error {
	if err := x.checkPlaces(); err != nil {
		return err
	}
	for _, n := range x.neighbours {
		if !n.del && !hasSegment(&x.cfg, n.of.vid) {
			return &LineError{n.line, spec.NoSegment(n.of.vid)}
		}
		if !n.del && x.cfg.Device.L3 {
			return &LineError{n.line, spec.Wrong("a mode l3 tunnel has no neighbours")}
		}
	}
	if err := x.preparePeers(); err != nil {
		return err
	}
	if x.peerStamps == nil {
		return nil
	}
	if all := spec.Check(&x.cfg); len(all) > 0 {
		found := all[0]
		if found.Key == "remote" && found.Nth < len(x.cfg.Peers) {
			if l := x.named[x.cfg.Peers[found.Nth].Remote]; l != nil {
				return &LineError{l.line, found.Err()}
			}
		}
		return found.Err()
	}
	for addr, l := range x.named {
		a, ok := x.answers.get(questionOf(&x.cfg, x.t.destination(addr, l.peer.Port)))
		if err := unusable(a.route); ok && err != nil {
			return &LineError{l.line, spec.Wrong("remote %s: %v", addr, err)}
		}
	}
	return nil
}

// checkPlaces checks where entries point to, each place once.
func (x *batching) checkPlaces() error {
	wrong := make([]error, len(x.places))
	bad := false
	for i := range x.places {
		probe := x.places[i]
		probe.MAC = packet.MAC{2} // any station
		if wrong[i] = checkEntry(&x.cfg, &probe); wrong[i] != nil {
			bad = true
		} else if !probe.Local {
			x.pointed = append(x.pointed, x.t.entryDestination(probe))
		}
	}
	if !bad {
		return nil
	}
	for _, stretch := range x.entries {
		for i := range stretch {
			l := &stretch[i]
			switch p := &x.places[l.place]; {
			case wrong[l.place] == nil:
			case !l.del:
				return &LineError{int(l.line), wrong[l.place]}
			case !hasSegment(&x.cfg, p.VLAN):
				return &LineError{int(l.line), spec.NoSegment(p.VLAN)}
			}
		}
	}
	return nil
}

// stampNow is that of what a line names.
func (x *batching) stampNow(seq uint32) stamp { return stamp{x.me, seq, x.number} }

// outdated reports whether a stamp is of something that a sync removes.
func (x *batching) outdated(s stamp) bool { return x.Sync && s.owner == x.me && s.batch != x.number }

// preparePeers makes the peers and routes as they will be.
func (x *batching) preparePeers() error {
	o := x.t.owned
	if len(x.peers)+len(x.routes) == 0 && (!x.Sync || len(o.peers)+len(o.routes) == 0) {
		return nil
	}
	x.peerStamps, x.routeStamps, x.named = maps.Clone(o.peers), maps.Clone(o.routes), make(map[netip.Addr]*batchPeer)
	w := newPeerWork(x)
	for i := range x.peers {
		w.peer(&x.peers[i])
	}
	for i := range x.routes {
		if err := w.route(&x.routes[i]); err != nil {
			return &LineError{x.routes[i].line, err}
		}
	}
	for addr, s := range x.peerStamps {
		if i, ok := w.at[addr]; ok && x.outdated(s) {
			w.drop(addr, i)
		}
	}
	for route, s := range x.routeStamps {
		if i, ok := w.has[route]; ok && x.outdated(s) {
			w.unroute(route, i)
			x.Removed++
		}
	}
	x.cfg.Peers = w.result()
	return nil
}

// peerWork is the peers of a tunnel while a batch changes them.
type peerWork struct {
	x     *batching
	peers []Peer
	gone  map[int]bool
	at    map[netip.Addr]int
	has   map[netip.Prefix]int // which of peers has a route
	added map[int][]netip.Prefix
	moved map[int]bool // that have lost a route
}

func newPeerWork(x *batching) *peerWork {
	w := &peerWork{
		x: x, peers: slices.Clone(x.cfg.Peers), gone: make(map[int]bool), at: make(map[netip.Addr]int, len(x.cfg.Peers)),
		has: make(map[netip.Prefix]int), added: make(map[int][]netip.Prefix), moved: make(map[int]bool),
	}
	for i := range w.peers {
		w.at[w.peers[i].Remote] = i
		for _, r := range w.peers[i].Routes {
			w.has[r] = i
		}
	}
	return w
}

// peer does what a line says of a peer.
func (w *peerWork) peer(l *batchPeer) {
	addr := l.peer.Remote
	i, there := w.at[addr]
	s, owned := w.x.peerStamps[addr]
	switch {
	case there && !owned, l.del && (!there || s.owner != w.x.me):
		w.x.Skipped++
		return
	case l.del:
		w.drop(addr, i)
		return
	}
	p := l.peer
	routes := p.Routes
	if p.Routes = nil; w.x.cfg.Device.L3 || routes != nil {
		p.Routes = []netip.Prefix{}
	}
	if there {
		p.Routes = w.peers[i].Routes
	}
	if there && w.peers[i].Equal(p) && routes == nil {
		w.x.Same++
	} else {
		w.x.Set++
	}
	if !there {
		i = len(w.peers)
		w.peers = append(w.peers, p)
		w.at[addr] = i
	}
	w.peers[i] = p
	w.x.peerStamps[addr], w.x.named[addr] = w.x.stampNow(0), l
	for _, r := range routes {
		w.give(r, i)
	}
}

// drop removes a peer with its routes.
func (w *peerWork) drop(addr netip.Addr, i int) {
	for _, r := range append(w.peers[i].Routes, w.added[i]...) {
		if w.has[r] == i {
			delete(w.has, r)
			delete(w.x.routeStamps, r)
		}
	}
	delete(w.at, addr)
	delete(w.x.peerStamps, addr)
	delete(w.x.named, addr)
	w.gone[i] = true
	w.x.Removed++
}

// route does what a line says of a route.
func (w *peerWork) route(l *batchRoute) error {
	if !w.x.cfg.Device.L3 {
		return spec.Wrong("route %s: routes are for mode l3", l.route)
	}
	i, there := w.has[l.route]
	s, owned := w.x.routeStamps[l.route]
	switch {
	case there && !owned, l.del && (!there || s.owner != w.x.me):
		w.x.Skipped++
		return nil
	case l.del:
		w.unroute(l.route, i)
		w.x.Removed++
		return nil
	}
	to, known := w.at[l.to]
	if !known {
		return spec.Wrong("route %s: %s is no peer of the tunnel: name it as one", l.route, l.to)
	}
	if there && to == i {
		w.x.Same++
	} else {
		w.x.Set++
	}
	w.give(l.route, to)
	return nil
}

// give makes a route that of a peer.
func (w *peerWork) give(r netip.Prefix, to int) {
	if i, there := w.has[r]; there {
		if _, owned := w.x.routeStamps[r]; !owned {
			w.x.Skipped++ // the configuration's
			return
		}
		if i == to {
			w.x.routeStamps[r] = w.x.stampNow(0)
			return
		}
		w.unroute(r, i)
	}
	w.has[r], w.x.routeStamps[r] = to, w.x.stampNow(0)
	w.added[to] = append(w.added[to], r)
}

// unroute takes a route from a peer.
func (w *peerWork) unroute(r netip.Prefix, i int) {
	delete(w.has, r)
	delete(w.x.routeStamps, r)
	w.moved[i] = true
}

// result is the peers that there will be. Routes keep their order, new ones come last.
func (w *peerWork) result() []Peer {
	out := make([]Peer, 0, len(w.peers))
	for i, p := range w.peers {
		if w.gone[i] {
			continue
		}
		if w.moved[i] || len(w.added[i]) > 0 {
			all, taken := []netip.Prefix{}, make(map[netip.Prefix]bool)
			for _, r := range slices.Concat(p.Routes, w.added[i]) {
				if at, ok := w.has[r]; ok && at == i && !taken[r] {
					taken[r] = true
					all = append(all, r)
				}
			}
			p.Routes = all
		}
		out = append(out, p)
	}
	return out
}

// handOver brings the peers that come and takes away those that go.
func (x *batching) handOver() error {
	missing := func(d forward.Destination) bool { return x.t.byDestination[d] == nil }
	if x.peerStamps != nil || slices.ContainsFunc(x.pointed, missing) {
		err := x.rewire(x.t, func(n *tunnel) {
			n.config.Peers = x.cfg.Peers
			n.pointed = append(n.pointed, x.pointed...)
		})
		if err != nil {
			return err
		}
		x.t = x.tunnels[x.cfg.Device.Name]
	}
	if x.peerStamps != nil {
		x.t.owned.peers, x.t.owned.routes = x.peerStamps, x.routeStamps
	}
	x.t.owned.batches = x.number
	return nil
}

func (x *batching) setNeighbours() {
	all := x.t.owned.neighbours
	if len(x.neighbours) == 0 && (!x.Sync || len(all) == 0) {
		return
	}
	named := x.t.namedNeighbours()
	for _, l := range x.neighbours {
		have, there := all[l.of]
		switch {
		case l.of.vid == 0 && named[l.of.addr], l.del && (!there || have.owner != x.me):
			x.Skipped++
		case l.del:
			x.removeNeighbour(l.of)
		default:
			if there && have.mac == l.mac {
				x.Same++
			} else {
				x.Set++
				x.t.setNeighbour(l.of, l.mac, x.now)
			}
			all[l.of] = ownedNeighbour{x.stampNow(l.seq), l.mac}
		}
	}
	for of, n := range all {
		if x.outdated(n.stamp) {
			x.removeNeighbour(of)
		}
	}
}

func (x *batching) removeNeighbour(of neighbour) {
	delete(x.t.owned.neighbours, of)
	x.t.deleteNeighbour(of, x.now)
	x.Removed++
}

// setEntries writes the entries. Nothing can fail any more.
func (x *batching) setEntries() {
	nexthops := make([]fdb.Nexthop, len(x.places))
	for i := range x.places {
		if p := x.t.byDestination[x.t.entryDestination(x.places[i])]; !x.places[i].Local && p != nil {
			nexthops[i] = p.Nexthop
		}
	}
	for _, stretch := range x.entries {
		for i := range stretch {
			x.setEntry(&stretch[i], nexthops)
		}
		x.mu.progress()
	}
	if !x.Sync {
		return
	}
	for of, s := range x.t.owned.entries { // only who holds the endpoint's lock writes to it
		if !x.outdated(s) {
			continue
		}
		have, ok := x.get(of)
		if _, mine := x.t.owned.entryOf(of, have); ok && mine {
			x.remove(of)
		} else {
			x.t.owned.forget(of)
		}
	}
}

func (x *batching) get(of station) (fdb.Entry, bool) {
	d := x.t.domain(of.vid)
	if d == nil {
		return fdb.Entry{}, false
	}
	return d.fdb.Get(of.mac, x.now)
}

func (x *batching) setEntry(l *batchEntry, nexthops []fdb.Nexthop) {
	place := &x.places[l.place]
	of := station{place.VLAN, l.mac}
	have, there := x.get(of)
	s, owned := x.t.owned.entryOf(of, have)
	owned = owned && there
	held := x.t.entries.at[of]
	switch {
	case len(held) > 0 && !x.t.entries.byHand[of], l.del && (!owned || s.owner != x.me):
		x.Skipped++
		return
	case l.del:
		x.remove(of)
		return
	}
	entry := *place
	entry.MAC = l.mac
	want := tableEntry(&entry, nexthops[l.place])
	if there && owned && have.Nexthop == want.Nexthop && have.State == want.State && have.Flags == want.Flags {
		x.Same++
	} else {
		_ = x.t.domain(of.vid).fdb.Replace(want, x.now) // it has a state
		x.Set++
	}
	switch {
	case !isInitial(&entry):
		x.t.hold(x.t.entries, of, []Entry{entry})
	case len(held) > 0:
		x.t.hold(x.t.entries, of, nil)
	}
	x.t.owned.sign(of, x.stampNow(l.seq))
}

// remove removes an entry that is there, and the owner's.
func (x *batching) remove(of station) {
	_ = x.t.domain(of.vid).fdb.Delete(of.mac, x.now) // or it is gone this moment
	if len(x.t.entries.at[of]) > 0 {
		x.t.hold(x.t.entries, of, nil)
	}
	x.t.owned.forget(of)
	x.Removed++
}
