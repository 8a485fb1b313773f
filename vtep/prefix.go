package vtep

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// An L3 tunnel with one remote sends everything there. With several, or where
// the one has routes, the longest prefix decides, both ways as WireGuard's
// allowed IPs do: a packet goes to the peer that has its destination, and one
// that came in is taken only from the peer that has its source. Group and
// broadcast addresses are looked up like all others: an L3 tunnel never copies.

// prefixes is a table of the routes of an L3 tunnel's peers. It is made with
// the snapshot and never changed: a lookup takes no lock and allocates nothing.
type prefixes struct{ table bart.Table[[]*peer] }

// newPrefixes is nil if no peer says what it takes: then everything goes to
// the one that there is.
func newPrefixes(peers []*peer) *prefixes {
	var t *prefixes
	for _, p := range peers {
		if p.config.Routes == nil {
			continue
		}
		if t == nil {
			t = new(prefixes)
		}
		to := []*peer{p}
		for _, route := range p.config.Routes {
			t.table.Insert(route, to)
		}
	}
	return t
}

// route returns where an IP packet goes: to one peer or, if nobody has its
// destination, to none.
func (s *segment) route(ip []byte, h *packet.Headers) []*peer {
	if s.prefixes == nil {
		return s.single
	}
	_, dst := innerAddresses(ip, h)
	peers, _ := s.prefixes.table.Lookup(dst)
	return peers
}

// routedBack reports whether a peer may be where an IP packet comes from.
func (s *segment) routedBack(ip []byte, h *packet.Headers, from *peer) bool {
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

// checkRoutes refuses routes that leave open where a packet goes.
func (cfg *Tunnel) checkRoutes() error {
	owner := make(map[netip.Prefix]netip.Addr)
	for _, p := range cfg.Peers {
		switch {
		case !cfg.Device.L3 && p.Routes != nil:
			return fmt.Errorf("remote %s: routes are for L3 tunnels: %w", p.Remote, unix.EINVAL)
		case cfg.Device.L3 && p.NoFlood:
			return fmt.Errorf("remote %s: an L3 tunnel does not flood: %w", p.Remote, unix.EINVAL)
		case cfg.Device.L3 && p.Routes == nil && len(cfg.Peers) > 1:
			return fmt.Errorf("remote %s: an L3 tunnel with several remotes needs routes for each: %w", p.Remote, unix.EINVAL)
		}
		for _, route := range p.Routes {
			switch other, ok := owner[route]; {
			case !route.IsValid() || route != route.Masked() || route.Addr().Is4In6():
				return fmt.Errorf("remote %s: route %s: want a prefix without bits behind it: %w", p.Remote, route, unix.EINVAL)
			case ok:
				return fmt.Errorf("remote %s: route %s goes to %s already: %w", p.Remote, route, other, errExists)
			}
			owner[route] = p.Remote
		}
	}
	return nil
}
