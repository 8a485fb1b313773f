package vtep

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
)

// A tunnel with accept lets in whoever speaks from one of its prefixes. The
// first datagram of a new speaker waits in its worker while the endpoint makes
// a peer of its sender: it must be learned from, for the answer to be unicast.

const (
	// maxSpeakers bounds the peers of one tunnel that nobody configured.
	maxSpeakers = 1024
	// speakerQueue is how many may wait to be let in at a time.
	speakerQueue = 64
	// speakerTidy is how often speakers that fell silent are looked for.
	speakerTidy = 10 * time.Second
	// speakerSilence is how long one may be silent before it is forgotten,
	// if learned addresses never age.
	speakerSilence = 300 * time.Second
	// speakerProof is how long after its first datagram a speaker must be heard again to have
	// been heard more than once: a burst of forged datagrams is one.
	speakerProof = time.Second
	// speakerRoom is the least time between two changes that let speakers in in the
	// place of others: such a change costs milliseconds, and forging is cheap.
	speakerRoom = 100 * time.Millisecond
)

// speaker is a source that wants to be let in.
type speaker struct {
	port   *forward.Port
	source netip.Addr
}

// openToGroup decides who may speak in a group without peers if the
// configuration does not say: whoever is on the underlay device's own networks.
func (e *Endpoint) openToGroup(t *tunnel) (err error) {
	cfg, before := &t.config, t.accept
	t.accept = acceptedOver(cfg)
	if !opensToGroup(cfg) {
		return nil
	}
	if t.accept, err = e.underlay.Prefixes(cfg.Dev); err != nil {
		return err
	}
	if slices.Equal(t.accept, before) {
		return nil // said already
	}
	e.log.Warn("anybody on the networks of the underlay device may speak in the group; peers or accept would restrict it",
		zap.String("device", cfg.Device.Name), zap.Stringer("group", cfg.Group), zap.Stringers("accept", t.accept))
	return nil
}

// acceptedOver are the prefixes of accept from which something can arrive: the tunnel
// listens on Local, and "any" stands for both families.
func acceptedOver(cfg *Tunnel) []netip.Prefix {
	other := func(p netip.Prefix) bool { return cfg.Local.IsValid() && p.Addr().Is4() != cfg.Local.Is4() }
	if !slices.ContainsFunc(cfg.Accept, other) {
		return cfg.Accept
	}
	return slices.DeleteFunc(slices.Clone(cfg.Accept), other)
}

// letIn makes peers of a speaker and of those that wait behind it: many that come
// together cost a tunnel one change.
func (e *Endpoint) letIn(s speaker) {
	waiting := map[*forward.Port][]netip.Addr{s.port: {s.source}}
	for more := true; more; {
		select {
		case s := <-e.speakers:
			waiting[s.port] = append(waiting[s.port], s.source)
		default:
			more = false
		}
	}
	e.askAhead(func() (all []question) {
		for p, sources := range waiting {
			if t := e.tunnels[p.Name]; t != nil {
				for _, a := range sources {
					all = append(all, questionOf(&t.config, t.destination(a, 0)))
				}
			}
		}
		return all
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	for p, sources := range waiting {
		if err := e.admitSpeakers(p, sources); err != nil {
			for _, a := range sources { // one that cannot be a peer is no reason to refuse the others
				if err := e.admitSpeakers(p, []netip.Addr{a}); err != nil {
					e.log.Debug("a speaker was not let in", zap.String("device", p.Name), zap.Stringer("remote", a), zap.NamedError("err", err))
				}
			}
		}
	}
	e.Progress(context.Background()) // whoever has datagrams of them takes them up now
}

// admitSpeakers makes peers of those of the sources that are none yet and may be, as
// far as there is room. Those that were heard once only make room, the longest silent
// first: else whoever forges as many sources as there is room for would keep all others
// out. e.mu is held.
func (e *Endpoint) admitSpeakers(of *forward.Port, sources []netip.Addr) error {
	t, ok := e.tunnels[of.Name]
	if !ok || e.closed || t.id != of.ID {
		return nil
	}
	known := make(map[netip.Addr]bool, len(t.peers)+len(sources))
	for _, p := range t.peers {
		if p.speaks {
			known[p.config.Remote] = true
		}
	}
	var fresh []netip.Addr
	for _, a := range sources {
		if !known[a] && forward.Accepted(t.accept, a) {
			known[a] = true
			fresh = append(fresh, a)
		}
	}
	room, now := max(maxSpeakers-len(t.dynamic), 0), e.clock()
	var gone map[netip.Addr]bool
	if len(fresh) > room && now >= t.state.RoomAgain {
		gone = t.heardOnce(len(fresh) - room)
	}
	fresh = fresh[:min(len(fresh), room+len(gone))]
	if len(fresh) == 0 {
		return nil
	}
	if len(gone) > 0 {
		t.state.RoomAgain = now + int64(speakerRoom)
	}
	return e.rewire(t, func(n *tunnel) {
		n.dynamic = append(slices.DeleteFunc(slices.Clone(n.dynamic), func(a netip.Addr) bool { return gone[a] }), fresh...)
	})
}

// heardOnce returns up to n of those that accept let in and that have not gone on speaking,
// the longest silent first.
func (t *tunnel) heardOnce(n int) map[netip.Addr]bool {
	type once struct {
		addr netip.Addr
		seen int64
	}
	var all []once
	for _, p := range t.peers {
		if !p.dynamic {
			continue
		}
		if _, seen := count.SumTraffic(p.Traffic); seen-p.since < int64(speakerProof) {
			all = append(all, once{p.config.Remote, max(seen, p.since)})
		}
	}
	slices.SortFunc(all, func(a, b once) int { return cmp.Compare(a.seen, b.seen) })
	gone := make(map[netip.Addr]bool, n)
	for _, o := range all[:min(n, len(all))] {
		gone[o.addr] = true
	}
	return gone
}

// dropSpeakers takes the right to speak from those that accept no longer lets in, and
// the place of one let in from those that are configured now.
func (t *tunnel) dropSpeakers() {
	if len(t.dynamic) == 0 {
		return
	}
	configured := make(map[netip.Addr]bool, len(t.config.Peers))
	for _, p := range t.config.Peers {
		configured[p.Remote] = true
	}
	t.dynamic = slices.DeleteFunc(slices.Clone(t.dynamic), func(a netip.Addr) bool { return configured[a] || !forward.Accepted(t.accept, a) })
}

// followGroups looks whether the networks of underlay devices have changed where these
// say who may speak in a group. e.mu is held.
func (e *Endpoint) followGroups() {
	for _, t := range e.sorted() {
		if !opensToGroup(&t.config) {
			continue
		}
		now, err := e.underlay.Prefixes(t.config.Dev)
		if err != nil || slices.Equal(now, t.accept) {
			continue // a device that is gone may come back
		}
		if err := e.rewire(t, func(*tunnel) {}); err != nil {
			e.log.Error("the networks of the underlay device have changed, and who may speak in the group does not follow",
				zap.String("device", t.port.Name), zap.NamedError("err", err))
		}
	}
}

// opensToGroup reports whether the networks of the underlay device say who may speak.
func opensToGroup(cfg *Tunnel) bool {
	return cfg.Group.IsValid() && len(cfg.Peers) == 0 && len(cfg.Accept) == 0
}

// forgetSpeakers removes those who have been silent for longer than what was
// learned of them lives.
func (e *Endpoint) forgetSpeakers() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	for _, t := range e.sorted() {
		if err := e.dropUnpointed(t); err != nil {
			e.log.Error("destinations that no entry points to any more could not be removed", zap.String("device", t.port.Name), zap.NamedError("err", err))
			continue
		}
		t = e.tunnels[t.port.Name]
		silence := t.config.Ageing
		if silence == 0 {
			silence = speakerSilence
		}
		gone := make(map[netip.Addr]bool)
		for _, p := range t.peers {
			if _, seen := count.SumTraffic(p.Traffic); p.dynamic && now-seen > int64(silence) {
				gone[p.config.Remote] = true
			}
		}
		if len(gone) == 0 {
			continue
		}
		err := e.rewire(t, func(n *tunnel) {
			n.dynamic = slices.DeleteFunc(slices.Clone(n.dynamic), func(a netip.Addr) bool { return gone[a] })
		})
		if err != nil {
			e.log.Error("silent speakers could not be removed", zap.String("device", t.port.Name), zap.NamedError("err", err))
		}
	}
}
