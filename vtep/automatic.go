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

// With accept, hosts in its prefixes become peers when their first packet arrives: automatic
// peers, which are removed after ageing. The first datagram of an unknown sender is pending in
// its worker until the endpoint has made a peer of it, since the source MAC address in it must
// be learned for the answer to be unicast.

const (
	// maxSenders bounds the automatic peers of one tunnel.
	maxSenders = 1024
	// senderQueue is how many unknown senders may wait to be admitted at a time.
	senderQueue = 64
	// senderTidy is how often silent automatic peers are removed.
	senderTidy = 10 * time.Second
	// senderSilence is how long an automatic peer may be silent before it is removed, if
	// learned MAC addresses never age.
	senderSilence = 300 * time.Second
	// senderProof is how long after its first datagram a sender must be heard again to count
	// as heard more than once. A burst of forged datagrams counts once.
	senderProof = time.Second
	// senderRoom is the least time between two changes that admit senders in the place of
	// others: such a change costs milliseconds, and forged senders cost nothing.
	senderRoom = 100 * time.Millisecond
)

// sender is an unknown sender that may become a peer.
type sender struct {
	port   *forward.Port
	source netip.Addr
}

// openToGroup decides which hosts are admitted to a group without peers if the
// configuration does not say: those on the networks of the underlay device.
func (e *Endpoint) openToGroup(t *tunnel) (err error) {
	cfg, before := &t.config, t.accept
	t.accept = acceptedOver(cfg)
	if !opensToGroup(cfg) {
		return nil
	}
	if t.accept, err = e.underlay.Prefixes(cfg.Dev); err != nil {
		return err
	}
	if slices.Equal(t.accept, before) || e.rehearsing {
		return nil // said already
	}
	e.log.Warn("all hosts on the networks of the underlay device are admitted to the group; peers or accept restrict it",
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

// admitSenders makes peers of an unknown sender and of those that wait behind it: many that
// arrive together cost a tunnel one change.
func (e *Endpoint) admitSenders(s sender) {
	waiting := map[*forward.Port][]netip.Addr{s.port: {s.source}}
	for more := true; more; {
		select {
		case s := <-e.senders:
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
		if err := e.addAutomatic(p, sources); err != nil {
			for _, a := range sources { // one that cannot be a peer must not keep the others out
				if err := e.addAutomatic(p, []netip.Addr{a}); err != nil {
					e.log.Debug("an unknown sender was not admitted", zap.String("device", p.Name), zap.Stringer("remote", a), zap.NamedError("err", err))
				}
			}
		}
	}
	e.Progress(context.Background()) // workers with pending datagrams of them take these up now
}

// addAutomatic makes peers of the sources that may be and are not yet, as far as there is room.
// Automatic peers that were heard only once make room, the longest silent first. Otherwise an
// attacker who forges as many sources as there is room for would keep all others out. e.mu is
// held.
func (e *Endpoint) addAutomatic(of *forward.Port, sources []netip.Addr) error {
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
	room, now := max(maxSenders-len(t.dynamic), 0), e.clock()
	var gone map[netip.Addr]bool
	if len(fresh) > room && now >= t.state.RoomAgain {
		gone = t.heardOnce(len(fresh) - room)
	}
	fresh = fresh[:min(len(fresh), room+len(gone))]
	if len(fresh) == 0 {
		return nil
	}
	if len(gone) > 0 {
		t.state.RoomAgain = now + int64(senderRoom)
	}
	return e.rewire(t, func(n *tunnel) {
		n.dynamic = append(slices.DeleteFunc(slices.Clone(n.dynamic), func(a netip.Addr) bool { return gone[a] }), fresh...)
	})
}

// heardOnce returns up to n automatic peers that were heard only once, the longest silent
// first.
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
		if _, seen := count.SumTraffic(p.Traffic); seen-p.since < int64(senderProof) {
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

// dropAccepted removes automatic peers that accept does not admit any more, and those that are
// configured now.
func (t *tunnel) dropAccepted() {
	if len(t.dynamic) == 0 {
		return
	}
	configured := make(map[netip.Addr]bool, len(t.config.Peers))
	for _, p := range t.config.Peers {
		configured[p.Remote] = true
	}
	t.dynamic = slices.DeleteFunc(slices.Clone(t.dynamic), func(a netip.Addr) bool { return configured[a] || !forward.Accepted(t.accept, a) })
}

// followGroups checks whether the networks of underlay devices have changed where they say
// which hosts are admitted to a group. e.mu is held.
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
			e.log.Error("the networks of the underlay device have changed, but not who is admitted to the group",
				zap.String("device", t.port.Name), zap.NamedError("err", err))
		}
	}
}

// opensToGroup reports whether the networks of the underlay device say who is admitted.
func opensToGroup(cfg *Tunnel) bool {
	return cfg.Group.IsValid() && len(cfg.Peers) == 0 && len(cfg.Accept) == 0
}

// removeSilent removes automatic peers that have been silent for longer than the MAC addresses
// learned from them live.
func (e *Endpoint) removeSilent() {
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
			silence = senderSilence
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
			e.log.Error("automatic peers that fell silent could not be removed", zap.String("device", t.port.Name), zap.NamedError("err", err))
		}
	}
}
