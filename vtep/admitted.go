package vtep

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

// admitted says which sources are admitted to which tunnel: the maps of the next snapshot. A
// change of a tunnel touches what it adds, removes or changes, and nothing else.
type admitted struct {
	admit   forward.Shards[forward.Admission, *forward.Peer] // of all tunnels
	sources forward.Shards[forward.Source, []*forward.Peer]  // of all trunks
	byID    forward.Shards[forward.PeerID, *forward.Peer]    // all, also those that do not speak
	remotes forward.Shards[forward.Remote, []*forward.PeerState]

	vnis         forward.Shards[forward.VNIKey, int]
	trunks, open forward.Shards[forward.VNIKey, []*forward.PortState]
}

// arrival is where packets for a tunnel arrive: for its own segment, or for that of a VLAN.
type arrival struct {
	forward.VNIKey
	vlan bool
}

// arrivals yields those of t that other, another version of it, has not; nil has none.
func (t *tunnel) arrivals(other *tunnel) iter.Seq[arrival] {
	return func(yield func(arrival) bool) {
		for _, s := range t.sockets {
			o := other
			if o != nil && !slices.Contains(o.sockets, s) { // of which a tunnel has four at most
				o = nil
			}
			own := !t.config.NoVNI && (o == nil || o.config.NoVNI || o.config.VNI != t.config.VNI)
			if own && !yield(arrival{s.Key(t.config.VNI), false}) {
				return
			}
			for i := range t.domains[1:] {
				d := &t.domains[i+1]
				if o != nil && o.hasDomain(d) {
					continue
				}
				if !yield(arrival{s.Key(d.vni), true}) {
					return
				}
			}
		}
	}
}

// hasDomain reports whether a tunnel has the segment of a domain for the same VLAN.
func (t *tunnel) hasDomain(d *domain) bool {
	have := t.domain(d.vid)
	return have != nil && have.vni == d.vni
}

// enter admits what is for t and was not for old, the version before it, nil if there is none.
func (a *admitted) enter(t, old *tunnel) {
	a.arrive(t, old, 1)
	for _, p := range t.fresh {
		a.byID.Set(forward.PeerID(p.ID), p.Peer)
		remote := forward.Remote{Addr: p.Dest.Remote.Addr().WithZone("")}
		a.remotes.Set(remote, append(a.remotes.Get(remote), p.PeerState))
		for _, key := range p.admissions {
			a.admit.Set(key, p.Peer)
		}
		for _, s := range p.sources {
			a.sources.Set(s, insert(a.sources.Get(s), p.Peer, func(p *forward.Peer) uint32 { return p.Tunnel.ID }))
		}
	}
}

// leave takes back what is for t and will not be for next, the version that takes its place, nil
// if there is none.
func (a *admitted) leave(t, next *tunnel) {
	a.arrive(t, next, -1)
	left := t.peers
	if next != nil {
		left = next.left
	}
	for _, p := range left {
		a.byID.Delete(forward.PeerID(p.ID))
		without(&a.remotes, forward.Remote{Addr: p.Dest.Remote.Addr().WithZone("")}, p.PeerState)
		for _, key := range p.admissions {
			a.admit.Delete(key)
		}
		for _, s := range p.sources {
			without(&a.sources, s, p.Peer)
		}
	}
}

// arrive adds (1) or removes (-1) the arrivals of t that other has not.
func (a *admitted) arrive(t, other *tunnel, by int) {
	change := func(lists *forward.Shards[forward.VNIKey, []*forward.PortState], key forward.VNIKey) {
		if by < 0 {
			without(lists, key, t.state)
		} else {
			lists.Set(key, insert(lists.Get(key), t.state, func(s *forward.PortState) uint32 { return s.ID }))
		}
	}
	for k := range t.arrivals(other) {
		if k.vlan {
			change(&a.trunks, k.VNIKey)
		} else if n := a.vnis.Get(k.VNIKey) + by; n > 0 {
			a.vnis.Set(k.VNIKey, n)
		} else {
			a.vnis.Delete(k.VNIKey)
		}
	}
	if len(t.accept) == 0 {
		return
	}
	if other != nil && len(other.accept) == 0 {
		other = nil
	}
	for k := range t.arrivals(other) {
		change(&a.open, k.VNIKey)
	}
}

// insert returns a list in the order of IDs with one more. What has a new ID comes last, in the room behind the
// list: those who read the list before it do not see that. So many that come one by one are copied few times.
func insert[T any](list []T, x T, id func(T) uint32) []T {
	i, _ := slices.BinarySearchFunc(list, id(x), func(have T, id0 uint32) int { return cmp.Compare(id(have), id0) })
	if i == len(list) {
		return append(list, x)
	}
	return slices.Insert(slices.Clip(list), i, x)
}

// without takes x out of the list of a key.
func without[K forward.Sharded, T comparable](lists *forward.Shards[K, []T], key K, x T) {
	have := lists.Get(key)
	left := make([]T, 0, max(len(have)-1, 0))
	for _, o := range have {
		if o != x {
			left = append(left, o)
		}
	}
	if len(left) == 0 {
		lists.Delete(key)
	} else {
		lists.Set(key, left)
	}
}

// copy returns the state that a change restores if it fails, or that a snapshot has.
func (a *admitted) copy() admitted {
	return admitted{a.admit.Copy(), a.sources.Copy(), a.byID.Copy(), a.remotes.Copy(), a.vnis.Copy(), a.trunks.Copy(), a.open.Copy()}
}

// conflicts finds a tunnel that admits the same as t would: by peers that are not admitted yet,
// and by VLANs that old, the version before it, has not.
func (e *Endpoint) conflicts(t, old *tunnel) error {
	if err := e.peersConflict(t, t.fresh, true, e.contested(t, t.domains[1:])); err != nil || old == nil {
		return err
	}
	more := slices.DeleteFunc(slices.Clone(t.domains[1:]), func(d domain) bool { return old.hasDomain(&d) })
	if contested := e.contested(t, more); len(contested) > 0 {
		return e.peersConflict(t, t.peers, false, contested)
	}
	return nil
}

// contested are, by socket, the VNIs of VLANs of t that others have there: peers are compared
// with theirs only, not with all VLANs there are.
func (e *Endpoint) contested(t *tunnel, vlans []domain) map[uint32][]packet.VNI {
	all := make(map[uint32][]packet.VNI)
	for _, s := range t.sockets {
		for i := range vlans {
			key := s.Key(vlans[i].vni)
			others := slices.ContainsFunc(e.trunks.Get(key), func(o *forward.PortState) bool { return o != t.state })
			if others || e.vnis.Get(key) > 0 {
				all[s.ID] = append(all[s.ID], key.VNI)
			}
		}
	}
	return all
}

// peersConflict finds a tunnel that admits the same as some peers would for t: in its own segment,
// and in contested ones.
func (e *Endpoint) peersConflict(t *tunnel, peers []*peer, own bool, contested map[uint32][]packet.VNI) error {
	for _, p := range peers {
		var all []forward.Admission
		if own {
			all = p.admissions
		}
		for _, s := range p.sources {
			for _, vni := range contested[s.Socket] {
				all = append(slices.Clip(all), s.Admission(vni))
			}
		}
		for _, a := range all {
			if other := e.admits(&a, t.state); other != nil {
				return fmt.Errorf("remote %s: tunnel %s has VNI %d with it on the same socket: %w", p.config.Remote, e.owners[other].port.Name, a.VNI, errExists)
			}
		}
	}
	return nil
}

// admits returns a tunnel, other than one, that something is admitted to; nil: there is none.
func (e *Endpoint) admits(a *forward.Admission, but *forward.PortState) *forward.PortState {
	if p := e.admit.Get(*a); p != nil && p.Tunnel != but {
		return p.Tunnel
	}
	if p := forward.PeerOf(e.sources.Get(a.From()), e.trunks.Get(a.VNIKey), but); p != nil {
		return p.Tunnel
	}
	return nil
}
