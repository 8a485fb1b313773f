package vtep

import (
	"errors"
	"slices"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/vtep/spec"
)

// Change is a set of changes that take effect together.
type Change struct {
	Remove []string // tunnels to close, by name
	Set    []Tunnel // tunnels to change, by the name in Device
	Add    []Tunnel // tunnels to open
	// Causes are for events, by tunnel; By is the cause where there is none.
	Causes map[string]*Cause
	By     *Caller
}

// cause is what is told of the change of a tunnel.
func (c *Change) cause(name string) *Cause {
	if cause := c.Causes[name]; cause != nil || c.By == nil {
		return cause
	}
	return &Cause{By: *c.By}
}

// Apply makes a change, all of it or nothing: on error everything is as it was before. If a
// worker hangs meanwhile the change is made, and Health names the worker. Tunnels that the
// change does not name lose no packet; those that it changes keep their device, their table
// and their counters.
//
// Errors are a *spec.Error that names the tunnel. Those of the kernel unwrap to their errno; a
// tunnel that is there already is unix.EEXIST, one that is not unix.ENOENT, and a setting that
// cannot change while the tunnel is there unix.EBUSY.
func (e *Endpoint) Apply(c Change) error {
	e.askAheadOf(&c)
	e.mu.Lock()
	err := e.apply(c)
	e.mu.Unlock()
	if err == nil && len(c.Add) > 0 {
		// Their devices may have brought routes, to the peers even.
		added := make(map[string]bool)
		for i := range c.Add {
			added[c.Add[i].Device.Name] = true
		}
		e.checkPaths(func(t *tunnel, _ *peer) bool { return added[t.config.Device.Name] })
	}
	return err
}

// askAheadOf asks about the ways to the peers of a change.
func (e *Endpoint) askAheadOf(c *Change) {
	e.askAhead(func() (all []question) {
		for _, tunnels := range [][]Tunnel{c.Set, c.Add} {
			for i := range tunnels {
				all = append(all, questionsOf(&tunnels[i], e.tunnels[tunnels[i].Device.Name])...)
			}
		}
		return all
	})
}

func (e *Endpoint) apply(c Change) error {
	if e.closed {
		return errClosed
	}
	if err := e.stuckError(); err != nil {
		return err
	}
	x := e.begin()
	x.mu.steps(len(c.Set) + len(c.Add))
	if err := x.make(c); err != nil {
		return x.undo(err)
	}
	x.finish(&c)
	return nil
}

// transaction is a change under way. It opens all that is new beside what is there, and takes
// nothing away until it is finished: undoing it is only closing again. Endpoint.mu is held
// from its beginning to its end.
type transaction struct {
	*Endpoint
	// What there was before: before are the tunnels that the change takes out or makes anew.
	before         []*tunnel
	admittedBefore admitted

	opened, removed   []*tunnel
	replaced, changed []*tunnel // what there was, and in the same order what takes its place
}

func (e *Endpoint) begin() *transaction {
	return &transaction{Endpoint: e, admittedBefore: e.admitted.copy()}
}

// make prepares all of a change.
func (x *transaction) make(c Change) error {
	for _, name := range c.Remove {
		t, ok := x.tunnels[name]
		if !ok {
			return spec.NoTunnel(name)
		}
		x.before = append(x.before, t)
		x.leave(t)
		x.removed = append(x.removed, t)
	}
	if err := x.set(c.Set); err != nil {
		return err
	}
	for i := range c.Add {
		if err := x.add(c.Add[i]); err != nil {
			return err
		}
	}
	if err := x.tooWatchful(); err != nil {
		return err
	}
	return x.departing.check()
}

// set makes other versions of tunnels.
func (x *transaction) set(all []Tunnel) error {
	var old []*tunnel
	for i := range all {
		name := all[i].Device.Name
		t, ok := x.tunnels[name]
		if !ok {
			return spec.NoTunnel(name)
		}
		if err := check(&all[i], &t.config); err != nil {
			return spec.About(name, err)
		}
		x.before = append(x.before, t)
		delete(x.tunnels, name)
		old = append(old, t)
	}
	x.departing = newDepartures(slices.Concat(x.removed, old)...)
	for i, cfg := range all {
		x.mu.step()
		t, err := x.reconfigure(old[i], cfg)
		if err != nil {
			return spec.About(cfg.Device.Name, err)
		}
		x.changed, x.replaced = append(x.changed, t), append(x.replaced, old[i])
	}
	// What goes leaves everywhere before the first that comes enters: what one tunnel gives up
	// another may take, whatever their order.
	for i, t := range x.changed {
		x.owners[t.state] = t
		x.admitted.leave(x.replaced[i], t)
	}
	for i, t := range x.changed {
		if err := x.conflicts(t, x.replaced[i]); err != nil {
			return spec.About(t.config.Device.Name, err)
		}
		x.enter(t, x.replaced[i])
	}
	return nil
}

// add opens a tunnel.
func (x *transaction) add(cfg Tunnel) error {
	x.mu.step()
	name := cfg.Device.Name
	if _, ok := x.tunnels[name]; ok {
		return spec.Exists("there is a tunnel " + name)
	}
	if err := check(&cfg, nil); err != nil {
		return spec.About(name, err)
	}
	t, err := x.open(cfg)
	if err != nil {
		return spec.About(name, err)
	}
	x.opened = append(x.opened, t)
	x.enter(t, nil)
	return nil
}

// undo goes back to what there was before, and returns err, which is why.
func (x *transaction) undo(err error) error {
	for _, t := range x.opened {
		delete(x.tunnels, t.config.Device.Name)
		delete(x.owners, t.state)
	}
	for _, t := range x.before {
		x.tunnels[t.config.Device.Name], x.owners[t.state] = t, t
	}
	x.admitted, x.departing = x.admittedBefore, nil
	for _, t := range x.changed {
		x.releaseUnderlay(t)
	}
	if x.rehearsing {
		for _, t := range x.opened {
			x.releaseUnderlay(t)
		}
		return err
	}
	err = errors.Join(err, x.closeTunnels(x.opened))
	for i, t := range x.replaced {
		t.adjustDevice(x.changed[i]) // the first error is the one that counts
	}
	return err
}

// finish hands the change over to the workers. What only they use is closed when all of them
// have taken it over.
func (x *transaction) finish(c *Change) {
	x.departing = nil
	for _, t := range x.removed {
		delete(x.switched, t.state)
	}
	x.pool.Afterwards(func() {
		for i, t := range x.changed {
			x.settle(t, x.replaced[i])
		}
		if err := x.closeTunnels(x.removed); err != nil {
			x.log.Warn("a removed tunnel was not closed cleanly", zap.NamedError("err", err))
		}
		for _, t := range x.removed {
			for i := range t.drops {
				x.goneDrops.Add(&t.drops[i])
			}
		}
	})
	x.mu.progress()
	x.commit(x.changed, x.replaced, len(x.opened)+len(x.removed) == 0)
	for _, t := range append(x.opened, x.changed...) {
		x.takeAnswers(t)
	}
	for i, t := range x.changed {
		if t.config.Device.Down != x.replaced[i].config.Device.Down {
			if cause := c.cause(t.port.Name); cause != nil { // what changed is told of the tunnel
				x.switched[t.state] = &Cause{By: cause.By}
			}
		}
	}
	x.tell(x.opened, "new", c)
	x.tell(x.changed, "changed", c)
	x.tell(x.removed, "deleted", c)
}

// Update changes the configuration of one tunnel; see Apply.
//
// edit may be called more than once; it changes nothing but what it is given.
func (e *Endpoint) Update(name string, edit func(*Tunnel) error) error {
	return e.update(name, edit, e.apply)
}

// update is Update, where do makes the change. e.mu is held then.
func (e *Endpoint) update(name string, edit func(*Tunnel) error, do func(Change) error) error {
	e.askAhead(func() []question {
		t, err := e.tunnel(name)
		if err != nil {
			return nil
		}
		cfg := t.config
		if edit(&cfg) != nil {
			return nil
		}
		return questionsOf(&cfg, t)
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return err
	}
	cfg := t.config
	if err := edit(&cfg); err != nil {
		return err
	}
	return do(Change{Set: []Tunnel{cfg}})
}

// rewire changes one tunnel below its configuration. e.mu is held.
func (e *Endpoint) rewire(old *tunnel, edit func(*tunnel)) error {
	if err := e.stuckError(); err != nil {
		return err
	}
	t, err := e.change(old, edit)
	if err != nil {
		return err
	}
	if err := e.conflicts(t, old); err != nil {
		e.releaseUnderlay(t)
		old.adjustDevice(t) // the first error is the one that counts
		return err
	}
	e.admitted.leave(old, t)
	e.enter(t, old)
	e.pool.Afterwards(func() { e.settle(t, old) })
	e.commit([]*tunnel{t}, []*tunnel{old}, true)
	e.takeAnswers(t)
	return nil
}

// commit publishes a change that is made. If a worker does not take it over in time, the
// change is in effect all the same, for the other workers at once: undoing it would need that
// worker, too. catchUp does the rest when the worker continues. Changed are versions that take the
// place of those in replaced; only says that this is all of the change.
func (e *Endpoint) commit(changed, replaced []*tunnel, only bool) {
	for i, t := range changed {
		only = only && slices.Equal(t.sockets, replaced[i].sockets)
	}
	publish := e.publish
	if only {
		publish = func() error { return e.republish(changed) }
	}
	if err := publish(); err != nil {
		e.log.Error("a change takes full effect only when all workers have taken it over", zap.NamedError("err", err))
	}
}

// tell sends one event for each tunnel.
func (e *Endpoint) tell(tunnels []*tunnel, action string, c *Change) {
	if !e.events.wanted() {
		return
	}
	for _, t := range tunnels {
		e.events.send(Event{Object: "tunnel", Action: action, Tunnel: t.port.Name, Cause: c.cause(t.port.Name)})
	}
}

// enter makes a tunnel, or a version that takes the place of another, old, part of the
// configuration.
func (e *Endpoint) enter(t, old *tunnel) {
	e.tunnels[t.config.Device.Name], e.owners[t.state] = t, t
	e.admitted.enter(t, old)
}

// leave takes a tunnel out of the configuration.
func (e *Endpoint) leave(t *tunnel) {
	delete(e.tunnels, t.config.Device.Name)
	delete(e.owners, t.state)
	e.admitted.leave(t, nil)
}

// settle makes the table match a new version of a tunnel, removes the MAC addresses learned
// from peers that are gone, and closes what only the old version used.
func (e *Endpoint) settle(t, old *tunnel) {
	for _, d := range t.domains {
		d.fdb.SetLimit(t.config.MaxAddress)
		d.fdb.SetAgeing(t.config.Ageing)
		d.fdb.SetDamping(!t.config.NoMoveDamping)
		if d.neighbours != nil {
			d.neighbours.Configure(neighbourOptions(&t.config))
		}
	}
	if err := t.settleEntries(old.entries, e.clock()); err != nil {
		e.log.Error("an entry of the table could not be set", zap.String("device", t.port.Name), zap.NamedError("err", err))
	}
	if err := t.settleNeighbours(old, e.clock()); err != nil {
		e.log.Error("a neighbour could not be set", zap.String("device", t.port.Name), zap.NamedError("err", err))
	}
	t.settleOwned(old, e.clock())
	if !sameArray(t.config.Peers, old.config.Peers) {
		t.owned.keep(&t.config)
	}
	var left []fdb.Nexthop
	for _, p := range t.left {
		gone := t.port.Segment.NexthopPeers(p.Nexthop) == nil
		if gone {
			left = append(left, p.Nexthop)
			stats, _ := p.counters()
			t.gone.Add(stats)
		}
		if gone && e.events.wanted() {
			e.events.send(Event{Object: "peer", Action: "deleted", Tunnel: t.port.Name, Remote: p.Dest.Remote})
		}
	}
	for of, nh := range old.sets {
		if t.sets[of] != nh {
			left = append(left, nh)
		}
	}
	for i := range t.domains {
		t.domains[i].fdb.FlushNexthops(left...)
	}
	t.free = append(slices.Clip(t.free), left...) // no worker, and no entry, knows these any more
	if e.events.wanted() {
		for _, p := range t.fresh {
			if old.port.Segment.NexthopPeers(p.Nexthop) == nil {
				e.events.send(Event{Object: "peer", Action: "new", Tunnel: t.port.Name, Remote: p.Dest.Remote})
			}
		}
	}
	t.left = nil
	e.releaseUnderlay(old)
}

// closeTunnels takes down tunnels that no worker uses.
func (e *Endpoint) closeTunnels(tunnels []*tunnel) error {
	devices := make([]netio.Device, len(tunnels))
	for i, t := range tunnels {
		devices[i] = t.device
	}
	err := e.devices.CloseAll(devices)
	for _, t := range tunnels {
		e.releaseUnderlay(t)
	}
	return err
}
