// Package forward is what a packet sees of an endpoint: one immutable snapshot of
// ports, segments and peers, and the decisions that it leads to. Nothing here makes a
// system call, waits or knows of workers. Tables, limits and counters inside are for any
// number of threads.
package forward

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/option"
)

// Snapshot is everything that workers read: ports, segments, peers, settings.
// It is never changed once published; a live change publishes another.
type Snapshot struct {
	Ports   []*Port
	Sockets []*Socket
	// Admit is the one lookup that a received datagram must pass.
	Admit Shards[Admission, *Peer]
	// Sources are the peers of trunks, by where their datagrams come from, in the order of
	// their tunnels' IDs: of a tunnel it is one.
	Sources Shards[Source, []*Peer]
	// VNIs is how many tunnels have a VNI for their own, and Trunks are those that have it for a
	// VLAN: they tell "no such VNI here" from "not from you". Open are those of both with accept.
	// Lists are in the order of the IDs. What they have of a tunnel holds for all versions of it with the same
	// VNIs on the same sockets.
	VNIs         Shards[VNIKey, int]
	Trunks, Open Shards[VNIKey, []*PortState]
	// Peers finds the peer of a failed send by packet.Path.Peer.
	Peers Shards[PeerID, *Peer]
	// Own are the devices from which no datagram may be taken, but of a peer that is reached
	// through them (PeerState.Through): tunnel devices and what
	// is stacked on them (RFC 8926 section 6.2), unless a bridge joins them with others. They are
	// in ascending order, and so are Cards.
	Own []int32
	// Guard is what frames are compared with while one does; nil: none does.
	Guard *Guard
	// Cards are the devices whose datagrams have crossed a wire: no checksum in them is
	// unfinished.
	Cards []int32
	// Names are the kinds of options that are known.
	Names *option.Registry
}

// Admission is what a datagram must match to be admitted: where it arrived, its VNI and its
// source.
type Admission struct {
	VNIKey
	Source netip.Addr
}

type VNIKey struct {
	Socket uint32 // socket.id
	VNI    packet.VNI
}

// Socket is the receive sockets of one address.
type Socket struct {
	ID        uint32
	Name      string     // address and port, for people
	Local     netip.Addr // unspecified: any
	Encap     encap.Format
	Parse     encap.Parser // of Encap
	Port      uint16
	Receivers []netio.Receiver
	Received  []packet.Counter // datagrams, by worker
}

// Key is where a VNI arrives on the socket.
func (s *Socket) Key(vni packet.VNI) VNIKey { return VNIKey{s.ID, vni} }

// Admission is what a datagram from source with a VNI must match on the socket.
func (s *Socket) Admission(vni packet.VNI, source netip.Addr) Admission {
	return Admission{s.Key(vni), source}
}

// Source is where a datagram comes from, whatever its VNI.
func (s *Socket) Source(addr netip.Addr) Source { return Source{s.ID, addr} }

// From is where such a datagram comes from.
func (a Admission) From() Source { return Source{a.Socket, a.Source} }

// Admission is what a datagram from s with a VNI must match.
func (s Source) Admission(vni packet.VNI) Admission { return Admission{VNIKey{s.Socket, vni}, s.Addr} }

// Port is where a device meets a segment.
type Port struct {
	Name    string
	Device  netio.Device
	Queues  []netio.Queue  // read by any worker
	Writers []netio.Writer // by worker
	L3      bool
	Down    bool // its device is meant to be down
	MAC     packet.MAC
	IP      netip.Addr // its first IPv4 address, as configured; zero: it has none
	Mtu     int        // of the device, as configured; 0: it follows the paths
	// Configured are the peers that the tunnel should reach.
	Configured []*Peer
	Segment    *Segment // of a trunk: that of frames without a tag, whether or not it has one
	Trunk      *Trunk   // nil: all frames are of one segment
	*PortState
}

// PortState is what changes about a port while snapshots come and go.
type PortState struct {
	ID uint32 // of the tunnel, never reused
	// Offload is what may still be written to the device: an ability goes
	// when the kernel refuses what was joined for it.
	Offload atomic.Uint32
	// Failed is set once by the first worker that finds the device gone.
	Failed atomic.Bool
	// Answered counts ARP and ND requests answered for their targets.
	Answered atomic.Uint64
	// OddECN counts packets from peers whose outer ECN does not go with the inner (ecnOdd).
	OddECN atomic.Uint64
	// TooBigSent counts senders told that a packet is too big for the path, which
	// TooBig limits; tooBigDue is its state.
	TooBigSent atomic.Uint64
	TooBig     RateLimit
	TooBigDue  atomic.Int64
	// ReportedFloods is how many of the frames above bum_limit the watcher has told of.
	ReportedFloods uint64
	// RoomAgain is from when senders may be admitted in the place of others; guarded by
	// Endpoint.mu.
	RoomAgain int64
	// ReportedFaults are those of the device that the watcher has told of.
	ReportedFaults []string
	// ReportedDown is whether events last said that the device is down.
	ReportedDown bool
	// Fast says that changes of the table are told to the fast path. Current is set then.
	Fast atomic.Bool
	// Current is the port in the newest snapshot, set before workers get that.
	Current atomic.Pointer[Port]
}

// Segment is one broadcast domain: a VNI with its forwarding table, flood
// list and settings.
type Segment struct {
	VNI        packet.VNI
	VID        uint16 // the VLAN ID of its frames on the device; 0: they go as they are
	VLANDrop   bool
	FDB        *fdb.Table
	BUM        RateLimit
	Neighbours *neigh.Table    // nil: no suppression
	Traffic    []count.Traffic // of a VLAN, by worker; else nil
	*Rules
}

// Destination is where datagrams go, as far as it differs within a tunnel.
type Destination struct {
	Remote netip.AddrPort
	VNI    packet.VNI // 0 unless hasVNI
	HasVNI bool       // not that of the frame's segment
	Via    string     // underlay device; "": as the route says
	// Options are those of an entry, in the place of what tunnel and peer have.
	Options option.Shared
}

// Peer is a remote VTEP of one segment.
type Peer struct {
	ID      int32 // never reused
	Tunnel  *PortState
	Nexthop fdb.Nexthop
	Dest    Destination
	BUM     RateLimit // of what it floods
	// Configured says that a configuration names it, or an entry of a flood list: it was not
	// let in by accept.
	Configured bool
	// Path is the way there with Don't Fragment, and pathFrag without. Only
	// those that the DF policy needs are set.
	Path, PathFrag *packet.Path
	// RemoteBytes and remotePort are its address as it stands in a packet.
	RemoteBytes string
	RemotePort  uint16
	// Headers are the GENEVE headers of datagrams to it; see header.
	Headers [2][]byte
	// Slots are where in these something of each packet goes.
	Slots []option.Slot
	// Outer is the length of all that stands before the inner frame on the
	// wire: IP, UDP and GENEVE header.
	Outer int
	// Alone is the peer by itself, as what a nexthop stands for.
	Alone []*Peer
	// Control limits its control packets; without a limit it has no BFD session.
	Control RateLimit
	*PeerState
}

// PeerState is what changes about a peer while snapshots come and go.
type PeerState struct {
	// Limit is the longest inner frame that the path carries whole, in
	// bytes; 0 while there is no route.
	Limit atomic.Int32
	// Refused is the size of the last frame that the kernel refused although it was
	// within the limit, ceiling what the limit became then, 0: none, and refusals how
	// often that was in a row.
	Refused, Ceiling, Refusals atomic.Int32
	// doubtful: its route is to be asked for again at once.
	Doubtful atomic.Bool
	// Blocked says that the route leads back into the peer's own tunnel.
	Blocked atomic.Bool
	// Loop says how; nil: it does not.
	Loop atomic.Pointer[Loop]
	// Through is the device, a tunnel's or stacked on one, by which the way to the peer leads
	// through another tunnel of ours and not back, 0: there is none. What the peer
	// sends may come out of that device, and out of no other of ours.
	Through atomic.Int32
	// Hop is the Ethernet address of the next hop on the bridge that our device is in, too,
	// 0: there is none, and Echoed when that was last seen to speak inside, 0: never.
	Hop    atomic.Uint64
	Echoed atomic.Int64
	// BUMDue is the state of the limit of what it floods, and flooded counts
	// what was above it; the watcher has told of reportedFloods of these.
	BUMDue         atomic.Int64
	Flooded        atomic.Uint64
	ReportedFloods uint64

	// Health is what BFD says of it, a bfd.Health, and ControlDue the state of Peer.Control.
	Health     atomic.Uint32
	ControlDue atomic.Int64

	Traffic []count.Traffic // by worker, and behind them of the fast path if there is one

	// SendError is the errno of the last send to it that the kernel refused, 0: none was, and
	// SendErrorAt the endpoint's clock then.
	SendError   atomic.Uint32
	SendErrorAt atomic.Int64
	// ProbeDue is the state of the limit of answers to its probes.
	ProbeDue atomic.Int64
}

// Loop is why what is sent to a peer would come back to us.
type Loop struct {
	Why    string
	Shared bool // a bridge or bond joins our devices with the underlay
}

// Port is where the peer's frames go. The newest one holds for all: a change of the tunnel
// leaves its peers as they are.
func (p *Peer) Port() *Port { return p.Tunnel.Current.Load() }

// Dead reports whether BFD says that nothing reaches the peer.
func (p *Peer) Dead() bool { return p.Health.Load() == uint32(bfd.Dead) }

// Header returns the GENEVE header for an inner packet of an IP version.
func (to *Peer) Header(version uint8) []byte {
	if version == 6 {
		return to.Headers[1]
	}
	return to.Headers[0]
}

// NexthopPeers returns the peers behind nh, nil if it is unknown to this
// snapshot (a worker may read an entry learned under a newer one).
func (s *Segment) NexthopPeers(nh fdb.Nexthop) []*Peer {
	if int(nh) >= len(s.Nexthops) {
		return nil
	}
	return s.Nexthops[nh]
}

// learnedFrom reports whether a frame from a peer may carry a source address
// that is pinned to nh: one host can be several destinations.
func (s *Segment) learnedFrom(nh fdb.Nexthop, from *Peer) bool {
	return slices.ContainsFunc(s.NexthopPeers(nh), func(p *Peer) bool { return p.Dest.Remote.Addr() == from.Dest.Remote.Addr() })
}

// Refuse takes note of a frame of size bytes that the kernel refused as too long for
// the path: from now on what is sent is shorter. It reports whether the route is to be
// asked for again. Workers call it.
func (p *Peer) Refuse(size int) bool {
	least := MinMTU
	if p.Dest.Remote.Addr().Is6() {
		least = MinIPv6
	}
	for {
		limit := p.Limit.Load()
		if int(limit) < size {
			return false // an older one, which was under way when the first was refused
		}
		if size <= least-p.Outer {
			return !p.Doubtful.Swap(true)
		}
		lower := int32(max(size-refusedStep<<min(p.Refusals.Load(), 10), least-p.Outer))
		if p.Limit.CompareAndSwap(limit, lower) {
			p.Refused.Store(int32(size))
			p.Ceiling.Store(lower)
			p.Refusals.Add(1)
			p.Doubtful.Store(true)
			return true
		}
	}
}

// Admitted returns the peer that a datagram is from, and the segment that it
// is for; nil if nobody admits it.
func (snap *Snapshot) Admitted(key *Admission) (*Peer, *Segment) {
	if p := snap.Admit.parts[key.shard()][*key]; p != nil { // without Get, whose copies of the key cost as much again
		return p, p.Port().Segment
	}
	return snap.byTrunk(key)
}

// byTrunk is Admitted for the VLANs of trunks. Trunks can have all their peers in common, or all
// their VNIs: PeerOf goes through the shorter list.
func (snap *Snapshot) byTrunk(key *Admission) (*Peer, *Segment) {
	peers := snap.Sources.Get(key.From())
	if len(peers) == 0 {
		return nil, nil
	}
	p := PeerOf(peers, snap.Trunks.Get(key.VNIKey), nil)
	if p == nil {
		return nil, nil
	}
	seg := p.Port().Trunk.Of(key.VNI)
	if seg == nil {
		return nil, nil // since a moment ago
	}
	return p, seg
}

// PeerOf returns the first of some peers whose tunnel is one of some tunnels, but not one; nil if
// there is none. Both are in the order of the tunnels' IDs.
func PeerOf(peers []*Peer, tunnels []*PortState, but *PortState) *Peer {
	if len(peers) <= len(tunnels) {
		for _, p := range peers {
			_, ok := slices.BinarySearchFunc(tunnels, p.Tunnel.ID, func(t *PortState, id uint32) int { return cmp.Compare(t.ID, id) })
			if ok && p.Tunnel != but {
				return p
			}
		}
		return nil
	}
	for _, t := range tunnels {
		i, ok := slices.BinarySearchFunc(peers, t.ID, func(p *Peer, id uint32) int { return cmp.Compare(p.Tunnel.ID, id) })
		if ok && t != but {
			return peers[i]
		}
	}
	return nil
}

// ConfiguredAt returns a peer of any tunnel that is configured and has an address, nil if there is
// none. It looks at all of them.
func (snap *Snapshot) ConfiguredAt(addr netip.Addr) *Peer {
	for _, p := range snap.Ports {
		for _, peer := range p.Configured {
			if peer.Configured && peer.Dest.Remote.Addr().WithZone("") == addr.WithZone("") {
				return peer
			}
		}
	}
	return nil
}

// Listening returns whether there is a tunnel with a VNI on a socket, and the
// port of one that lets in who is not known yet.
func (snap *Snapshot) Listening(key VNIKey) (known bool, open *Port) {
	if all := snap.Open.Get(key); len(all) > 0 {
		return true, all[len(all)-1].Current.Load()
	}
	return snap.VNIs.Get(key) > 0 || len(snap.Trunks.Get(key)) > 0, nil
}

// Reinjected reports whether a datagram comes out of a tunnel device of ours, where it was
// carried inside the overlay: tenants do not speak to us (RFC 8926 section 6.2). A
// peer that is reached through another tunnel of ours does; from is nil if the sender is
// unknown, and ifindex 0 if the device is.
func (snap *Snapshot) Reinjected(ifindex int32, from *Peer) bool {
	return ifindex != 0 && snap.IsOwn(ifindex) && (from == nil || from.Through.Load() != ifindex)
}

// IsOwn reports whether a device is one of ours, or stacked on one.
func (snap *Snapshot) IsOwn(ifindex int32) bool {
	_, own := slices.BinarySearch(snap.Own, ifindex)
	return own
}

// IsCard reports whether what comes in by a device has crossed a wire.
func (snap *Snapshot) IsCard(ifindex int32) bool {
	_, card := slices.BinarySearch(snap.Cards, ifindex)
	return card
}

// Refuse takes back the ability to write super-frames of a GSO type.
func (p *Port) Refuse(gso uint8) {
	p.Offload.And(^uint32(packet.OffloadFor(gso)))
}

// Accepted reports whether accept admits a source.
func Accepted(accept []netip.Prefix, source netip.Addr) bool {
	return slices.ContainsFunc(accept, func(a netip.Prefix) bool { return a.Contains(source) })
}

// SocketByID returns a socket that is in the snapshot.
func (snap *Snapshot) SocketByID(id uint32) *Socket {
	return snap.Sockets[slices.IndexFunc(snap.Sockets, func(s *Socket) bool { return s.ID == id })]
}
