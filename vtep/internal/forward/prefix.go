package forward

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"gvtep/internal/packet"
)

// An L3 tunnel with one remote sends everything there. With several, or where
// the one has routes, the longest prefix decides, both ways as WireGuard's
// allowed IPs do: a packet goes to the peer that has its destination, and one
// that came in is taken only from the peer that has its source. Group and
// broadcast addresses are looked up like all others: an L3 tunnel never copies.

// prefixes is a table of the routes of an L3 tunnel's peers. It is made with
// the snapshot and never changed: a lookup takes no lock and allocates nothing.
type prefixes struct{ table bart.Table[[]*Peer] }

// AddRoutes notes what is behind a peer of an L3 tunnel. Where no peer says that, everything goes to
// the one that there is.
func (r *Rules) AddRoutes(to *Peer, routes []netip.Prefix) {
	if routes == nil {
		return
	}
	if r.prefixes == nil {
		r.prefixes = new(prefixes)
	}
	for _, route := range routes {
		r.prefixes.table.Insert(route, []*Peer{to})
	}
}

// SameRoutes takes over the routes of another version, which has the same peers.
func (r *Rules) SameRoutes(as *Rules) { r.prefixes = as.prefixes }

// route returns where an IP packet goes: to one peer or, if nobody has its
// destination, to none.
func (s *Segment) route(ip []byte, h *packet.Headers) []*Peer {
	if s.prefixes == nil {
		return s.Single
	}
	_, dst := innerAddresses(ip, h)
	peers, _ := s.prefixes.table.Lookup(dst)
	return peers
}

// RoutedBack reports whether a peer may be where an IP packet comes from.
func (s *Segment) RoutedBack(ip []byte, h *packet.Headers, from *Peer) bool {
	if s.prefixes == nil {
		return true
	}
	src, _ := innerAddresses(ip, h)
	peers, ok := s.prefixes.table.Lookup(src)
	return ok && peers[0] == from
}

// innerAddresses are those of a packet in which Walk has found a whole header.
func innerAddresses(frame []byte, h *packet.Headers) (src, dst netip.Addr) {
	ip := frame[h.L3:]
	if h.Version == 4 {
		return netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	}
	return netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
}
