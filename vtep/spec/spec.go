// Package spec has what a tunnel is made of, in the one form that configuration
// files, commands and the endpoint share. It has no behaviour beyond that.
package spec

import (
	"net/netip"
	"slices"
)

// Inherit as TTL or TOS takes the value of the inner packet.
const Inherit = -1

// DefaultTTL is the outer TTL of "auto" (RFC 1700), and of packets that are
// not IP where the setting is Inherit.
const DefaultTTL = 64

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
