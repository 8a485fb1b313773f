// Package spec has what a tunnel is made of, in the one form that configuration
// files, commands and the endpoint share. It has no behaviour beyond that.
package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// Inherit as TTL or TOS takes the value of the inner packet.
const Inherit = -1

// DefaultTTL is the outer TTL of "auto" (RFC 1700), and of packets that are
// not IP where the setting is Inherit.
const DefaultTTL = 64

// Device is what a tunnel wants of its device.
type Device = netio.DeviceOptions

// Tunnel is the configuration of one tunnel: one device, and one port and segment,
// or one for each VLAN.
type Tunnel struct {
	Encap  encap.Format // on the wire
	VNI    packet.VNI
	NoVNI  bool   // a trunk that has no segment for frames without a VLAN tag; VNI is 0
	VLANs  []VLAN // make it a trunk: VLAN tags from the device choose the segment
	Device Device // MTU 0 stands for auto, as Queues 0: one for each worker
	// NeedOffload says that a Device without the offloads that it asks for is an error.
	NeedOffload bool

	// Local is the outer source address and the one listened on. An
	// unspecified address listens on all of its family, and the route
	// chooses the source of each packet.
	Local   netip.Addr
	Dev     string // underlay device to bind to; "": the route decides
	DstPort uint16 // listened on, and sent to unless the peer says otherwise
	// Peers have no zone: link-local addresses are on Dev.
	Peers []Peer

	SrcPortMin, SrcPortMax uint16 // range of source ports, both ends included
	SrcPorts               int    // size of the set of source ports

	TTL       int // 1-255, or Inherit: the inner packet's
	TOS       int // DSCP and 2 unused bits, 0-255, or Inherit; ECN is always RFC 6040's
	DF        DF
	UDPCsum   bool   // outer UDP checksum over IPv4
	ZeroCsum6 bool   // send UDP checksum 0 over IPv6
	AcceptZ6  bool   // accept UDP checksum 0 over IPv6
	Mark      uint32 // SO_MARK of outer packets

	Options     option.Sent       // in every packet to a peer that has none of its own
	OptionRules []option.Rule     // for packets that arrive; the first that decides does
	SendRules   []option.SendRule // for packets from the device; the first that matches holds

	Learning   bool
	Ageing     time.Duration // of learned addresses; 0: never
	MaxAddress int           // learned addresses at most

	// What is flooded goes to Group, a multicast address on Dev, instead of
	// to each peer.
	Group netip.Addr
	// Accept are the prefixes from which anybody may speak; without it only
	// the peers may.
	Accept []netip.Prefix

	BFD BFD // to each of Peers, unless it says otherwise

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

	FastPath FastPath // whether the kernel carries what needs no thought

	L2ControlPass bool // carry 01:80:c2:00:00:00-0f, PAUSE excepted
	VLANDrop      bool // drop frames with a VLAN tag, both ways
}

// DF is the policy for the outer Don't Fragment bit.
type DF uint8

// The policies of DF. IPv6 underlays and inner IPv6 packets count as set.
const (
	DFSet DF = iota
	DFUnset
	DFInherit
)

// FastPath is whether the kernel carries known unicast by itself.
type FastPath uint8

// The values of FastPath. FastAuto is on as long as the kernel has no rules that would be
// bypassed.
const (
	FastOff FastPath = iota
	FastOn
	FastAuto
)

// String is the value as the keyword fastpath has it.
func (f FastPath) String() string { return [...]string{"off", "on", "auto"}[f] }

// MaxVID is the largest VLAN ID; 0 is none and 4095 is reserved (IEEE 802.1Q
// table 9-2).
const MaxVID = 4094

// VLAN maps VLANs of a trunk to as many segments.
type VLAN struct {
	First, Last uint16     // VLAN IDs, 1 to MaxVID, both ends included
	VNI         packet.VNI // of First; the others follow
}

// LastVNI is the VNI of Last.
func (v VLAN) LastVNI() packet.VNI { return v.VNI + packet.VNI(v.Last-v.First) }

// String writes it as the keyword vlan does: VID:VNI, or VID-VID:VNI-VNI.
func (v VLAN) String() string {
	if v.First == v.Last {
		return fmt.Sprintf("%d:%d", v.First, v.VNI)
	}
	return fmt.Sprintf("%d-%d:%d-%d", v.First, v.Last, v.VNI, v.LastVNI())
}

// Neighbour is a station and its address, for which ARP and ND are answered.
type Neighbour struct {
	Addr netip.Addr
	MAC  packet.MAC
}

// String writes it as the keyword neigh does.
func (n Neighbour) String() string { return n.Addr.String() + "=" + n.MAC.String() }

// Peer is the configuration of one remote VTEP of a tunnel.
type Peer struct {
	Name    string // for people; may be empty
	Remote  netip.Addr
	Port    uint16 // sent to; 0: the tunnel's DstPort
	NoFlood bool   // no copies of broadcast, unknown unicast and multicast
	// Routes are the networks behind a peer of a mode l3 tunnel. The only peer may
	// have nil: all. A list without elements is none.
	Routes []netip.Prefix
	// BUMLimit is how many broadcast, unknown unicast and multicast frames of
	// it are let in in a second; 0: no limit.
	BUMLimit int
	Options  option.Sent // in every packet to it, in the place of the tunnel's
	BFD      BFD         // to it, if it is Given; else the tunnel's
}

// BFD is how often liveness is asked for (RFC 5880, RFC 9521): after Mult intervals without an answer
// a peer is dead. The zero value is off.
type BFD struct {
	Interval time.Duration // MinBFD to MaxBFD; 0: off
	Mult     uint8
	Given    bool // somebody said so; only a peer's can be not
}

// The bounds of BFD.Interval, and the most sessions that a process has: those are for the pairs that
// matter, and N VTEPs would have N² of them.
const (
	MinBFD      = 50 * time.Millisecond
	MaxBFD      = 60 * time.Second
	BFDSessions = 1000
)

// String writes it as the keyword bfd does.
func (b BFD) String() string {
	if b.Interval == 0 {
		return "off"
	}
	return fmt.Sprintf("%sx%d", b.Interval, b.Mult)
}

// BFDOf is what a tunnel wants of one of its peers.
func BFDOf(t *Tunnel, p *Peer) BFD {
	b := t.BFD
	if p.BFD.Given {
		b = p.BFD
	}
	b.Given = false
	return b
}

// Equal reports whether two peers are the same in all.
func (p Peer) Equal(o Peer) bool {
	return p.Name == o.Name && p.Remote == o.Remote && p.Port == o.Port && p.NoFlood == o.NoFlood && p.BUMLimit == o.BUMLimit && p.Options == o.Options && p.BFD == o.BFD &&
		(p.Routes == nil) == (o.Routes == nil) && slices.Equal(p.Routes, o.Routes)
}

// Entry is an entry of a forwarding table that somebody sets, in the words of
// bridge(8).
type Entry struct {
	MAC   packet.MAC
	VLAN  uint16    // of a trunk; 0: frames without a tag
	Local bool      // behind our own device; else at Remote
	State fdb.State // 0: permanent
	Flags fdb.Flags
	// Remote, Port, VNI and Via are where frames for it go. Port 0 and an
	// empty Via are the tunnel's, no VNI is the segment's.
	Remote netip.Addr
	Port   uint16
	VNI    packet.VNI
	HasVNI bool
	Via    string
	// Options of packets to it, in the place of those of tunnel and peer.
	Options option.Shared `json:",omitzero"`
	// SrcVNI is another way to say VLAN, for those who write an entry: by the VNI
	// that the VLAN has. It is resolved before the endpoint sees the entry.
	SrcVNI    packet.VNI `json:"-"`
	HasSrcVNI bool       `json:"-"`
}
