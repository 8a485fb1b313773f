package vtep

import "gvtep/vtep/spec"

// Tunnel is the configuration of one tunnel: one device, and one port and segment,
// or one for each VLAN.
type Tunnel = spec.Tunnel

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
