package vtep

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
)

// The watcher takes changes of the kernel over into the endpoint, such as routes (paths.go) and
// addresses, and removes entries that are too old.

// tooBigRate is how many senders a second of one tunnel are told that a packet is too
// big. A flow needs to hear it once.
const tooBigRate = 100

// pathPoll bounds how long a path MTU learned from ICMP is believed after the
// kernel has forgotten it, which it does silently (net.ipv4.route.mtu_expires,
// 600 s).
const pathPoll = 10 * time.Second

// pollMost is how many peers a poll asks about, the others come with the next ones: an idle host
// with 10,000 peers would spend 7 % of a CPU on what has not changed.
const pollMost = 1000

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
	tidy := time.NewTicker(senderTidy)
	defer tidy.Stop()
	var look look
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			e.pullHeard()
			e.sweep()
			e.checkHops()
			e.alarm()
			e.alarmFloods()
		case <-e.devicesMoved:
			e.followDevices()
		case s := <-e.senders:
			e.admitSenders(s)
		case <-tidy.C:
			e.removeSilent()
		case c, ok := <-changes:
			if !ok {
				changes = nil // polling continues
				continue
			}
			look.gather(&c)
		case <-look.due:
			look.at(e)
		case <-e.live.moved:
			e.followHealth()
		case <-e.unseen:
			e.lookAbove()
			look.gather(&netio.Changes{All: true})
		case <-e.recheck:
			e.checkPaths(doubtfulPeer)
			select { // who sends on and on what is refused cannot make us ask all the time
			case <-ctx.Done():
			case <-time.After(changePause):
			}
		case <-poll.C:
			e.lookAround()
			e.checkPaths(e.inTurn())
		}
	}
}

// lookAround brings in line what depends on devices and addresses.
func (e *Endpoint) lookAround() {
	e.lookAbove()
	e.mu.Lock()
	defer e.mu.Unlock()
	// In this order: a group's socket would be in the way of those of the
	// unspecified address on its device.
	e.relisten()
	if n, err := e.underlay.Renew(); n > 0 || err != nil {
		e.log.Info("sockets are bound again to devices that came back", zap.Int("sockets", n), zap.NamedError("err", err))
	}
	e.followGroups()
}

// inTurn chooses the next pollMost peers. Only one at a time calls it.
func (e *Endpoint) inTurn() func(*tunnel, *peer) bool {
	total := 0
	e.mu.Lock()
	for _, t := range e.tunnels {
		total += len(t.peers)
	}
	e.mu.Unlock()
	if total <= pollMost {
		return anyPeer
	}
	first, at := e.polled%total, -1
	e.polled = first + pollMost
	return func(*tunnel, *peer) bool {
		at++
		return (at-first+total)%total < pollMost
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
	instead := make(map[*socket]*socket)
	for opts, old := range e.sockets {
		if !old.listener.Stale() {
			continue
		}
		s := newSocket(old.ID, opts, old.Received)
		s.users = old.users
		if err := e.openSocket(s, false); err != nil {
			e.log.Warn("cannot listen on the device that has come back", zap.String("device", opts.Device), zap.NamedError("err", err))
			continue
		}
		e.sockets[opts], instead[old] = s, s
		e.log.Info("listening again on a device that had gone", zap.String("device", opts.Device))
		stale = append(stale, old)
	}
	if len(stale) == 0 {
		return
	}
	for _, t := range e.tunnels {
		for i, old := range t.sockets {
			if s := instead[old]; s != nil {
				t.sockets[i] = s
			}
		}
	}
	e.pool.Afterwards(func() {
		for _, old := range stale {
			old.listener.Close()
		}
	})
	if err := e.publish(); err != nil {
		e.log.Error("workers could not be updated", zap.NamedError("err", err))
	}
}

// sweep removes aged entries. Lookups do not wait for it.
func (e *Endpoint) sweep() {
	now := e.clock()
	for _, p := range e.pool.Snapshot().Ports {
		p.Segment.Sweep(now)
		if p.Trunk != nil {
			for i := range p.Trunk.Vlans {
				p.Trunk.Vlans[i].Sweep(now)
			}
		}
	}
}

// maxFlaps is how many addresses one line about them names.
const maxFlaps = 16

// alarm logs in one line which MAC addresses flap: those that damping holds in place while
// they still try to move, and without damping those that move all the time. It is called once
// a second.
func (e *Endpoint) alarm() {
	now := e.clock()
	counted := make(map[*fdb.Table]fdb.Stats)
	var who []string
	more := 0
	look := func(p *forward.Port, s *forward.Segment) {
		t := s.FDB
		stats, last := t.Stats(), e.flapped[t]
		if stats.Moved == 0 {
			return
		}
		counted[t] = stats
		held := stats.Damped != last.Damped || stats.Frozen != last.Frozen
		if !held && (t.Damping() || stats.Moved-last.Moved < fdb.DampMoves) {
			return
		}
		on := " on " + p.Name
		if s.VID != 0 {
			on += fmt.Sprint(" vlan ", s.VID)
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
	for _, p := range e.pool.Snapshot().Ports {
		look(p, p.Segment)
		if p.Trunk != nil {
			for i := range p.Trunk.Vlans {
				look(p, &p.Trunk.Vlans[i])
			}
		}
	}
	e.flapped = counted
	if len(who) > 0 {
		e.log.Warn("MAC addresses move to and fro between peers, or between a peer and our own device: look for a loop",
			zap.Strings("mac", who), zap.Int("more", more))
	}
}

// alarmFloods logs in one line which sources flooded more than their limit since the last
// call. Only the watcher calls it, once a second.
func (e *Endpoint) alarmFloods() {
	snap := e.pool.Snapshot()
	var who []string
	tell := func(of string, n uint64, told *uint64) {
		if n != *told {
			who = append(who, fmt.Sprintf("%s: %d frames", of, n-*told))
			*told = n
		}
	}
	for _, p := range snap.Ports {
		if p.Segment.BUM.Interval == 0 {
			continue
		}
		var n uint64
		for i := range p.Segment.Drops {
			n += p.Segment.Drops[i].Tx[count.DropBUMLimit].Load()
		}
		tell("out of "+p.Name, n, &p.ReportedFloods)
	}
	for _, p := range snap.Ports {
		for _, peer := range p.Segment.Limited {
			tell(fmt.Sprintf("%s on %s", peer.Dest.Remote.Addr(), p.Name), peer.Flooded.Load(), &peer.ReportedFloods)
		}
	}
	if len(who) == 0 {
		return
	}
	slices.Sort(who)
	e.log.Warn("flooded frames above bum_limit were dropped", zap.Int("sources", len(who)), zap.Strings("first", who[:min(len(who), maxFlaps)]))
}
