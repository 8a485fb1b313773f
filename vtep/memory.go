package vtep

import (
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
)

// Memory is what an endpoint was told and has heard while it ran, for another
// to go on with: what no configuration says. All of it can be lost without
// harm, peers are then learned again by flooding.
type Memory struct {
	Tunnels []TunnelMemory
}

// TunnelMemory is the memory of one tunnel.
type TunnelMemory struct {
	Device netio.DeviceOptions // as it was asked for
	VNI    packet.VNI
	ByHand []Entry // that neither the configuration nor learning made
	Table  []Learned
	Peers  []PeerMemory
}

// Learned is an entry of the table, with its destination.
type Learned struct {
	VLAN          uint16     // of a trunk; 0: its own segment
	Segment       packet.VNI // that it is in
	MAC           packet.MAC
	Local         bool // behind our own device
	Remote        netip.AddrPort
	VNI           packet.VNI // sent with, if HasVNI
	HasVNI        bool
	Via           string
	NoPeer        bool // it was set by hand, to where no peer is
	State         fdb.State
	Flags         fdb.Flags
	Moves         uint16
	Updated, Used time.Duration // ago
}

func (l *Learned) destination() forward.Destination {
	return forward.Destination{Remote: l.Remote, VNI: l.VNI, HasVNI: l.HasVNI, Via: l.Via}
}

// PeerMemory is a peer that was heard.
type PeerMemory struct {
	Remote  netip.AddrPort
	Silent  time.Duration // how long ago
	Dynamic bool          // let in by accept
}

// Memory returns the memory of the endpoint, also after Run has returned.
func (e *Endpoint) Memory() Memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	var m Memory
	now := e.clock()
	for _, t := range e.sorted() {
		tm := TunnelMemory{Device: t.config.Device, VNI: t.config.VNI}
		configured := make(map[station]bool, len(t.config.Entries))
		for i := range t.config.Entries {
			configured[stationOf(&t.config.Entries[i])] = true
		}
		for at, list := range t.entries.at {
			if !configured[at] {
				tm.ByHand = append(tm.ByHand, list...)
			}
		}
		for i := range t.domains {
			tm.Table = append(tm.Table, t.learned(&t.domains[i], now)...)
		}
		for _, p := range t.peers {
			if seen := p.lastSeen(e); !seen.IsZero() {
				tm.Peers = append(tm.Peers, PeerMemory{p.Dest.Remote, time.Since(seen), p.dynamic})
			}
		}
		m.Tunnels = append(m.Tunnels, tm)
	}
	return m
}

// learned returns what is in the table of a segment and is no entry that
// somebody made.
func (t *tunnel) learned(d *domain, now int64) (all []Learned) {
	for entry := range d.fdb.All(now) {
		if t.entries.at[station{d.vid, entry.MAC}] != nil {
			continue
		}
		l := Learned{
			VLAN: d.vid, Segment: d.vni,
			MAC: entry.MAC, Local: entry.Nexthop == fdb.Local, State: entry.State, Flags: entry.Flags,
			Moves: entry.Moves, Updated: entry.Updated, Used: entry.Used,
		}
		if !l.Local {
			peers := t.port.Segment.NexthopPeers(entry.Nexthop)
			if len(peers) != 1 {
				continue
			}
			to := peers[0].Dest
			l.Remote, l.VNI, l.HasVNI, l.Via = to.Remote, to.VNI, to.HasVNI, to.Via
			l.NoPeer = t.byDestination[to].implicit()
		}
		all = append(all, l)
	}
	return all
}

// Recall goes on with the memory of another endpoint, which is as old as
// elapsed. Call it before Run. Of a tunnel that is no longer there, or has
// another VNI, nothing is taken; the configuration goes before what was set by
// hand, and the limits of the table hold.
func (e *Endpoint) Recall(m Memory, elapsed time.Duration) (entries int) {
	e.askAhead(func() (all []question) {
		for i := range m.Tunnels {
			tm := &m.Tunnels[i]
			t := e.tunnels[tm.Device.Name]
			if t == nil {
				continue
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
		}
		return all
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range m.Tunnels {
		tm := &m.Tunnels[i]
		t := e.tunnels[tm.Device.Name]
		if t == nil || t.config.VNI != tm.VNI {
			continue
		}
		if t = e.recallPeers(t, tm, elapsed); t != nil {
			entries += e.recallTable(t, tm, elapsed)
		}
	}
	return entries
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
		if p.Dynamic && forward.Accepted(t.accept, a) && !speaks[a] && len(dynamic) < maxSpeakers {
			dynamic = append(dynamic, a)
		}
	}
	byHand := maps.Clone(t.entries.at)
	for _, entry := range tm.ByHand {
		if at := stationOf(&entry); t.entries.at[at] == nil && checkEntry(&t.config, &entry) == nil {
			byHand[at] = append(byHand[at], entry)
		}
	}
	var pointed []forward.Destination
	for i := range tm.Table {
		if l := &tm.Table[i]; l.NoPeer && (!t.config.Local.IsValid() || t.config.Local.Is4() == l.Remote.Addr().Is4()) {
			pointed = append(pointed, l.destination())
		}
	}
	if len(dynamic) > len(t.dynamic) || len(byHand) > len(t.entries.at) || len(pointed) > 0 {
		name := t.config.Device.Name
		err := e.rewire(t, func(n *tunnel) {
			n.dynamic, n.pointed = dynamic, append(n.pointed, pointed...)
			n.entries = n.newEntries(byHand)
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
func (e *Endpoint) recallTable(t *tunnel, tm *TunnelMemory, elapsed time.Duration) (n int) {
	now, own := e.clock(), t.device.State().LLAddr
	nexthops := make(map[forward.Destination]fdb.Nexthop)
	for _, p := range t.peers {
		nexthops[p.Dest] = p.Nexthop
	}
	for _, l := range tm.Table {
		i, found := slices.BinarySearchFunc(t.domains, l.VLAN, domain.compare)
		if !found || t.domains[i].vni != l.Segment {
			continue
		}
		table := t.domains[i].fdb
		nh, ok := fdb.Local, l.Local
		if !ok {
			nh, ok = nexthops[l.destination()]
		}
		entry := fdb.Entry{
			MAC: l.MAC, Nexthop: nh, State: l.State, Flags: l.Flags, Moves: l.Moves,
			Updated: max(l.Updated, 0) + elapsed, Used: max(l.Used, 0) + elapsed,
		}
		aged := t.config.Ageing > 0 && l.State == fdb.Dynamic && l.Flags&fdb.ExternLearn == 0 && entry.Updated >= t.config.Ageing
		learned := l.State == fdb.Dynamic && l.Flags == 0
		if !ok || aged || l.MAC == own || learned && !t.config.Learning || l.State == fdb.Dynamic && t.config.MaxAddress > 0 && table.Count().Dynamic >= t.config.MaxAddress {
			continue
		}
		if table.Add(entry, now) == nil {
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
}

// Brief returns all tunnels, sorted by name.
func (e *Endpoint) Brief() []Brief {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]Brief, 0, len(e.tunnels))
	for _, t := range e.sorted() {
		b := Brief{Name: t.config.Device.Name, VNI: t.config.VNI, NoVNI: t.config.NoVNI, MTU: t.device.State().MTU, Up: !t.config.Device.Down && !t.state.Failed.Load()}
		for _, p := range t.peers {
			if p.speaks {
				b.Peers = append(b.Peers, BriefPeer{p.config.Name, p.Dest.Remote, p.lastSeen(e)})
			}
		}
		all = append(all, b)
	}
	return all
}
