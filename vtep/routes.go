package vtep

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// What the kernel's routes say about the peers: how long a frame may be, and
// whether the way to a peer leads into one of our own devices. It is looked
// up when something changed, never per packet.

// assumedMTU is used while there is no route to any peer: Ethernet's.
const assumedMTU = 1500

// tooBigRate is how many senders a second of one tunnel are told that a packet is too
// big. A flow needs to hear it once.
const tooBigRate = 100

// minMTU is the least that a device's automatic MTU falls to: what every IPv4
// host must take (RFC 791). A path that is smaller drops, and is counted.
const minMTU = 576

// pathPoll bounds how long a path MTU learnt from ICMP is believed after the
// kernel has forgotten it, which it does silently (net.ipv4.route.mtu_expires,
// 600 s).
const pathPoll = 10 * time.Second

// changePause is how long changes of routes and links are gathered: they come by the
// hundred, and each look asks for the route to every peer.
const changePause = 20 * time.Millisecond

// gsoRetry is how long a peer goes without runs after the kernel has refused one.
// What stood in the way, such as IPsec, may have gone; a try costs one more send.
const gsoRetry = 10 * time.Minute

// watch keeps paths and own devices up to date, and tidies the tables, until
// ctx ends.
func (e *Endpoint) watch(ctx context.Context) {
	changes, err := e.underlay.Watch(ctx)
	if err != nil {
		e.log.Warn("route changes are not seen at once, only by polling", zap.NamedError("err", err))
	}
	poll := time.NewTicker(pathPoll)
	defer poll.Stop()
	sweep := time.NewTicker(time.Second)
	defer sweep.Stop()
	tidy := time.NewTicker(speakerTidy)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			e.sweep()
			e.alarm()
			e.alarmFloods()
			continue
		case <-e.devicesMoved:
			e.followDevices()
			continue
		case s := <-e.speakers:
			e.letIn(s)
			continue
		case <-tidy.C:
			e.forgetSpeakers()
			continue
		case _, ok := <-changes:
			if !ok {
				changes = nil // polling goes on
				continue
			}
			time.Sleep(changePause)
		case <-e.recheck:
			// One datagram too big per path is enough to ask; the rest of a
			// burst need not.
			time.Sleep(50 * time.Millisecond)
		case <-poll.C:
		}
		e.mu.Lock()
		// In this order: a group's socket would be in the way of those of the
		// unspecified address on its device.
		e.relisten()
		if n, err := e.underlay.Renew(); n > 0 || err != nil {
			e.log.Info("bound again to devices that had gone", zap.Int("sockets", n), zap.NamedError("err", err))
		}
		e.followGroups()
		e.checkOwn()
		e.checkPaths(e.sorted(), anyPeer)
		e.mu.Unlock()
	}
}

// relisten opens receive sockets anew whose device has come back as another.
// What cannot be opened yet, for want of an address, is tried again with the
// next change. e.mu is held.
func (e *Endpoint) relisten() {
	if e.closed {
		return
	}
	var stale []*socket
	for opts, old := range e.sockets {
		if !old.listener.Stale() {
			continue
		}
		s := newSocket(old.id, opts, old.received)
		s.users = old.users
		if err := e.openSocket(s, false); err != nil {
			e.log.Warn("cannot listen on the device that has come back", zap.String("device", opts.Device), zap.NamedError("err", err))
			continue
		}
		e.sockets[opts] = s
		for _, t := range e.tunnels {
			if i := slices.Index(t.sockets, old); i >= 0 {
				t.sockets[i] = s
			}
		}
		e.log.Info("listening again on a device that had gone", zap.String("device", opts.Device))
		stale = append(stale, old)
	}
	if len(stale) == 0 {
		return
	}
	e.pool.afterwards(func() {
		for _, old := range stale {
			old.listener.Close()
		}
	})
	if err := e.publish(); err != nil {
		e.log.Error("workers do not follow", zap.NamedError("err", err))
	}
}

// sweep removes aged entries. Lookups do not wait for it.
func (e *Endpoint) sweep() {
	now := e.clock()
	for _, p := range e.pool.snapshot().ports {
		p.segment.sweep(now)
		if p.trunk != nil {
			for i := range p.trunk.vlans {
				p.trunk.vlans[i].sweep(now)
			}
		}
	}
}

func (s *segment) sweep(now int64) {
	s.fdb.Sweep(now)
	if s.neighbours != nil {
		s.neighbours.Sweep(now)
	}
}

// maxFlaps is how many addresses one line about them names.
const maxFlaps = 16

// alarm says in one line which addresses flap: those that are held where they
// are, while they go on trying to move, and without damping those that move all
// the time. It is called once a second.
func (e *Endpoint) alarm() {
	now := e.clock()
	counted := make(map[*fdb.Table]fdb.Stats)
	var who []string
	more := 0
	look := func(p *port, s *segment) {
		t := s.fdb
		stats, last := t.Stats(), e.flapped[t]
		if stats.Moved == 0 {
			return
		}
		counted[t] = stats
		held := stats.Damped != last.Damped || stats.Frozen != last.Frozen
		if !held && (t.Damping() || stats.Moved-last.Moved < fdb.DampMoves) {
			return
		}
		on := " on " + p.name
		if s.vid != 0 {
			on += fmt.Sprint(" vlan ", s.vid)
		}
		for entry := range t.All(now) {
			switch flaps := entry.Frozen > 0 || !t.Damping() && entry.Moves >= fdb.DampMoves && entry.Updated < 2*time.Second; {
			case !flaps:
			case len(who) < maxFlaps:
				who = append(who, entry.MAC.String()+on)
			default:
				more++
			}
		}
	}
	for _, p := range e.pool.snapshot().ports {
		look(p, p.segment)
		if p.trunk != nil {
			for i := range p.trunk.vlans {
				look(p, &p.trunk.vlans[i])
			}
		}
	}
	e.flapped = counted
	if len(who) > 0 {
		e.log.Warn("addresses move to and fro between peers, or between a peer and us: is there a loop?",
			zap.Strings("mac", who), zap.Int("more", more))
	}
}

// alarmFloods says in one line who flooded more than its limit allows since
// the last time. It is called once a second, by the watcher alone.
func (e *Endpoint) alarmFloods() {
	snap := e.pool.snapshot()
	var who []string
	tell := func(of string, n uint64, told *uint64) {
		if n != *told {
			who = append(who, fmt.Sprintf("%s: %d frames", of, n-*told))
			*told = n
		}
	}
	for _, p := range snap.ports {
		if p.segment.bum.interval == 0 {
			continue
		}
		var n uint64
		for i := range p.segment.drops {
			n += p.segment.drops[i].tx[DropBUMLimit].Load()
		}
		tell("out of "+p.name, n, &p.toldFloods)
	}
	for _, p := range snap.peers {
		if p.bum.interval != 0 {
			tell(fmt.Sprintf("%s on %s", p.dest.remote.Addr(), p.port.name), p.flooded.Load(), &p.toldFloods)
		}
	}
	if len(who) == 0 {
		return
	}
	slices.Sort(who)
	e.log.Warn("flooded frames above bum_limit were dropped", zap.Int("sources", len(who)), zap.Strings("first", who[:min(len(who), maxFlaps)]))
}

// ownDevices returns our devices in the namespace of the sockets, and all
// that is stacked on them. e.mu is held.
func (e *Endpoint) ownDevices() []int32 {
	var here []int
	for _, t := range e.tunnels {
		if d := t.device.State(); d.Here {
			here = append(here, d.Ifindex)
		}
	}
	if len(here) == 0 {
		return nil
	}
	uppers, err := e.underlay.Uppers(here)
	if err != nil {
		e.log.Warn("cannot see what is stacked on the tunnel devices", zap.NamedError("err", err))
	}
	var own []int32
	for _, index := range append(here, uppers...) {
		own = append(own, int32(index))
	}
	slices.Sort(own)
	return slices.Compact(own)
}

// checkOwn publishes the own devices if they have changed. e.mu is held.
func (e *Endpoint) checkOwn() {
	own, snap := e.ownDevices(), e.pool.snapshot()
	if slices.Equal(own, snap.own) || e.closed || e.stuckError() != nil {
		return
	}
	next := *snap
	next.own = own
	if err := e.pool.publish(&next); err != nil {
		e.log.Error("workers do not follow", zap.NamedError("err", err))
	}
}

func anyPeer(*peer) bool { return true }

// checkPaths looks up the routes to those peers of tunnels that which holds for, each
// route once. e.mu is held.
func (e *Endpoint) checkPaths(tunnels []*tunnel, which func(*peer) bool) {
	type question struct {
		remote, local netip.Addr
		dev           string
		mark          uint32
	}
	type answer struct {
		route netio.Route
		err   error
	}
	own := e.pool.snapshot().own
	asked := make(map[question]answer)
	for _, t := range tunnels {
		for _, p := range t.peers {
			if !which(p) {
				continue
			}
			q := question{p.config.Remote, t.config.Local, p.dest.via, t.config.Mark}
			a, ok := asked[q]
			if !ok {
				a.route, a.err = e.underlay.Route(q.remote, q.local, q.dev, q.mark)
				asked[q] = a
			}
			if a.err != nil || a.route.Local {
				a.route = netio.Route{}
			}
			// A device's own MTU says nothing of the path: following it would
			// make it smaller with every look.
			loop := slices.Contains(own, int32(a.route.Ifindex))
			if !loop {
				p.setRoute(a.route)
			}
			about := []zap.Field{zap.String("device", t.port.name), zap.Stringer("remote", q.remote)}
			if p.blocked.Swap(loop) != loop {
				if loop {
					e.log.Error("the route to the peer leads into a tunnel; nothing is sent to it until it is mended", about...)
				} else {
					e.log.Warn("the route to the peer no longer leads into the tunnel", about...)
				}
			}
			if p.checkRuns(e.clock()) {
				e.log.Warn("the kernel takes no runs of datagrams (UDP_SEGMENT) for the peer: they are sent one by one, which is slower; IPsec, or a device without checksum offload?", about...)
			}
			if none := p.limit.Load() == 0; none != p.noRoute {
				p.noRoute = none
				if none {
					e.log.Warn("no route to the peer", append(about, zap.NamedError("err", a.err))...)
				} else {
					e.log.Info("a route to the peer has come", about...)
				}
			}
		}
		e.followMTU(t)
	}
}

// runsRefused reports whether the kernel has refused a run to the peer.
func (p *peer) runsRefused() bool {
	return p.path != nil && p.path.NoGSO.Load() || p.pathFrag != nil && p.pathFrag.NoGSO.Load()
}

// checkRuns reports whether the kernel has refused runs to the peer for the first
// time, and lets them be tried again gsoRetry later. Endpoint.mu is held.
func (p *peer) checkRuns(now int64) (tell bool) {
	switch {
	case !p.runsRefused():
		p.refusedSince = 0
	case p.refusedSince == 0:
		p.refusedSince = now
		tell, p.toldRefused = !p.toldRefused, true
	case now-p.refusedSince > int64(gsoRetry):
		for _, path := range []*packet.Path{p.path, p.pathFrag} {
			if path != nil {
				path.NoGSO.Store(false)
			}
		}
	}
	return tell
}

// setRoute takes over what a route says about the path.
func (p *peer) setRoute(r netio.Route) {
	p.limit.Store(int32(max(0, r.MTU-p.outer)))
}

// autoMTU is the device MTU at which no frame is too big for any peer.
func (t *tunnel) autoMTU() int {
	link := ethernetLen
	if t.config.Device.L3 {
		link = 0
	}
	if len(t.peers) == 0 {
		// Who will speak is not known yet: the longer headers leave room for both.
		outer := ipUDPLen(netip.IPv6Unspecified())
		if t.config.Local.Is4() {
			outer = ipUDPLen(t.config.Local)
		}
		return assumedMTU - outer - geneve.HeaderLen - link
	}
	mtu := 0
	for _, p := range t.peers {
		limit := int(p.limit.Load())
		if limit == 0 {
			limit = assumedMTU - p.outer
		}
		if m := max(limit-link, minMTU); mtu == 0 || m < mtu {
			mtu = m
		}
	}
	return mtu
}

// follow returns what a device's automatic MTU becomes from was. A bridge drops what
// is longer than its port's MTU without a word (net/bridge/br_forward.c): while the device
// is in one it does not become less, and those who send too much are told.
func (t *tunnel) follow(was int) int {
	if mtu := t.autoMTU(); mtu >= was || !t.device.Bridged() {
		return mtu
	}
	return was
}

// followMTU sets the device's MTU after the paths have changed, unless the
// user fixed it, in the configuration or since then by hand.
func (e *Endpoint) followMTU(t *tunnel) {
	if !t.mtuAuto || !slices.ContainsFunc(t.peers, func(p *peer) bool { return p.limit.Load() != 0 }) {
		return
	}
	mtu := t.follow(t.mtu)
	if mtu == t.mtu {
		return
	}
	name := zap.String("device", t.config.Device.Name)
	if now, err := t.device.MTU(); err != nil || now != t.mtu {
		return
	}
	if err := t.device.SetMTU(mtu); err != nil {
		e.log.Warn("cannot set the MTU that the path asks for", name, zap.Int("mtu", mtu), zap.NamedError("err", err))
	} else {
		e.log.Info("MTU follows the path", name, zap.Int("mtu", mtu), zap.Int("was", t.mtu))
	}
	t.mtu = mtu
}
