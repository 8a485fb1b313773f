package vtep

import (
	"net/netip"
	"slices"
	"time"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// State is the endpoint at one moment, for people and programs to look at.
type State struct {
	Workers int
	Stuck   []int // workers that do not go round any more; see Progress
	Started time.Time
	Ready   bool // packets can flow and no worker is stuck
	// Drops are the packets that belong to no tunnel.
	Drops   Drops
	Tunnels []TunnelState // sorted by name
	Sockets []SocketState
}

// TunnelState is one tunnel at one moment.
type TunnelState struct {
	Config  Tunnel // as checked and completed
	Ifindex int
	LLAddr  packet.MAC
	MTU     int // of the device
	MTUAuto bool
	Accept  []netip.Prefix // from where anybody may speak
	Failed  bool           // the device was deleted under us
	Offload packet.Offload
	Since   time.Time
	Stats   Stats
	Drops   Drops
	Peers   []PeerState
	FDB     FDBState
	// Answered are ARP and ND requests answered by neigh_suppress.
	Answered uint64
}

// PeerState is one peer of a tunnel at one moment.
type PeerState struct {
	Peer
	Remote   netip.AddrPort
	Dynamic  bool // let in by accept when it first spoke
	Given    bool // one of Tunnel.Peers
	Flood    bool // gets copies of flooded frames
	Stats    Stats
	LastSeen time.Time // of the last packet admitted; zero: never
	PathMTU  int       // of the underlay, in bytes of outer IP packet; 0: no route
	Error    string    // why nothing can be sent, e.g. "the route to it leads into gnv0"
}

// Stats are packets and bytes of inner frames, Rx from the underlay, Tx to it.
type Stats struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	// TxFlood are those of TxPackets that were copies of flooded frames.
	TxFlood uint64
}

// FDBState sums up a forwarding table.
type FDBState struct {
	Learned, Static, Limit int
	Moved, Aged            uint64
	Damped, Frozen         uint64 // moves not made of flapping addresses, and how often one was frozen
}

// SocketState is one address that is listened on.
type SocketState struct {
	Local     netip.AddrPort
	Device    string
	Overflows uint64 // datagrams the kernel dropped for want of room
}

// FDBEntry is one entry of a tunnel's forwarding table with its peer
// resolved. The flood list shows as entries of the zero address.
type FDBEntry struct {
	fdb.Entry
	Tunnel string
	Local  bool           // behind our own device
	Remote netip.AddrPort // the peer, unless Local
	VNI    geneve.VNI
	Via    string // underlay device; "": as the route says
	Flood  bool   // a flood list entry
	// Whether port and VNI are other than the tunnel's.
	OtherPort, OtherVNI bool
}

// State returns the endpoint as it is now.
func (e *Endpoint) State() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := State{Workers: len(e.workers), Stuck: e.stuckWorkers(), Started: e.started}
	s.Ready = e.ready.Load() && len(s.Stuck) == 0
	for _, w := range e.workers {
		s.Drops.add(&w.drops)
	}
	for _, t := range e.sorted() {
		s.Tunnels = append(s.Tunnels, t.report(e))
	}
	for _, sock := range e.sockets {
		state := SocketState{Local: netip.AddrPortFrom(sock.options.Local, sock.options.Port), Device: sock.options.Device}
		for _, r := range sock.receivers {
			if r != nil { // a group has one only
				state.Overflows += r.Overflows()
			}
		}
		s.Sockets = append(s.Sockets, state)
	}
	slices.SortFunc(s.Sockets, func(a, b SocketState) int { return a.Local.Compare(b.Local) })
	return s
}

// report is the tunnel as it is now.
func (t *tunnel) report(e *Endpoint) TunnelState {
	d, seg := t.device, t.port.segment
	s := TunnelState{
		Config: t.config, Ifindex: d.Ifindex(), LLAddr: d.LLAddr(),
		MTU: t.mtu, MTUAuto: t.mtuAuto, Accept: t.accept, Failed: t.state.failed.Load(),
		Offload: packet.Offload(t.state.offload.Load()), Since: t.since, Answered: t.state.answered.Load(),
	}
	if mtu, err := d.MTU(); err == nil {
		s.MTU = mtu
	}
	for i := range seg.drops {
		s.Drops.add(&seg.drops[i])
	}
	for _, p := range t.peers {
		stats, _ := sumTraffic(p.traffic)
		s.Stats.add(stats)
		ps := PeerState{Peer: p.config, Remote: p.dest.remote, Dynamic: p.dynamic, Given: p.speaks && !p.dynamic, Flood: p.floods, Stats: stats, LastSeen: p.lastSeen(e)}
		limit := int(p.limit.Load())
		if limit != 0 {
			ps.PathMTU = limit + p.outer
		}
		switch {
		case p.blocked.Load():
			ps.Error = "the route to it leads into a tunnel"
		case limit == 0:
			ps.Error = "no route"
		}
		s.Peers = append(s.Peers, ps)
	}
	counts, stats := seg.fdb.Count(), seg.fdb.Stats()
	s.FDB = FDBState{
		Learned: counts.Dynamic, Static: counts.Static + counts.Permanent, Limit: seg.fdb.Limit(),
		Moved: stats.Moved, Aged: stats.Aged, Damped: stats.Damped, Frozen: stats.Frozen,
	}
	return s
}

// FDB returns the forwarding tables' entries, those of one tunnel after those
// of another, with the flood lists as entries of the zero address.
func (e *Endpoint) FDB() []FDBEntry {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	var all []FDBEntry
	for _, t := range e.sorted() {
		all = append(all, t.floodList()...)
		for entry := range t.fdb.All(now) {
			all = append(all, t.describe(entry)...)
		}
	}
	return all
}
