package vtep

import (
	"iter"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
)

// State is the endpoint at one moment.
type State struct {
	Workers int
	Stuck   []int // workers that make no progress; see Progress
	Started time.Time
	Running bool // all is started, and it does not stop
	Ready   bool // the configured state is true: Running, and no Faults
	// Faults are what is other than configured though all is started, such
	// as "device gnv0 is down".
	Faults []string
	// Drops are the packets that belong to no tunnel, Dropped all.
	Drops   count.Drops
	Dropped count.Drops
	Tunnels []TunnelState // sorted by name
	Sockets []SocketState
	Sent    []packet.Sent
	// Packets of each system call of the workers.
	UDPReceive, UDPTransmit, TAPReceive, TAPTransmit packet.BatchCounts
	Options                                          []count.OptionState // sorted by class
	FastPunts                                        []netio.FastPunt    // nil: there is no fast path
	// Refused are dropped packets from the underlay, by what they looked like, the most frequent
	// first. It is bounded: of a flood of many kinds it has the last ones.
	Refused []Refused
	// Deaf says that ICMP errors are not seen.
	Deaf bool
}

// TunnelState is one tunnel at one moment.
type TunnelState struct {
	Config  Tunnel // as checked and completed
	Ifindex int
	LLAddr  packet.MAC
	MTU     int // of the device
	Queues  int // of the device
	MTUAuto bool
	Accept  []netip.Prefix // hosts there become peers when their first packet arrives
	Failed  bool           // the device was deleted under us
	Faults  []string       // what is other than configured about the device
	// Ready says that packets can flow: the endpoint is Running, the device is up and all about the
	// tunnel is as configured; else Unready says why not.
	Ready   bool
	Unready []string
	Up      bool // the device is administratively up
	Offload packet.Offload
	Since   time.Time
	Stats   count.Stats
	Drops   count.Drops
	Peers   []PeerState
	FDB     FDBState // of all VLANs together, but for Limit, which each has for itself
	// Answered are ARP and ND requests answered by neigh_suppress.
	Answered uint64
	// OddECN are packets from peers with an outer ECN field that does not go with the inner one.
	OddECN uint64
	// TooBig is how often a sender was told that its packet is too big for the path.
	TooBig uint64
	// OptionHits are the packets that each of Config.OptionRules matched.
	OptionHits []uint64
	// SendHits are the packets that each of Config.SendRules was for.
	SendHits []uint64
	// Names are the kinds of options that are known.
	Names *option.Registry
	Fast  FastState
}

// PeerState is one peer of a tunnel at one moment.
type PeerState struct {
	Peer
	Remote   netip.AddrPort
	Dynamic  bool // an automatic peer, admitted by accept
	Given    bool // one of Tunnel.Peers
	Flood    bool // gets copies of flooded frames
	Speaks   bool // its packets are admitted; false for a group, and for the destination of an entry
	Stats    count.Stats
	Flooded  uint64    // frames above its BUMLimit
	LastSeen time.Time // of the last packet admitted; zero: never
	NoGSO    bool      // the kernel has refused runs of datagrams to it
	PathMTU  int       // of the underlay, in bytes of outer IP packet; 0: no route
	Error    string    // why nothing can be sent, e.g. "the route to it leads into gnv0"
	Contact  Contact
	Refused  []PeerRefused
	SendErr  SendError
	ICMP     ICMPError // At is zero if there was none
	Live     BFDState
}

// FDBState sums up a forwarding table.
type FDBState struct {
	Learned, Static, Limit int
	Permanent              int    // of Static
	Entered                uint64 // addresses learned so far
	Moved, Aged            uint64
	Full, Own              uint64 // not learned: no room; an address of our own
	Evicted                uint64 // made room for a peer with less than its share
	Damped, Frozen         uint64 // moves not made of flapping addresses, and how often one was frozen
}

// SocketState is one address that is listened on.
type SocketState struct {
	Local     netip.AddrPort // with a group its address
	Device    string
	Received  uint64 // datagrams
	Overflows uint64 // datagrams the kernel dropped for want of room
	Rcvbuf    int    // bytes, of each worker's socket
	GRO       bool
}

// FDBEntry is one entry of a tunnel's forwarding table with its peer
// resolved. The flood list shows as entries of the zero address.
type FDBEntry struct {
	fdb.Entry
	Tunnel string
	VLAN   uint16         // of a trunk; 0: no tag
	ID     packet.VNI     // of the segment that the entry is in
	Local  bool           // behind our own device
	Remote netip.AddrPort // the peer, unless Local
	VNI    packet.VNI
	Via    string // underlay device; "": as the route says
	Flood  bool   // a flood list entry
	// Owner wrote it, ConfigOwner or that of a batch; "": it was learned. Seq is the owner's.
	Owner string
	Seq   uint32
	// Whether port and VNI are other than the tunnel's and the segment's.
	OtherPort, OtherVNI bool
	// Options are its own, in the place of those of tunnel and peer.
	Options option.Shared
}

// State returns the endpoint as it is now.
func (e *Endpoint) State() State {
	e.pullCounts()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := State{Workers: e.workers, Stuck: e.pool.Stuck(), Started: e.started}
	if len(s.Stuck) > 0 {
		s.Faults = append(s.Faults, StuckText(s.Stuck))
	}
	s.Faults = append(s.Faults, e.unpolledFault()...)
	s.Running = e.ready.Load()
	var ports []*forward.Port
	counted := e.pool.Counts()
	s.Drops, s.Options = counted.Drops, counted.Options
	s.Refused, s.Deaf = e.refusals(counted.Refused), e.told.isDeaf()
	clues := e.clues(s.Refused)
	s.UDPReceive, s.UDPTransmit = counted.UDPReceive, counted.UDPTransmit
	s.TAPReceive, s.TAPTransmit = counted.TAPReceive, counted.TAPTransmit
	s.Sent = e.underlay.Sent()
	if e.fast.path != nil {
		s.FastPunts = e.fast.path.Punts()
	}
	s.Dropped = e.goneDrops
	s.Dropped.Join(&s.Drops)
	for _, t := range e.sorted() {
		s.Tunnels = append(s.Tunnels, t.report(e, clues))
		last := &s.Tunnels[len(s.Tunnels)-1]
		s.Dropped.Join(&last.Drops)
		broken, unmet := faultsOf(t.port)
		s.Faults = append(append(s.Faults, broken...), unmet...)
		ports = append(ports, t.port)
	}
	s.Faults = append(s.Faults, idleFaults(ports)...)
	for _, sock := range e.sockets {
		state := SocketState{
			Local: netip.AddrPortFrom(sock.options.Local, sock.options.Port), Device: sock.options.Device,
			Rcvbuf: sock.listener.Rcvbuf(), GRO: sock.listener.GRO(),
		}
		if group := sock.options.Group; group.IsValid() {
			state.Local = netip.AddrPortFrom(group.WithZone(""), sock.options.Port)
		}
		for i := range sock.Received {
			state.Received += sock.Received[i].Load()
		}
		for _, r := range sock.Receivers {
			if r != nil { // a group has one only
				state.Overflows += r.Overflows()
			}
		}
		s.Sockets = append(s.Sockets, state)
	}
	s.Ready = s.Running && len(s.Faults) == 0
	slices.SortFunc(s.Sockets, func(a, b SocketState) int { return a.Local.Compare(b.Local) })
	return s
}

// Tunnel returns one tunnel as it is now. Its cost does not depend on the others.
func (e *Endpoint) Tunnel(name string) (TunnelState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return TunnelState{}, err
	}
	return t.report(e, e.clues(e.refusals(e.pool.Refused()))), nil
}

// Config returns the configuration of one tunnel that runs. It is shared: what its slices
// have must not be changed.
func (e *Endpoint) Config(name string) (Tunnel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return Tunnel{}, err
	}
	return t.config, nil
}

// Configs returns the configurations of all tunnels, sorted by name; see Config.
func (e *Endpoint) Configs() []Tunnel {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]Tunnel, 0, len(e.tunnels))
	for _, t := range e.sorted() {
		all = append(all, t.config)
	}
	return all
}

// sumHits adds up what the workers have counted for each rule.
func sumHits(hits [][]atomic.Uint64, rules int) []uint64 {
	sum := make([]uint64, rules)
	for _, own := range hits {
		for i := range own {
			sum[i] += own[i].Load()
		}
	}
	return sum
}

// report is the tunnel as it is now.
func (t *tunnel) report(e *Endpoint, clues map[netip.Addr][]clue) TunnelState {
	d, seg, now := t.device.State(), t.port.Segment, time.Now()
	failed := d.Deleted || t.state.Failed.Load()
	broken, unmet := deviceFaults(t.port)
	s := TunnelState{
		Config: t.config, Ifindex: d.Ifindex, LLAddr: d.LLAddr, Faults: append(broken, unmet...),
		MTU: d.MTU, Queues: len(t.port.Queues), MTUAuto: t.mtuAuto, Accept: t.accept, Failed: failed, Up: d.Up && !failed,
		Offload: packet.Offload(t.state.Offload.Load()), Since: t.since, Answered: t.state.Answered.Load(), OddECN: t.state.OddECN.Load(), TooBig: t.state.TooBigSent.Load(),
		Fast: e.fastState(t), Names: e.Names(),
	}
	s.Unready = e.unready(t)
	s.Ready = e.ready.Load() && len(s.Unready) == 0
	s.Stats = t.gone
	s.OptionHits = sumHits(seg.OptionHits, len(t.config.OptionRules))
	s.SendHits = sumHits(seg.SendHits, len(t.config.SendRules))
	for i := range seg.Drops {
		s.Drops.Add(&seg.Drops[i])
	}
	for _, p := range t.peers {
		stats, _ := p.counters()
		s.Stats.Add(stats)
		ps := PeerState{Peer: p.config, Remote: p.Dest.Remote, Dynamic: p.dynamic, Given: p.speaks && !p.dynamic, Flood: p.floods, Speaks: p.speaks, Stats: stats, Flooded: p.Flooded.Load(), LastSeen: p.lastSeen(e), NoGSO: p.runsRefused()}
		ps.Refused, ps.SendErr, ps.ICMP = t.refused(p, clues), p.sendError(e), e.told.about(p.Dest.Remote)
		ps.Live = e.bfdState(p)
		limit := int(p.Limit.Load())
		if limit != 0 {
			ps.PathMTU = limit + p.Outer
		}
		switch loop := p.Loop.Load(); {
		case loop != nil:
			ps.Error = loop.Why
		case limit == 0:
			ps.Error = "no route"
		}
		ps.Contact = ps.contact(now)
		s.Peers = append(s.Peers, ps)
	}
	s.FDB.Limit = t.domains[0].fdb.Limit()
	for i := range t.domains {
		s.FDB.add(t.domains[i].state())
	}
	return s
}

// FDB yields the forwarding tables' entries with the configuration of their tunnel, those of one
// tunnel after those of another, with the flood lists as entries of the zero address. It is those
// of the tunnels that are named, or of all. No change waits for it: versions of a tunnel do not
// change, and a table takes care of itself.
func (e *Endpoint) FDB(names ...string) iter.Seq2[*Tunnel, FDBEntry] {
	e.mu.Lock()
	tunnels, now := e.sorted(), e.clock()
	e.mu.Unlock()
	wanted := setOf(names)
	return func(yield func(*Tunnel, FDBEntry) bool) {
		for _, t := range tunnels {
			if len(names) > 0 && !wanted[t.port.Name] {
				continue
			}
			for entry := range t.everything(now) {
				if !yield(&t.config, entry) {
					return
				}
			}
		}
	}
}

func setOf(names []string) map[string]bool {
	all := make(map[string]bool, len(names))
	for _, name := range names {
		all[name] = true
	}
	return all
}

// everything yields the flood list and the tables of a tunnel.
func (t *tunnel) everything(now int64) iter.Seq[FDBEntry] {
	return func(yield func(FDBEntry) bool) {
		for _, entry := range t.floodList() {
			if !yield(entry) {
				return
			}
		}
		for i := range t.domains {
			for entry := range t.domains[i].fdb.All(now) {
				for described := range t.describe(&t.domains[i], entry) {
					if !yield(described) {
						return
					}
				}
			}
		}
	}
}
