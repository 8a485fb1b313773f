package vtep

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"

	"gvtep/internal/netio"
	"gvtep/vtep/internal/forward"
)

// Which devices are stacked on ours, which are network cards, and what that means for packets.
// It is looked up after changes, without Endpoint.mu.

// above is what was last seen.
type above struct {
	below  []int          // our devices, in ascending order
	uppers []netio.Upper  // in ascending order
	locals []netip.Prefix // nil: not known, or not needed
	cards  []int32        // what comes in by them has crossed a wire
}

// shared reports whether something has to be told apart.
func (a *above) shared() bool {
	return slices.ContainsFunc(a.uppers, func(up netio.Upper) bool { return up.Bridge != 0 })
}

// upper returns a device that is above some of ours.
func (a *above) upper(ifindex int) (netio.Upper, bool) {
	i, ok := slices.BinarySearchFunc(a.uppers, ifindex, func(up netio.Upper, ifindex int) int { return up.Ifindex - ifindex })
	if !ok {
		return netio.Upper{}, false
	}
	return a.uppers[i], true
}

// here are our devices in the namespace of the sockets, in ascending order. e.mu is held.
func (e *Endpoint) here() []int {
	ifindexes := make([]int, 0, len(e.tunnels))
	for _, t := range e.tunnels {
		if d := t.device.State(); d.Here {
			ifindexes = append(ifindexes, d.Ifindex)
		}
	}
	slices.Sort(ifindexes)
	return slices.Compact(ifindexes)
}

// lookAbove looks up what is above our devices, and has the workers follow. Only one at a
// time calls it, without e.mu.
func (e *Endpoint) lookAbove() {
	e.mu.Lock()
	seen, before := above{below: e.here()}, e.above
	e.mu.Unlock()
	var err error
	if len(seen.below) > 0 {
		if seen.uppers, err = e.underlay.Stacked(seen.below); err != nil {
			e.log.Warn("cannot see what is stacked on the tunnel devices", zapErr(err))
			seen.uppers = before.uppers
		}
	}
	seen.cards = e.askCards()
	if seen.shared() {
		if seen.locals, err = e.underlay.Locals(); err != nil {
			e.log.Warn("cannot see the addresses of this host: GENEVE packets between hosts inside the overlay are not carried", zapErr(err))
		}
	}
	if reflect.DeepEqual(seen, before) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.above = seen
	if e.closed || e.stuckError() != nil {
		return
	}
	next := *e.pool.Snapshot()
	if err := e.hand(&next); err != nil {
		e.log.Error("workers could not be updated", zapErr(err))
	}
	e.renest()
}

// askCards returns the network cards; none if the kernel does not say.
func (e *Endpoint) askCards() (cards []int32) {
	found, err := e.underlay.Cards()
	if err != nil {
		e.log.Warn("cannot see which devices are network cards", zapErr(err))
	}
	for _, index := range found {
		cards = append(cards, int32(index))
	}
	slices.Sort(cards)
	return cards
}

// guard adds to a snapshot what is above our devices. Devices that were not looked up yet may
// be anywhere. e.mu is held.
func (e *Endpoint) guard(snap *forward.Snapshot) {
	here := e.here()
	snap.Own, snap.Guard, snap.Cards = nil, nil, e.above.cards
	snap.Own = make([]int32, 0, len(here)+len(e.above.uppers))
	for _, i := range here {
		snap.Own = append(snap.Own, int32(i))
	}
	for _, up := range e.above.uppers {
		if up.Bridge == 0 {
			snap.Own = append(snap.Own, int32(up.Ifindex))
		}
	}
	slices.Sort(snap.Own)
	snap.Own = slices.Compact(snap.Own)
	unseen := e.unseenDevice()
	if !unseen && !e.above.shared() {
		return
	}
	g := &forward.Guard{Listening: make(forward.Listening), Remotes: e.remotes.Copy()}
	if len(e.above.locals) > 0 {
		g.Locals = forward.NewLocals(e.above.locals)
	}
	for opts := range e.sockets {
		a := opts.Local
		if opts.Group.IsValid() {
			a = opts.Group
		}
		g.Listening.Add(a.WithZone(""), opts.Port)
	}
	snap.Guard = g
	if unseen {
		e.lookSoon()
	}
}

// unseenDevice reports whether nobody has looked what is above some device, although somebody
// would. e.mu is held.
func (e *Endpoint) unseenDevice() bool {
	return e.running && slices.ContainsFunc(e.here(), func(i int) bool {
		_, ok := slices.BinarySearch(e.above.below, i)
		return !ok
	})
}

// lookSoon has the watcher look above our devices, and then at the ways to all peers.
func (e *Endpoint) lookSoon() {
	select {
	case e.unseen <- struct{}{}:
	default:
	}
}

// intoTunnel is what is wrong with a way that leads into a tunnel.
const intoTunnel = "the route to it leads into a tunnel"

// wayBack finds out whether packets to a peer would come back to us, as far as is known. It
// returns nil if they do not. e.mu is held.
func (e *Endpoint) wayBack(t *tunnel, p *peer, a answer) *forward.Loop {
	by := a.route.Ifindex
	up, over := e.above.upper(by)
	if !over || up.Bridge == 0 {
		p.Hop.Store(0)
		p.hopless = false
		through := int32(p.into)
		if up.Joint != "" || e.nested.leadsBack(t.id, p.into) {
			through = 0
		}
		p.Through.Store(through)
		switch {
		case p.into == 0 || through != 0:
			return nil
		case up.Joint == "":
			return &forward.Loop{Why: intoTunnel}
		}
		return &forward.Loop{Shared: true, Why: intoTunnel + ", as far as can be told: " + e.share(up)}
	}
	p.Through.Store(0)
	p.hopless = a.hop.IsZero() && !p.Dest.Remote.Addr().IsMulticast()
	switch _, in := slices.BinarySearch(up.Below, t.device.State().Ifindex); {
	case !in:
		p.Hop.Store(0)
	case !a.hop.IsZero():
		p.Hop.Store(forward.HopNumber(a.hop))
	}
	switch {
	case e.pool.Snapshot().IsOwn(int32(a.port)):
		return &forward.Loop{Shared: true, Why: intoTunnel + ", in which the bridge has seen the next hop: " + e.share(up)}
	case p.Echoing(e.clock()):
		return &forward.Loop{Shared: true, Why: intoTunnel + " and back by the underlay, which the other end has in one bridge with its tunnel, too: " + e.share(up)}
	}
	return nil
}

// setLoop stores the result of wayBack, and logs a change. e.mu is held.
func setLoop(t *tunnel, p *peer, now *forward.Loop, told *notices) {
	was := p.Loop.Swap(now)
	p.Blocked.Store(now != nil)
	switch {
	case now != nil && (was == nil || *was != *now):
		text := "the route to the peer leads into a tunnel; nothing is sent to it until it is mended"
		if now.Shared {
			text += ": " + now.Why
		}
		told.add(zap.ErrorLevel, text, t, p)
	case now == nil && was != nil:
		told.add(zap.WarnLevel, "the route to the peer no longer leads into the tunnel", t, p)
	}
}

// share says what shares a device with the underlay. e.mu is held.
func (e *Endpoint) share(up netio.Upper) string {
	var names []string
	for _, p := range e.pool.Snapshot().Ports { // in the order of their names
		if _, in := slices.BinarySearch(up.Below, p.Device.State().Ifindex); in {
			if len(names) == maxFlaps {
				names = append(names, "others")
				break
			}
			names = append(names, p.Name)
		}
	}
	kind := "bridge "
	if up.Bridge == 0 {
		kind = ""
	}
	return fmt.Sprintf("%s and the underlay share the %s%s: give the underlay a bridge, or a VLAN, of its own", strings.Join(names, ", "), kind, up.Joint)
}

// hopTries is how often in a row the next hop of a peer is asked for each second while it
// is not known.
const hopTries = 10

// hopless holds for a peer of which it is not known where on a shared bridge it is, or that
// is in the wrong place there. It is called once a second.
func hopless(_ *tunnel, p *peer) bool {
	if l := p.Loop.Load(); l != nil && l.Shared {
		return true
	}
	if !p.hopless {
		p.hopsTried = 0
		return false
	}
	p.hopsTried++
	return p.hopsTried <= hopTries
}

// checkHops asks again about those peers.
func (e *Endpoint) checkHops() {
	e.mu.Lock()
	shared := e.above.shared() || slices.ContainsFunc(e.above.uppers, func(up netio.Upper) bool { return up.Joint != "" })
	e.mu.Unlock()
	if shared {
		e.checkPaths(hopless)
	}
}

// nextHops asks where the next hops are of peers whose route leaves by a shared bridge.
func (e *Endpoint) nextHops(asked map[question]answer) {
	e.mu.Lock()
	seen := e.above
	e.mu.Unlock()
	if !seen.shared() {
		return
	}
	for q, a := range asked {
		up, ok := seen.upper(a.route.Ifindex)
		if !ok || up.Bridge == 0 || a.err != nil || q.remote.Addr().IsMulticast() {
			continue
		}
		hop := a.route.Gateway
		if !hop.IsValid() {
			hop = q.remote.Addr()
		}
		a.hop, a.port = e.underlay.NextHop(hop, up)
		asked[q] = a
	}
}
