package vtep

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/vtep/encap"
)

// departures are the sockets of tunnels that a change removes, or makes anew, and
// how many of these use each. Those that nobody else uses will be closed, so that
// others on overlapping addresses may be opened beside them: each of two
// configurations may be valid where the kernel would refuse both at once.
type departures map[*socket]*departure

type departure struct {
	users  int     // of those that the socket has, until the change is made
	beside *socket // the first that was opened beside it
}

func newDepartures(tunnels ...*tunnel) departures {
	if len(tunnels) == 0 {
		return nil
	}
	all := make(departures)
	for _, t := range tunnels {
		for _, s := range t.sockets {
			if all[s] == nil {
				all[s] = new(departure)
			}
			all[s].users++
		}
	}
	return all
}

// beside reports whether s may be opened beside others that overlap: all of them are about to
// be closed, as far as is known, or belong to a group.
func (all departures) beside(sockets map[listening]*socket, s *socket) (some bool) {
	if all == nil {
		return false
	}
	var leave []*departure
	for opts, o := range sockets {
		if !overlap(opts.ListenOptions, s.options.ListenOptions) {
			continue
		}
		switch d := all[o]; {
		case opts.Group.IsValid():
		case all.leaves(o):
			leave = append(leave, d)
		default:
			return false // the kernel refuses, and says why
		}
		some = true
	}
	for _, d := range leave {
		if d.beside == nil {
			d.beside = s
		}
	}
	return some
}

// leaves reports whether a socket is about to be closed, as far as is known.
func (all departures) leaves(s *socket) bool {
	d := all[s]
	return d != nil && d.users == s.users
}

// leaving is how many sockets of a port and an encap are about to be closed.
func (all departures) leaving(port uint16, f encap.Format) (n int) {
	for s := range all {
		if s.options.Port == port && s.options.encap == f && all.leaves(s) {
			n++
		}
	}
	return n
}

// check finds a socket that stays after all, for a tunnel that was made anew
// later, and has another beside it.
func (all departures) check() error {
	for s, d := range all {
		if o := d.beside; o != nil && s.users > d.users {
			return fmt.Errorf("listen on udp %s port %d: another tunnel listens on %s: %w", o.options.Local, o.options.Port, s.options.Local, unix.EADDRINUSE)
		}
	}
	return nil
}

// overlap reports whether the kernel would refuse to bind the sockets of both.
func overlap(o, p netio.ListenOptions) bool {
	a, b := boundTo(o), boundTo(p)
	return o.Port == p.Port && a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) &&
		(o.Device == "" || p.Device == "" || o.Device == p.Device)
}

// boundTo is the address that the sockets are bound to.
func boundTo(o netio.ListenOptions) netip.Addr {
	if o.Group.IsValid() {
		return o.Group
	}
	return o.Local
}
