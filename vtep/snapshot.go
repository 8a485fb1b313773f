package vtep

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// snapshot is everything that workers read: ports, segments, peers, settings.
// It is never changed once published; a live change publishes another.
type snapshot struct {
	ports   []*port
	sockets []*fsocket
	// admit is the one lookup that a received datagram must pass.
	admit map[admission]*fpeer
	// sources are the peers of trunks, by where their datagrams come from.
	sources map[source][]*fpeer
	// vnis tells "no such VNI here" from "not from you".
	vnis map[vniKey]struct{}
	// trunks are the ports of trunks by the sockets they listen on.
	trunks map[uint32][]*port
	// open are the segments that let in whoever accept says.
	open map[vniKey]*port
	// peers finds the peer of a failed send by packet.Path.Peer.
	peers map[int32]*fpeer
	// own are the devices from which no datagram may be taken: tunnel
	// devices and all that is stacked on them (RFC 8926 section 6.2).
	own []int32
}

// admission is what a datagram must match to be let in: where it arrived,
// its VNI and who sent it.
type admission struct {
	vniKey
	source netip.Addr
}

type vniKey struct {
	socket uint32 // socket.id
	vni    geneve.VNI
}

// fsocket is the receive sockets of one address.
type fsocket struct {
	id        uint32
	name      string // address and port, for people
	receivers []netio.Receiver
	received  []packet.Counter // datagrams, by worker
}

// port is where a device meets a segment.
type port struct {
	id     uint32 // of the tunnel, never reused
	name   string
	device netio.Device
	queues []netio.Queue // read by any worker, written to by worker
	l3     bool
	down   bool // its device is meant to be down
	mac    packet.MAC
	mtu    int // of the device, as configured; 0: it follows the paths
	// configured are the peers that the tunnel should reach.
	configured []*fpeer
	segment    *segment // of a trunk: that of frames without a tag, whether or not it has one
	trunk      *trunk   // nil: all frames are of one segment
	*portState
}

// portState is what changes about a port while snapshots come and go.
type portState struct {
	// offload is what may still be written to the device: an ability goes
	// when the kernel refuses what was joined for it.
	offload atomic.Uint32
	// failed is set once by the first worker that finds the device gone.
	failed atomic.Bool
	// answered counts ARP and ND requests answered for their targets.
	answered atomic.Uint64
	// toldTooBig counts senders told that a packet is too big for the path, which
	// tooBig limits; tooBigDue is its state.
	toldTooBig atomic.Uint64
	tooBig     rateLimit
	tooBigDue  atomic.Int64
	// toldFloods is how many of the frames above bum_limit the watcher has told of.
	toldFloods uint64
	// roomAgain is from when speakers may be let in in the place of others; guarded by
	// Endpoint.mu.
	roomAgain int64
	// toldFaults are those of the device that the watcher has told of.
	toldFaults []string
	// current is the port in the newest snapshot.
	current atomic.Pointer[port]
}

// segment is one broadcast domain: a VNI with its forwarding table, flood
// list and settings.
type segment struct {
	vni        geneve.VNI
	vid        uint16 // the VLAN ID of its frames on the device; 0: they go as they are
	vlanDrop   bool
	fdb        *fdb.Table
	bum        rateLimit
	neighbours *neigh.Table // nil: no suppression
	traffic    []traffic    // of a VLAN, by worker; else nil
	*rules
}

// destination is where datagrams go, as far as it differs within a tunnel.
type destination struct {
	remote netip.AddrPort
	vni    geneve.VNI // 0 unless hasVNI
	hasVNI bool       // not that of the frame's segment
	via    string     // underlay device; "": as the route says
}

// rules are what the segments of one tunnel share.
type rules struct {
	// nexthops is indexed by fdb.Nexthop; fdb.Local has none.
	nexthops [][]*fpeer
	flood    []*fpeer
	// Of an L3 tunnel: who has which routes or, without routes, the one peer.
	prefixes *prefixes
	single   []*fpeer

	learning bool
	// Of outer headers. What is inherited is the inner packet's; ttl is then for those
	// that are not IP.
	ttl, tos                          uint8
	inheritTTL, inheritTOS, inheritDF bool
	unsetDF                           bool
	l2ControlPass                     bool
	locked                            bool
	groups                            bool // the table has entries for group addresses
	accept                            []netip.Prefix

	noFlood, noMcastFlood, noBcastFlood bool

	drops []dropCounters // by worker
}

// fpeer is a remote VTEP of one segment.
type fpeer struct {
	id      int32 // never reused
	port    *port
	nexthop fdb.Nexthop
	dest    destination
	bum     rateLimit // of what it floods
	// path is the way there with Don't Fragment, and pathFrag without. Only
	// those that the DF policy needs are set.
	path, pathFrag *packet.Path
	// remoteBytes and remotePort are its address as it stands in a packet.
	remoteBytes string
	remotePort  uint16
	// headers are the GENEVE headers of datagrams to it; see header.
	headers [2][]byte
	// outer is the length of all that stands before the inner frame on the
	// wire: IP, UDP and GENEVE header.
	outer int
	*peerState
}

// peerState is what changes about a peer while snapshots come and go.
type peerState struct {
	// limit is the longest inner frame that the path carries whole, in
	// bytes; 0 while there is no route.
	limit atomic.Int32
	// refused is the size of the last frame that the kernel refused although it was
	// within the limit, ceiling what the limit became then, 0: none, and refusals how
	// often that was in a row.
	refused, ceiling, refusals atomic.Int32
	// doubtful: its route is to be asked for again at once.
	doubtful atomic.Bool
	// blocked says that the route leads into a tunnel device of ours.
	blocked atomic.Bool
	// bumDue is the state of the limit of what it floods, and flooded counts
	// what was above it; the watcher has told of toldFloods of these.
	bumDue     atomic.Int64
	flooded    atomic.Uint64
	toldFloods uint64

	traffic []traffic // by worker
}

// header returns the GENEVE header for an inner packet of an IP version.
func (to *fpeer) header(version uint8) []byte {
	if version == 6 {
		return to.headers[1]
	}
	return to.headers[0]
}

// nexthopPeers returns the peers behind nh, nil if it is unknown to this
// snapshot (a worker may read an entry learned under a newer one).
func (s *segment) nexthopPeers(nh fdb.Nexthop) []*fpeer {
	if int(nh) >= len(s.nexthops) {
		return nil
	}
	return s.nexthops[nh]
}

// learnedFrom reports whether a frame from a peer may carry a source address
// that is pinned to nh: one host can be several destinations.
func (s *segment) learnedFrom(nh fdb.Nexthop, from *fpeer) bool {
	return slices.ContainsFunc(s.nexthopPeers(nh), func(p *fpeer) bool { return p.dest.remote.Addr() == from.dest.remote.Addr() })
}

// refuse takes note of a frame of size bytes that the kernel refused as too long for
// the path: from now on what is sent is shorter. It reports whether the route is to be
// asked for again. Workers call it.
func (p *fpeer) refuse(size int) bool {
	least := minMTU
	if p.dest.remote.Addr().Is6() {
		least = minIPv6
	}
	for {
		limit := p.limit.Load()
		if int(limit) < size {
			return false // an older one, which was under way when the first was refused
		}
		if size <= least-p.outer {
			return !p.doubtful.Swap(true)
		}
		lower := int32(max(size-refusedStep<<min(p.refusals.Load(), 10), least-p.outer))
		if p.limit.CompareAndSwap(limit, lower) {
			p.refused.Store(int32(size))
			p.ceiling.Store(lower)
			p.refusals.Add(1)
			p.doubtful.Store(true)
			return true
		}
	}
}
