package vtep

import (
	"net/netip"
	"sync/atomic"
	"time"

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
	sockets []*socket
	// admit is the one lookup that a received datagram must pass.
	admit map[admission]*peer
	// sources are the peers of trunks, by where their datagrams come from.
	sources map[source][]*peer
	// vnis tells "no such VNI here" from "not from you".
	vnis map[vniKey]struct{}
	// trunks are the ports of trunks by the sockets they listen on.
	trunks map[uint32][]*port
	// open are the segments that let in whoever accept says.
	open map[vniKey]*port
	// peers finds the peer of a failed send by packet.Path.Peer.
	peers map[int32]*peer
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

// socket is the receive sockets of one address.
type socket struct {
	id        uint32
	options   netio.ListenOptions
	listener  netio.Listener
	receivers []netio.Receiver
	received  []packet.Counter // datagrams, by worker
	users     int              // tunnels; guarded by Endpoint.mu
}

// port is where a device meets a segment.
type port struct {
	id      uint32 // of the tunnel, never reused
	name    string
	device  netio.Device
	queues  []netio.Queue // read by any worker, written to by worker
	l3      bool
	down    bool // its device is meant to be down
	mac     packet.MAC
	segment *segment // of a trunk: that of frames without a tag, whether or not it has one
	trunk   *trunk   // nil: all frames are of one segment
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

// rules are what the segments of one tunnel share.
type rules struct {
	// nexthops is indexed by fdb.Nexthop; fdb.Local has none.
	nexthops [][]*peer
	flood    []*peer
	// Of an L3 tunnel: who has which routes or, without routes, the one peer.
	prefixes *prefixes
	single   []*peer

	learning      bool
	ttl, tos      int
	df            DF
	l2ControlPass bool
	locked        bool
	groups        bool // the table has entries for group addresses
	accept        []netip.Prefix

	noFlood, noMcastFlood, noBcastFlood bool

	drops []dropCounters // by worker
}

// peer is a remote VTEP of one segment.
type peer struct {
	id      int32 // never reused
	config  Peer
	port    *port
	nexthop fdb.Nexthop
	dest    destination
	// speaks: what it sends is let in, by admissions. floods: it gets copies
	// of flooded frames. dynamic: it was let in when it first spoke.
	speaks, floods, dynamic bool
	admissions              []admission
	sources                 []source  // of a trunk's peer: where it may speak for any VLAN
	bum                     rateLimit // of what it floods
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
	route netio.Route // at the time of the configuration
	*peerState
}

// peerState is what changes about a peer while snapshots come and go.
type peerState struct {
	// limit is the longest inner frame that the path carries whole, in
	// bytes; 0 while there is no route. Written by the route watcher.
	limit atomic.Int32
	// blocked says that the route leads into a tunnel device of ours.
	blocked atomic.Bool
	// noRoute is what the log last said of the route; guarded by Endpoint.mu.
	noRoute bool
	// refusedSince is when it was first seen that the kernel takes no runs to it, 0 if
	// it does, and toldRefused that the log says so; guarded by Endpoint.mu.
	refusedSince int64
	toldRefused  bool
	// bumDue is the state of the limit of what it floods, and flooded counts
	// what was above it; the watcher has told of toldFloods of these.
	bumDue     atomic.Int64
	flooded    atomic.Uint64
	toldFloods uint64
	// seenBefore is when another process last heard it; zero: not known.
	seenBefore time.Time

	traffic []traffic // by worker
	last    Stats     // as last told; guarded by Endpoint.mu
}

// header returns the GENEVE header for an inner packet of an IP version.
func (to *peer) header(version uint8) []byte {
	if version == 6 {
		return to.headers[1]
	}
	return to.headers[0]
}

// nexthopPeers returns the peers behind nh, nil if it is unknown to this
// snapshot (a worker may read an entry learned under a newer one).
func (s *segment) nexthopPeers(nh fdb.Nexthop) []*peer {
	if int(nh) >= len(s.nexthops) {
		return nil
	}
	return s.nexthops[nh]
}
