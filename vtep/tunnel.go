package vtep

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/spec"
)

// tunnel is a tunnel of a running endpoint: its configuration, what it holds
// open, and what workers see of it.
type tunnel struct {
	config  Tunnel
	device  netio.Device
	sockets []*socket
	ports   []*packet.PortSet // each once
	mtuAuto bool
	mtu     int // of the device, as last set by us

	// What lives on when the configuration changes.
	id          uint32
	since       time.Time
	domains     []domain             // of the tunnel itself, then of its VLANs by their ID
	drops       []count.DropCounters // by worker
	gone        count.Stats          // of peers that are no longer there
	state       *forward.PortState
	lastNexthop fdb.Nexthop
	free        []fdb.Nexthop           // below it, that nobody has
	accept      []netip.Prefix          // hosts there become peers when their first packet arrives
	dynamic     []netip.Addr            // automatic peers
	entries     *entries                // that the tables are held to
	owned       *owned                  // what batches wrote
	sets        map[station]fdb.Nexthop // of the entries with several destinations

	// What a version of the configuration begins with, until it is settled: entries that are
	// first values, and those that are withdrawn.
	initial, withdrawn []Entry
	// resettled are stations whose entries have changed in place.
	resettled []station
	// pointed are where entries point that are not held, or not there yet.
	pointed []forward.Destination

	// Made anew for every configuration.
	port          *forward.Port
	peers         []*peer
	byDestination map[forward.Destination]*peer
	implicit      []*peer // of peers
	watched       []*peer // of peers, those with BFD
	// fresh are the peers that the version before did not have, or not so, and left those of
	// that version that this one does not have, or not so.
	fresh, left []*peer
	version     uint64
	slow        string // why it is not for the fast path; "": it is
}

// newNexthop returns a number that no peer and no set of t has.
func (t *tunnel) newNexthop() fdb.Nexthop {
	if n := len(t.free); n > 0 {
		nh := t.free[n-1]
		t.free = t.free[:n-1]
		return nh
	}
	t.lastNexthop++
	return t.lastNexthop
}

// Add opens tunnels, all of them or none; see Apply.
func (e *Endpoint) Add(tunnels ...Tunnel) error { return e.Apply(Change{Add: tunnels}) }

// Remove closes a tunnel; see Apply.
func (e *Endpoint) Remove(name string) error { return e.Apply(Change{Remove: []string{name}}) }

// open acquires all that a new tunnel needs, the device last: nothing of it
// shows on the host while anything can still fail.
func (e *Endpoint) open(cfg Tunnel) (_ *tunnel, err error) {
	e.lastID++
	t := &tunnel{
		config: cfg, mtuAuto: cfg.Device.MTU == 0,
		id: e.lastID, since: time.Now(),
		drops: make([]count.DropCounters, e.workers),
		state: &forward.PortState{ID: e.lastID, ReportedDown: cfg.Device.Down},
		owned: newOwned(),
	}
	t.state.TooBig = forward.NewRateLimit(tooBigRate, &t.state.TooBigDue)
	t.domains = e.domains(t, nil)
	defer func() {
		if err != nil {
			e.releaseUnderlay(t)
		}
	}()
	t.configured(new(tunnel))
	t.nameSets()
	if err := e.openToGroup(t); err != nil {
		return nil, err
	}
	if err := e.openPeers(t, new(tunnel)); err != nil {
		return nil, err
	}
	if err := e.conflicts(t, nil); err != nil {
		return nil, err
	}
	opts := cfg.Device
	opts.Queues = e.queues(&cfg)
	if t.mtuAuto {
		opts.MTU = t.autoMTU()
	}
	t.mtu = opts.MTU
	if e.rehearsing {
		t.port = &forward.Port{Name: opts.Name} // that others may name it
		t.watchful()
		return t, e.devices.Try(opts)
	}
	if t.device, err = e.devices.Open(opts); err != nil {
		return nil, err
	}
	t.state.Offload.Store(uint32(t.device.Offload()))
	e.assemble(t, nil)
	if err := errors.Join(t.settleEntries(nil, e.clock()), t.settleNeighbours(nil, e.clock())); err != nil {
		return nil, errors.Join(err, t.device.Close())
	}
	return t, nil
}

// queues is how many queues the device of a tunnel has to read from.
func (e *Endpoint) queues(cfg *Tunnel) int {
	if n := cfg.Device.Queues; n != 0 {
		return min(n, e.workers)
	}
	return e.workers
}

// openQueues gives a port the queues of its device, those of an older version if there is one.
func (t *tunnel) openQueues(workers, queues int, old *tunnel) {
	if old != nil && old.device == t.device {
		t.port.Queues, t.port.Writers = old.port.Queues, old.port.Writers
		return
	}
	for i := range queues {
		t.port.Queues = append(t.port.Queues, t.device.Queue(i))
	}
	for i := range workers {
		t.port.Writers = append(t.port.Writers, t.device.Writer(i))
	}
}

// reconfigure opens what a tunnel needs for another configuration.
func (e *Endpoint) reconfigure(old *tunnel, cfg Tunnel) (*tunnel, error) {
	if fixed := spec.Fixed(&old.config, &cfg); fixed != "" {
		return nil, spec.Busy(fixed)
	}
	return e.change(old, func(t *tunnel) {
		t.config, t.mtuAuto = cfg, cfg.Device.MTU == 0
		t.configured(old)
	})
}

// change makes another version of a tunnel beside the old one. Device, table
// and counters stay, and so does the state of peers that stay.
func (e *Endpoint) change(old *tunnel, edit func(*tunnel)) (*tunnel, error) {
	t := new(tunnel)
	*t = *old
	t.initial, t.withdrawn, t.resettled, t.pointed = nil, nil, nil, nil
	if len(old.implicit) > 0 {
		pointed := old.pointedPeers()
		for _, p := range old.implicit {
			if pointed[p.Nexthop] {
				t.pointed = append(t.pointed, p.Dest)
			}
		}
	}
	edit(t)
	t.sockets, t.ports, t.peers, t.byDestination, t.implicit, t.fresh, t.left = nil, nil, nil, nil, nil, nil, nil
	t.domains = e.domains(t, old.domains)
	t.nameSets()
	if err := e.openToGroup(t); err != nil {
		return nil, err
	}
	t.dropAccepted()
	if err := e.openPeers(t, old); err != nil {
		e.releaseUnderlay(t)
		return nil, err
	}
	switch {
	case !t.mtuAuto:
		t.mtu = t.config.Device.MTU
	case old.mtuAuto:
		t.mtu = t.nextMTU(old.mtu)
	default:
		t.mtu = t.autoMTU()
	}
	if e.rehearsing {
		t.watchful()
		if err := t.tryDevice(old); err != nil {
			e.releaseUnderlay(t)
			return nil, err
		}
		return t, nil
	}
	if err := t.adjustDevice(old); err != nil {
		e.releaseUnderlay(t)
		return nil, err
	}
	e.assemble(t, old)
	return t, nil
}

// tryDevice says why adjustDevice would fail, as far as that can be known.
func (t *tunnel) tryDevice(old *tunnel) error {
	if t.config.Device.Isolated && !old.config.Device.Isolated {
		if err := t.device.TryIsolated(); err != nil {
			return fmt.Errorf("isolated: %w", err)
		}
	}
	return nil
}

// adjustDevice gives the device the live settings of t, where
// those of old differ. On error it has those of old.
func (t *tunnel) adjustDevice(old *tunnel) (err error) {
	now, before := &t.config.Device, &old.config.Device
	for _, step := range []struct {
		what     string
		wanted   bool
		do, undo func() error
	}{
		{fmt.Sprintf("mtu %d", t.mtu), t.mtu != old.mtu,
			func() error { return t.device.SetMTU(t.mtu) }, func() error { return t.device.SetMTU(old.mtu) }},
		{"isolated", now.Isolated != before.Isolated,
			func() error { return t.device.SetIsolated(now.Isolated) }, func() error { return t.device.SetIsolated(before.Isolated) }},
		{"up", now.Down != before.Down,
			func() error { return t.device.SetUp(!now.Down) }, func() error { return t.device.SetUp(!before.Down) }},
	} {
		if !step.wanted {
			continue
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		defer func() {
			if err != nil {
				step.undo() // the first error is the one that counts
			}
		}()
	}
	return nil
}

// releaseUnderlay gives back what a tunnel has on the underlay. No worker uses
// it any more.
func (e *Endpoint) releaseUnderlay(t *tunnel) {
	for _, set := range t.ports {
		e.underlay.Release(set)
	}
	for _, s := range t.sockets {
		if s.users--; s.users == 0 {
			delete(e.sockets, s.options)
			e.spoken[spoken{s.options.Port, s.options.encap}]--
			if s.listener != nil { // else it was only tried
				s.listener.Close()
			}
		}
	}
	t.ports, t.sockets = nil, nil
}

// check refuses what cannot work, whoever asks for it. old is the version that runs, or nil:
// of the entries that it has there can be a million, and they were checked.
func check(cfg, old *Tunnel) error {
	found := spec.Check(cfg)
	if old == nil || !keepsVLANs(cfg, old) || cfg.Local != old.Local || !sameArray(cfg.Entries, old.Entries) {
		found = append(found, spec.CheckEntries(cfg)...)
	}
	if len(found) > 0 {
		return found[0].Err()
	}
	return nil
}

// sameArray reports whether two lists are one, without a look at their elements.
func sameArray[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// sameList is slices.Equal, which for one list costs no look at its elements either.
func sameList[T comparable](a, b []T) bool { return sameArray(a, b) || slices.Equal(a, b) }

// settleNeighbours brings the table that neigh_suppress answers from in line
// with the configuration, unless both are those of old, the version before it; nil: there is none.
func (t *tunnel) settleNeighbours(old *tunnel, now int64) (err error) {
	known := t.domains[0].neighbours // those of frames without a tag
	if known == nil || old != nil && known == old.domains[0].neighbours && sameList(t.config.Neighbours, old.config.Neighbours) {
		return nil
	}
	var before []Neighbour
	if old != nil {
		before = old.config.Neighbours
	}
	stay := make(map[Neighbour]bool, len(t.config.Neighbours))
	for _, n := range t.config.Neighbours {
		stay[n] = true
	}
	for _, n := range before {
		if stay[n] {
			continue
		}
		_ = known.Delete(n.Addr, [2]uint16{}, now) // not there if the table is a new one
	}
	for _, n := range t.config.Neighbours {
		err = errors.Join(err, known.Set(neigh.Entry{Addr: n.Addr, MAC: n.MAC, Static: true}, now))
	}
	return err
}
