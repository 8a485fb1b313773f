package spec

import (
	"fmt"
	"net/netip"
)

// Problem is something wrong with a tunnel as a whole.
type Problem struct {
	Key   string // the keyword that it is best shown at; "": the tunnel
	Nth   int    // which of its several values
	Text  string
	Taken bool // two want what only one can have
}

// CheckRoutes finds what would leave open where a packet goes.
func CheckRoutes(t *Tunnel) (found []Problem) {
	owner := make(map[netip.Prefix]netip.Addr)
	for i, p := range t.Peers {
		report := func(taken bool, format string, args ...any) {
			found = append(found, Problem{"remote", i, fmt.Sprintf(format, args...), taken})
		}
		switch {
		case !t.Device.L3 && p.Routes != nil:
			report(false, "remote %s: routes are for mode l3", p.Remote)
		case t.Device.L3 && p.NoFlood:
			report(false, "remote %s: flood is for mode l2; a mode l3 peer gets what its routes say", p.Remote)
		case t.Device.L3 && p.Routes == nil && len(t.Peers) > 1:
			report(false, "remote %s: a mode l3 tunnel with several remotes needs routes for each: networks such as 10.1.0.0/16, or any, or none", p.Remote)
		}
		for _, route := range p.Routes {
			switch other, ok := owner[route]; {
			case !route.IsValid() || route != route.Masked() || route.Addr().Is4In6():
				report(false, "remote %s: route %s: want a prefix without bits behind it", p.Remote, route)
			case ok && other == p.Remote:
				report(true, "routes %s: given twice", route)
			case ok:
				report(true, "routes %s: remote %s has it already", route, other)
			}
			owner[route] = p.Remote
		}
	}
	return found
}
