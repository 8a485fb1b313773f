// Package spec has what a tunnel is made of, in the one form that configuration
// files, commands and the endpoint share. It has no behaviour beyond that.
package spec

import (
	"fmt"
	"net/netip"
	"slices"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// Inherit as TTL or TOS takes the value of the inner packet.
const Inherit = -1

// DefaultTTL is the outer TTL of "auto" (RFC 1700), and of packets that are
// not IP where the setting is Inherit.
const DefaultTTL = 64

// DF is the policy for the outer Don't Fragment bit.
type DF uint8

// The policies of DF. IPv6 underlays and inner IPv6 packets count as set.
const (
	DFSet DF = iota
	DFUnset
	DFInherit
)

// MaxVID is the largest VLAN ID; 0 is none and 4095 is reserved (IEEE 802.1Q
// table 9-2).
const MaxVID = 4094

// VLAN maps VLANs of a trunk to as many segments.
type VLAN struct {
	First, Last uint16     // VLAN IDs, 1 to MaxVID, both ends included
	VNI         geneve.VNI // of First; the others follow
}

// LastVNI is the VNI of Last.
func (v VLAN) LastVNI() geneve.VNI { return v.VNI + geneve.VNI(v.Last-v.First) }

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
}

// Equal reports whether two peers are the same in all.
func (p Peer) Equal(o Peer) bool {
	return p.Name == o.Name && p.Remote == o.Remote && p.Port == o.Port && p.NoFlood == o.NoFlood && p.BUMLimit == o.BUMLimit &&
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
	VNI    geneve.VNI
	HasVNI bool
	Via    string
	// SrcVNI is another way to say VLAN, for those who write an entry: by the VNI
	// that the VLAN has. It is resolved before the endpoint sees the entry.
	SrcVNI    geneve.VNI `json:"-"`
	HasSrcVNI bool       `json:"-"`
}
