// Package evpn decides what EVPN routes (RFC 7432, RFC 8365, RFC 9136) mean for the tunnels of a
// gvtep, and which routes its own stations make. It is pure: routes, stations and the time go in,
// lines for the control socket and routes to announce come out. BGP itself is a Speaker's.
package evpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvtep/internal/packet"
)

// Kind is the type of a route.
type Kind uint8

// The types that are taken and announced.
const (
	MACIP     Kind = 2 // a station, with or without an IP address
	Multicast Kind = 3 // a VTEP that wants what is flooded
	Prefix    Kind = 5 // a network behind a VTEP
)

func (k Kind) String() string {
	switch k {
	case MACIP:
		return "mac"
	case Multicast:
		return "imet"
	case Prefix:
		return "prefix"
	}
	return fmt.Sprint(uint8(k))
}

// Encap is a set of encapsulations, of the numbers of the IANA's BGP Tunnel Encapsulation registry.
type Encap uint8

// Those that there are here. Other is any that gvtep does not have.
const (
	VXLAN  Encap = 1 << iota // 8
	Geneve                   // 19
	Other
)

func (e Encap) String() string {
	switch e {
	case 0:
		return "none"
	case VXLAN:
		return "vxlan"
	case Geneve:
		return "geneve"
	case VXLAN | Geneve:
		return "vxlan,geneve"
	}
	return "other"
}

// RD is a route distinguisher as in a packet.
type RD [8]byte

// RDOf is that of an address and a number (RFC 4364 4.2, type 1).
func RDOf(id netip.Addr, n uint16) (rd RD) {
	rd[1] = 1
	a := id.As4()
	copy(rd[2:], a[:])
	binary.BigEndian.PutUint16(rd[6:], n)
	return rd
}

func (rd RD) String() string {
	switch rd[1] {
	case 0:
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(rd[2:]), binary.BigEndian.Uint32(rd[4:]))
	case 1:
		return fmt.Sprintf("%s:%d", netip.AddrFrom4([4]byte(rd[2:6])), binary.BigEndian.Uint16(rd[6:]))
	}
	return fmt.Sprintf("%d:%d", binary.BigEndian.Uint32(rd[2:]), binary.BigEndian.Uint16(rd[6:]))
}

// Key is what tells routes apart.
type Key struct {
	Kind Kind
	RD   RD
	Tag  uint32
	MAC  packet.MAC   // of a station
	IP   netip.Addr   // of a station, or the originator of a Multicast; may be none of a station
	Net  netip.Prefix // of a Prefix
}

// Route is one, received or to be announced.
type Route struct {
	Key
	VNI     uint32
	NextHop netip.Addr
	Encap   Encap // 0: the route says nothing
	Targets []Target
	Seq     uint32 // of MAC mobility
	Sticky  bool
	// Flooding is how a Multicast is to be reached: as the PMSI tunnel attribute says.
	Flooding uint8
	// RouterMAC is that of the VTEP of a Prefix, to which the inner frame is sent.
	RouterMAC packet.MAC
	Gateway   netip.Addr // of a Prefix that is not interface-less; else invalid
}

// IngressReplication is the tunnel type of a PMSI that is a copy for each VTEP (RFC 7432 11.2).
const IngressReplication = 6

// Speaker is a BGP engine. Its methods may be called at any time and do not wait for the network.
type Speaker interface {
	Announce(Route) error
	Withdraw(Route) error
}
