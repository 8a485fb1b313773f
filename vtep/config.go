package vtep

import (
	"net/netip"
	"time"

	"gvtep/internal/netio"
	"gvtep/vtep/geneve"
	"gvtep/vtep/spec"
)

// Tunnel is the checked configuration of one tunnel: one device, and one port
// and segment, or one for each VLAN.
type Tunnel struct {
	VNI    geneve.VNI
	NoVNI  bool                // a trunk that has no segment for frames without a VLAN tag; VNI is 0
	VLANs  []VLANRange         // make it a trunk: VLAN tags from the device choose the segment
	Device netio.DeviceOptions // MTU 0 stands for auto; Queues is filled in by the endpoint

	// Local is the outer source address and the one listened on. An
	// unspecified address listens on all of its family, and the route
	// chooses the source of each packet.
	Local   netip.Addr
	Dev     string // underlay device to bind to; "": the route decides
	DstPort uint16 // listened on, and sent to unless the peer says otherwise
	Peers   []Peer

	SrcPortMin, SrcPortMax uint16 // range of source ports, both ends included
	SrcPorts               int    // size of the set of source ports

	TTL       int // 1-255, or Inherit: the inner packet's
	TOS       int // DSCP and 2 unused bits, 0-255, or Inherit; ECN is always RFC 6040's
	DF        DF
	UDPCsum   bool   // outer UDP checksum over IPv4
	ZeroCsum6 bool   // send UDP checksum 0 over IPv6
	AcceptZ6  bool   // accept UDP checksum 0 over IPv6
	Mark      uint32 // SO_MARK of outer packets

	Learning   bool
	Ageing     time.Duration // of learned addresses; 0: never
	MaxAddress int           // learned addresses at most

	// What is flooded goes to Group, a multicast address on Dev, instead of
	// to each peer.
	Group netip.Addr
	// Accept are the prefixes from which anybody may speak; without it only
	// the peers may.
	Accept []netip.Prefix

	NoFlood      bool // drop unknown unicast from the device
	NoMcastFlood bool // drop multicast, and
	NoBcastFlood bool // broadcast, unless the table has an entry for it
	BUMLimit     int  // frames flooded in a second, of each segment; 0: no limit
	Locked       bool // let only addresses with a static entry speak

	// NoMoveDamping lets addresses move as often as they like; else one that
	// flaps is held where it is for a while (see package fdb).
	NoMoveDamping bool
	// NeighSuppress answers ARP and ND requests of our side for addresses
	// behind peers, from what was heard, instead of flooding them.
	NeighSuppress bool
	// Neighbours are stations behind peers that NeighSuppress answers for
	// before it has heard of them, as long as the table has their MAC.
	Neighbours []Neighbour

	Entries []Entry // of the forwarding table

	L2ControlPass bool // carry 01:80:c2:00:00:00-0f, PAUSE excepted
	VLANDrop      bool // drop frames with a VLAN tag, both ways
}

// Inherit and DefaultTTL are those of spec.
const (
	Inherit    = spec.Inherit
	DefaultTTL = spec.DefaultTTL
)

// DF is the policy for the outer Don't Fragment bit.
type DF = spec.DF

// The policies of DF.
const (
	DFSet     = spec.DFSet
	DFUnset   = spec.DFUnset
	DFInherit = spec.DFInherit
)

// Peer is the configuration of one remote VTEP of a tunnel.
type Peer = spec.Peer

// Entry is an entry of a forwarding table that somebody sets.
type Entry = spec.Entry

// VLANRange maps VLANs to as many segments.
type VLANRange = spec.VLAN

// Neighbour is a station and its address.
type Neighbour = spec.Neighbour
