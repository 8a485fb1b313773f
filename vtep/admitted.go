package vtep

import (
	"fmt"
	"slices"

	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

// admitted says which sources are admitted to which tunnel: the maps of the next snapshot. A
// change of a tunnel touches its peers that are added, removed or changed, and nothing else.
type admitted struct {
	admit   forward.Shards[forward.Admission, *forward.Peer] // of all tunnels
	sources forward.Shards[forward.Source, []*forward.Peer]  // of all trunks
	byID    forward.Shards[forward.PeerID, *forward.Peer]    // all, also those that do not speak
}

// add admits peers.
func (a *admitted) add(peers []*peer) {
	for _, p := range peers {
		a.byID.Set(forward.PeerID(p.ID), p.Peer)
		for _, key := range p.admissions {
			a.admit.Set(key, p.Peer)
		}
		for _, s := range p.sources {
			a.sources.Set(s, append(slices.Clip(a.sources.Get(s)), p.Peer))
		}
	}
}

// remove takes the admission of peers away.
func (a *admitted) remove(peers []*peer) {
	for _, p := range peers {
		a.byID.Delete(forward.PeerID(p.ID))
		for _, key := range p.admissions {
			a.admit.Delete(key)
		}
		for _, s := range p.sources {
			left := slices.DeleteFunc(slices.Clone(a.sources.Get(s)), func(q *forward.Peer) bool { return q == p.Peer })
			if len(left) == 0 {
				a.sources.Delete(s)
			} else {
				a.sources.Set(s, left)
			}
		}
	}
}

// copy returns the state that a change restores if it fails.
func (a *admitted) copy() admitted {
	return admitted{a.admit.Copy(), a.sources.Copy(), a.byID.Copy()}
}

// conflicts finds a tunnel that admits the same as t would: by peers that are not admitted yet,
// and by VLANs that old, the version before it, has not.
func (e *Endpoint) conflicts(t, old *tunnel) error {
	check := func(p *peer, own bool, vlans []domain) error {
		if err := e.conflict(t, p, own, vlans); err != nil {
			return fmt.Errorf("remote %s: %w", p.config.Remote, err)
		}
		return nil
	}
	for _, p := range t.fresh {
		if err := check(p, true, t.domains[1:]); err != nil {
			return err
		}
	}
	if old == nil {
		return nil
	}
	more := slices.DeleteFunc(slices.Clone(t.domains[1:]), func(d domain) bool {
		before := old.domain(d.vid)
		return before != nil && before.vni == d.vni
	})
	if len(more) == 0 {
		return nil
	}
	for _, p := range t.peers {
		if err := check(p, false, more); err != nil {
			return err
		}
	}
	return nil
}

// conflict finds a tunnel that admits the same as p would for t, in its own segment and in
// those of VLANs.
func (e *Endpoint) conflict(t *tunnel, p *peer, own bool, vlans []domain) error {
	taken := func(other *forward.Peer, vni packet.VNI) error {
		if other == nil || other.Tunnel == t.state {
			return nil
		}
		return fmt.Errorf("tunnel %s has VNI %d with it on the same socket: %w", e.owners[other.Tunnel].port.Name, vni, errExists)
	}
	trunks := func(s forward.Source, vni packet.VNI) error {
		for _, other := range e.sources.Get(s) {
			if e.owners[other.Tunnel].port.Trunk.ByVNI[vni] != nil {
				if err := taken(other, vni); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if own {
		for _, a := range p.admissions {
			if err := taken(e.admit.Get(a), a.VNI); err != nil {
				return err
			}
			if err := trunks(a.From(), a.VNI); err != nil {
				return err
			}
		}
	}
	for _, s := range p.sources {
		others := len(e.sources.Get(s)) > 0
		for i := range vlans {
			vni := vlans[i].vni
			if err := taken(e.admit.Get(s.Admission(vni)), vni); err != nil {
				return err
			}
			if !others {
				continue
			}
			if err := trunks(s, vni); err != nil {
				return err
			}
		}
	}
	return nil
}
