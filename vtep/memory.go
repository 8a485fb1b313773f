package vtep

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
)

// Memory is what an endpoint was told and has heard while it ran, for another
// to go on with: what no configuration says. It is read tunnel by tunnel, and of each the
// table entry by entry, so that nobody holds all of it. All of it can be lost without
// harm, peers are then learned again by flooding.
type Memory = iter.Seq2[*TunnelMemory, iter.Seq[Learned]]

// TunnelMemory is the memory of one tunnel, but for its table.
type TunnelMemory struct {
	Device netio.DeviceOptions // as it was asked for
	VNI    packet.VNI
	ByHand []Entry // that neither the configuration nor learning made
	Peers  []PeerMemory
	// Destinations are where entries of the table point to.
	Destinations []DestinationMemory
}

// DestinationMemory is where frames were sent.
type DestinationMemory struct {
	Remote netip.AddrPort
	VNI    packet.VNI // sent with, if HasVNI
	HasVNI bool
	Via    string
	NoPeer bool // it was set by hand, to where no peer is
	// Options are those of an entry.
	Options option.Shared `json:",omitzero"`
}

func (d *DestinationMemory) destination() forward.Destination {
	return forward.Destination{Remote: d.Remote, VNI: d.VNI, HasVNI: d.HasVNI, Via: d.Via, Options: d.Options}
}

// LocalDestination is Learned.To of what is behind our own device.
const LocalDestination = -1

// Learned is a dynamic entry of the table.
type Learned struct {
	VLAN          uint16     // of a trunk; 0: its own segment
	Segment       packet.VNI // that it is in
	MAC           packet.MAC
	To            int // index of TunnelMemory.Destinations, or LocalDestination
	Flags         fdb.Flags
	Moves         uint16
	Updated, Used time.Duration // ago
}

// PeerMemory is a peer that was heard.
type PeerMemory struct {
	Remote  netip.AddrPort
	Silent  time.Duration // how long ago
	Dynamic bool          // an automatic peer, admitted by accept
}

// Memory returns the memory of the endpoint, also after Run has returned. The endpoint is
// locked for the beginning of each tunnel, which is as long as there are peers and entries
// set by hand, and not while tables are read.
func (e *Endpoint) Memory() Memory {
	return func(yield func(*TunnelMemory, iter.Seq[Learned]) bool) {
		e.mu.Lock()
		tunnels := e.sorted()
		e.mu.Unlock()
		for _, t := range tunnels {
			e.mu.Lock()
			if t = e.tunnels[t.port.Name]; t == nil {
				e.mu.Unlock()
				continue // gone since
			}
			tm, at, now := t.remember(e)
			e.mu.Unlock()
			if !yield(tm, t.learned(at, now)) {
				return
			}
		}
	}
}

// remember is the memory of a tunnel without its table, and which of its destinations is
// behind a nexthop. e.mu is held.
func (t *tunnel) remember(e *Endpoint) (tm *TunnelMemory, at map[fdb.Nexthop]int, now int64) {
	tm = &TunnelMemory{Device: t.config.Device, VNI: t.config.VNI}
	for of := range t.entries.byHand {
		tm.ByHand = append(tm.ByHand, t.entries.at[of]...)
	}
	at = map[fdb.Nexthop]int{fdb.Local: LocalDestination}
	pointed := t.pointedPeers()
	for _, p := range t.peers {
		if seen := p.lastSeen(e); !seen.IsZero() {
			tm.Peers = append(tm.Peers, PeerMemory{p.Dest.Remote, time.Since(seen), p.dynamic})
		}
		if pointed[p.Nexthop] {
			at[p.Nexthop] = len(tm.Destinations)
			tm.Destinations = append(tm.Destinations, DestinationMemory{p.Dest.Remote, p.Dest.VNI, p.Dest.HasVNI, p.Dest.Via, p.implicit(), p.Dest.Options})
		}
	}
	return tm, at, e.clock()
}

// learned yields what is in the tables and is no entry that somebody made: those are not
// dynamic, or have a group address. It needs no lock.
func (t *tunnel) learned(at map[fdb.Nexthop]int, now int64) iter.Seq[Learned] {
	return func(yield func(Learned) bool) {
		for i := range t.domains {
			d := &t.domains[i]
			for entry := range d.fdb.All(now) {
				to, known := at[entry.Nexthop]
				if !known || entry.State != fdb.Dynamic || entry.MAC.IsGroup() {
					continue
				}
				l := Learned{VLAN: d.vid, Segment: d.vni, MAC: entry.MAC, To: to, Flags: entry.Flags, Moves: entry.Moves, Updated: entry.Updated, Used: entry.Used}
				if !yield(l) {
					return
				}
			}
		}
	}
}

// Recall goes on with the memory of another endpoint, which is as old as
// elapsed. Call it before Run. Of a tunnel that is no longer there, or has
// another VNI, nothing is taken; the configuration goes before what was set by
// hand, and the limits of the table hold.
func (e *Endpoint) Recall(m Memory, elapsed time.Duration) (entries int) {
	for tm, table := range m {
		e.askAhead(func() []question { return e.recalled(tm) })
		e.mu.Lock()
		t := e.tunnels[tm.Device.Name]
		if t != nil && t.config.VNI == tm.VNI {
			t = e.recallPeers(t, tm, elapsed)
		} else {
			t = nil
		}
		e.mu.Unlock()
		if t != nil {
			entries += t.recallTable(tm, table, e.clock(), elapsed)
		}
	}
	return entries
}

// recalled are the questions about who comes with a memory. e.mu is held.
func (e *Endpoint) recalled(tm *TunnelMemory) (all []question) {
	t := e.tunnels[tm.Device.Name]
	if t == nil {
		return nil
	}
	for _, p := range tm.Peers {
		if p.Dynamic {
			all = append(all, questionOf(&t.config, t.destination(p.Remote.Addr(), 0)))
		}
	}
	for _, entry := range tm.ByHand {
		if !entry.Local && checkEntry(&t.config, &entry) == nil {
			all = append(all, questionOf(&t.config, t.entryDestination(entry)))
		}
	}
	return all
}

// recallPeers lets in again who was let in before, and sets by hand what was
// set by hand. It returns the tunnel as it is then.
func (e *Endpoint) recallPeers(t *tunnel, tm *TunnelMemory, elapsed time.Duration) *tunnel {
	speaks := make(map[netip.Addr]bool, len(t.peers))
	for _, p := range t.peers {
		speaks[p.config.Remote] = speaks[p.config.Remote] || p.speaks
	}
	dynamic := slices.Clone(t.dynamic)
	for _, p := range tm.Peers {
		a := p.Remote.Addr().WithZone("")
		if p.Dynamic && forward.Accepted(t.accept, a) && !speaks[a] && len(dynamic) < maxSenders {
			dynamic = append(dynamic, a)
		}
	}
	at, byHand := maps.Clone(t.entries.at), maps.Clone(t.entries.byHand)
	for _, entry := range tm.ByHand {
		if of := stationOf(&entry); t.entries.at[of] == nil && checkEntry(&t.config, &entry) == nil {
			at[of], byHand[of] = append(at[of], entry), true
		}
	}
	var pointed []forward.Destination
	for i := range tm.Destinations {
		if d := &tm.Destinations[i]; d.NoPeer && (!t.config.Local.IsValid() || t.config.Local.Is4() == d.Remote.Addr().Is4()) {
			pointed = append(pointed, d.destination())
		}
	}
	if len(dynamic) > len(t.dynamic) || len(at) > len(t.entries.at) || len(pointed) > 0 {
		name := t.config.Device.Name
		err := e.rewire(t, func(n *tunnel) {
			n.dynamic, n.pointed = dynamic, append(n.pointed, pointed...)
			n.entries = n.newEntries(at, byHand)
		})
		if err != nil {
			e.log.Warn("entries set by hand are lost", zap.String("device", name), zap.NamedError("err", err))
			return t
		}
		t = e.tunnels[name]
	}
	silent := make(map[netip.AddrPort]time.Duration, len(tm.Peers))
	for _, old := range tm.Peers {
		silent[old.Remote] = old.Silent
	}
	for _, p := range t.peers {
		if before, ok := silent[p.Dest.Remote]; ok && before >= 0 {
			p.seenBefore = e.started.Add(-before - elapsed)
		}
	}
	return t
}

// recallTable fills the tables with what is not too old.
func (t *tunnel) recallTable(tm *TunnelMemory, table iter.Seq[Learned], now int64, elapsed time.Duration) (n int) {
	own := t.device.State().LLAddr
	nexthops := make([]fdb.Nexthop, len(tm.Destinations)) // fdb.Local: there is none
	for i := range tm.Destinations {
		if p := t.byDestination[tm.Destinations[i].destination()]; p != nil {
			nexthops[i] = p.Nexthop
		}
	}
	for l := range table {
		d := t.domain(l.VLAN)
		if d == nil || d.vni != l.Segment {
			continue
		}
		entry := fdb.Entry{
			MAC: l.MAC, Nexthop: fdb.Local, State: fdb.Dynamic, Flags: l.Flags, Moves: l.Moves,
			Updated: max(l.Updated, 0) + elapsed, Used: max(l.Used, 0) + elapsed,
		}
		if l.To != LocalDestination {
			if l.To < 0 || l.To >= len(nexthops) || nexthops[l.To] == fdb.Local {
				continue
			}
			entry.Nexthop = nexthops[l.To]
		}
		aged := t.config.Ageing > 0 && l.Flags&fdb.ExternLearn == 0 && entry.Updated >= t.config.Ageing
		if aged || l.MAC == own || l.Flags == 0 && !t.config.Learning || t.config.MaxAddress > 0 && d.fdb.Count().Dynamic >= t.config.MaxAddress {
			continue
		}
		if d.fdb.Add(entry, now) == nil {
			n++
		}
	}
	return n
}

// lastSeen is when a peer was last heard, by this endpoint or, as far as it
// was told, another; zero: never.
func (p *peer) lastSeen(e *Endpoint) time.Time {
	if _, seen := count.SumTraffic(p.Traffic); seen != 0 {
		return e.started.Add(time.Duration(seen))
	}
	return p.seenBefore
}

// Brief is what of a tunnel those want to know who look often. Unlike State
// it asks the kernel nothing.
type Brief struct {
	Name  string
	VNI   packet.VNI
	NoVNI bool // a trunk without a segment of its own
	MTU   int
	Up    bool
	Peers []BriefPeer
}

// BriefPeer is a peer in a Brief; a group is none.
type BriefPeer struct {
	Name     string
	Remote   netip.AddrPort
	LastSeen time.Time // zero: never
	// Contact is what is heard of it, NoRoute apart. Refused is the last of what was dropped, if its
	// packets are.
	Contact Contact
	Refused *PeerRefused
}

func (t *tunnel) brief(e *Endpoint, p *peer, clues map[netip.Addr][]clue, now time.Time) BriefPeer {
	of := PeerState{LastSeen: p.lastSeen(e), Refused: t.refused(p, clues)}
	b := BriefPeer{Name: p.config.Name, Remote: p.Dest.Remote, LastSeen: of.LastSeen, Contact: of.contact(now)}
	if b.Contact == Rejects {
		last := slices.MaxFunc(of.Refused, func(x, y PeerRefused) int { return x.Last.Compare(y.Last) })
		b.Refused = &last
	}
	return b
}

// Brief returns all tunnels, sorted by name.
func (e *Endpoint) Brief() []Brief {
	e.mu.Lock()
	defer e.mu.Unlock()
	all, now := make([]Brief, 0, len(e.tunnels)), time.Now()
	clues := e.clues(e.refusals(e.pool.Refused()))
	for _, t := range e.sorted() {
		b := Brief{Name: t.config.Device.Name, VNI: t.config.VNI, NoVNI: t.config.NoVNI, MTU: t.device.State().MTU, Up: !t.config.Device.Down && !t.state.Failed.Load()}
		for _, p := range t.peers {
			if p.speaks {
				b.Peers = append(b.Peers, t.brief(e, p, clues, now))
			}
		}
		all = append(all, b)
	}
	return all
}
