package vtep

import "slices"

// A tunnel may be carried by another one of this process: the route to its peer leads into
// the other's device, or into a bridge above it. Only a way that comes back to the tunnel
// itself is a loop.

// nesting is which tunnel is carried by which. It is made anew when a way has changed, and
// never changed then.
type nesting struct {
	into  map[uint32][]int // by tunnel: devices of ours that the ways to its peers lead into
	under map[int][]uint32 // by such a device: the tunnels that carry what is sent into it
}

// leadsBack reports whether what a tunnel sends into a device of ours comes back to the tunnel.
func (n nesting) leadsBack(tunnel uint32, device int) bool {
	seen := map[uint32]bool{}
	next := slices.Clone(n.under[device])
	for len(next) > 0 {
		at := next[len(next)-1]
		next = next[:len(next)-1]
		if at == tunnel {
			return true
		}
		if seen[at] {
			continue
		}
		seen[at] = true
		for _, d := range n.into[at] {
			next = append(next, n.under[d]...)
		}
	}
	return false
}

// noteWays notes which devices of ours the ways to peers lead into: before any of the
// answers is taken, as one may say that another leads back. e.mu is held.
func (e *Endpoint) noteWays(peers []*peer, answerTo func(*peer) (answer, bool)) {
	changed := false
	for _, p := range peers {
		a, ok := answerTo(p)
		if !ok || a.at < p.routeAt {
			continue
		}
		into := 0
		if a.err == nil && !a.route.Local && e.pool.Snapshot().IsOwn(int32(a.route.Ifindex)) {
			into = a.route.Ifindex
		}
		changed = changed || into != p.into
		p.into = into
	}
	if changed {
		e.nest()
	}
}

// nest looks again at which tunnel is carried by which. What has been found out about
// ways into our devices before may be wrong then: they are asked for again. e.mu is held.
func (e *Endpoint) nest() {
	n := nesting{into: map[uint32][]int{}, under: map[int][]uint32{}}
	for _, t := range e.tunnels {
		for _, p := range t.peers {
			if p.into != 0 {
				n.into[t.id] = append(n.into[t.id], p.into)
				p.Doubtful.Store(true)
			}
		}
		if into := n.into[t.id]; len(into) > 1 {
			slices.Sort(into)
			n.into[t.id] = slices.Compact(into)
		}
	}
	if len(n.into) > 0 {
		of := make(map[int]uint32, len(e.tunnels))
		for _, t := range e.tunnels {
			if d := t.device.State(); d.Here {
				of[d.Ifindex] = t.id
				n.under[d.Ifindex] = append(n.under[d.Ifindex], t.id)
			}
		}
		for _, up := range e.above.uppers {
			for _, ifindex := range up.Below {
				if id, here := of[ifindex]; here {
					n.under[up.Ifindex] = append(n.under[up.Ifindex], id)
				}
			}
		}
		e.recheckPaths()
	}
	e.nested = n
}

// renest follows a change of tunnels, or of what is stacked on them. e.mu is held.
func (e *Endpoint) renest() {
	if len(e.nested.into) > 0 {
		e.nest()
	}
}
