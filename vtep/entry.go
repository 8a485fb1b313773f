package vtep

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// Entry is an entry of a forwarding table that somebody sets, in the words of
// bridge(8).
type Entry struct {
	MAC   packet.MAC
	VLAN  uint16    // of a trunk; 0: frames without a tag
	Local bool      // behind our own device; else at Remote
	State fdb.State // 0: permanent
	Flags fdb.Flags
	// Remote, Port, VNI and Via are where frames for it go. Port 0 and an
	// empty Via are the tunnel's, no VNI is the segment's.
	Remote netip.Addr
	Port   uint16
	VNI    geneve.VNI
	HasVNI bool
	Via    string
}

// at is the entry as the table has it.
func (entry *Entry) at(nh fdb.Nexthop) fdb.Entry {
	state := entry.State
	if state == 0 {
		state = fdb.Permanent
	}
	return fdb.Entry{MAC: entry.MAC, Nexthop: nh, State: state, Flags: entry.Flags}
}

// station is an address in one of a tunnel's segments.
type station struct {
	vid uint16
	mac packet.MAC
}

func (entry *Entry) station() station { return station{entry.VLAN, entry.MAC} }

// entries are the static entries of a tunnel by address. Only group addresses
// have several.
type entries map[station][]Entry

// within returns the entries in the segments that t has.
func (all entries) within(t *tunnel) entries {
	kept := maps.Clone(all)
	maps.DeleteFunc(kept, func(of station, _ []Entry) bool { return t.domain(of.vid) == nil })
	return kept
}

// configure replaces the entries of one configuration by those of another.
// What was set by hand stays, unless the configuration names its address.
func (all entries) configure(before, now []Entry) {
	for _, list := range [][]Entry{before, now} {
		for _, entry := range list {
			delete(all, entry.station())
		}
	}
	for _, entry := range now {
		all[entry.station()] = append(all[entry.station()], entry)
	}
}

// Verb says what to do if there is an entry for the address already.
type Verb uint8

// The verbs of bridge(8).
const (
	EntryAdd     Verb = iota // there must be none
	EntryAppend              // one more destination, for group and the zero address
	EntryReplace             // instead of what is there
)

// Errors in the words of the kernel, which scripts look for.
var (
	errExists   = fmt.Errorf("%w%w", fdb.ErrExists, silent{unix.EEXIST})
	errNotFound = fmt.Errorf("%w%w", fdb.ErrNotFound, silent{unix.ENOENT})
)

// silent is an errno that is there to be found by errors.Is, not to be read.
type silent struct{ unix.Errno }

func (silent) Error() string { return "" }

func (s silent) Unwrap() error { return s.Errno }

// entryDestination is where an entry of t points to.
func (t *tunnel) entryDestination(e Entry) destination {
	d := t.destination(e.Remote, e.Port)
	if own, _ := t.config.vni(e.VLAN); e.HasVNI && e.VNI != own {
		d.vni, d.hasVNI = e.VNI, true
	}
	if e.Via != "" {
		d.via = e.Via
	}
	return d
}

// SetEntry makes an entry in the table of a tunnel. The zero address stands
// for the flood list: an entry for it is a peer.
func (e *Endpoint) SetEntry(name string, verb Verb, entry Entry) error {
	if entry.MAC.IsZero() {
		return e.setFlood(name, verb, entry)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return err
	}
	if err := entry.check(&t.config); err != nil {
		return err
	}
	have := t.entries[entry.station()]
	_, known := t.domain(entry.VLAN).fdb.Get(entry.MAC, e.clock())
	switch {
	case verb == EntryAdd && known:
		return errExists
	case verb == EntryAppend && known && !entry.MAC.IsGroup():
		return fmt.Errorf("%w (append is for 00:00:00:00:00:00 and group addresses; use replace)", errExists)
	case verb == EntryAppend && slices.ContainsFunc(have, func(o Entry) bool { return t.entryDestination(o) == t.entryDestination(entry) }):
		return errExists
	}
	list := []Entry{entry}
	if verb == EntryAppend {
		list = append(slices.Clone(have), entry)
	}
	return e.setEntries(t, entry.station(), list)
}

// check refuses an entry that cannot work in a tunnel.
func (entry *Entry) check(cfg *Tunnel) error {
	switch r := entry.Remote; {
	case cfg.Device.L3:
		return fmt.Errorf("an L3 tunnel has no forwarding table: %w", unix.EINVAL)
	case !entry.MAC.IsZero() && !cfg.has(entry.VLAN):
		return cfg.noSegment(entry.VLAN)
	case entry.Local && r.IsValid():
		return fmt.Errorf("local and dst exclude each other: %w", unix.EINVAL)
	case entry.Local:
		return nil
	case !r.IsValid() || r.IsUnspecified():
		return fmt.Errorf("dst is missing: want the address of a VTEP: %w", unix.EINVAL)
	case cfg.Local.IsValid() && cfg.Local.Is4() != r.Is4():
		return fmt.Errorf("dst %s and local %s are of different families: %w", r, cfg.Local, unix.EINVAL)
	case entry.HasVNI && !entry.VNI.Valid():
		return fmt.Errorf("vni %d: want 0 to %d: %w", entry.VNI, geneve.MaxVNI, unix.EINVAL)
	}
	return nil
}

// has reports whether there is a segment for a VLAN, or for no tag.
func (cfg *Tunnel) has(vid uint16) bool {
	_, ok := cfg.vni(vid)
	return ok
}

// noSegment says that there is none.
func (cfg *Tunnel) noSegment(vid uint16) error {
	if vid == 0 {
		return fmt.Errorf("of which VLAN? The trunk has no id of its own: add vlan VID: %w", unix.EINVAL)
	}
	return fmt.Errorf("the tunnel has no vlan %d: %w", vid, unix.EINVAL)
}

// setEntries makes list the entries for an address, none if it is empty.
// e.mu is held.
func (e *Endpoint) setEntries(t *tunnel, of station, list []Entry) error {
	if done, err := t.setEntry(of, list, e.clock()); done {
		return err
	}
	next := maps.Clone(t.entries)
	if next == nil {
		next = make(entries)
	}
	next[of] = list
	if len(list) == 0 {
		delete(next, of)
	}
	return e.rewire(t, func(n *tunnel) { n.entries = next })
}

// setEntry does that if it takes no hand-over to the workers: there is at most one
// entry, and the peers stay what they are. Else it has done nothing. With it
// 10,000 entries are added and removed one by one in the time of as many
// requests, without in the square of that.
func (t *tunnel) setEntry(of station, list []Entry, now int64) (done bool, err error) {
	have := t.entries[of]
	if of.mac.IsGroup() || t.sets[of] != 0 || len(list) > 1 || len(have) > 1 {
		return false, nil
	}
	nexthop, points := fdb.Local, destination{}
	if len(list) == 1 && !list[0].Local {
		points = t.entryDestination(list[0])
		i := slices.IndexFunc(t.peers, func(p *peer) bool { return p.dest == points })
		if i < 0 {
			return false, nil
		}
		nexthop = t.peers[i].nexthop
	}
	if len(have) == 1 && !have[0].Local {
		if d := t.entryDestination(have[0]); d != points && !t.needs(d, of) {
			return false, nil
		}
	}
	table := t.domain(of.vid).fdb
	if len(list) == 0 {
		err = table.Delete(of.mac, now)
	} else {
		err = table.Replace(list[0].at(nexthop), now)
	}
	switch {
	case err != nil:
	case len(list) == 0, list[0].State == fdb.Dynamic: // that ages like any other
		delete(t.entries, of)
	case t.entries == nil:
		t.entries = entries{of: list}
	default:
		t.entries[of] = list
	}
	return true, err
}

// needs says whether there would be a peer of this destination without the entries
// for one address.
func (t *tunnel) needs(d destination, without station) bool {
	if slices.ContainsFunc(t.peers, func(p *peer) bool { return p.dest == d && (p.speaks || p.floods) }) {
		return true
	}
	for of, list := range t.entries {
		if of != without && slices.ContainsFunc(list, func(e Entry) bool { return !e.Local && t.entryDestination(e) == d }) {
			return true
		}
	}
	return false
}

// DeleteEntry removes what entry names from the table of a tunnel: with a
// Remote that destination only.
func (e *Endpoint) DeleteEntry(name string, entry Entry) error {
	if entry.MAC.IsZero() {
		return e.dropFlood(name, entry)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return err
	}
	if !t.config.has(entry.VLAN) {
		return t.config.noSegment(entry.VLAN)
	}
	now, table := e.clock(), t.domain(entry.VLAN).fdb
	have, ok := table.Get(entry.MAC, now)
	if !ok {
		return errNotFound
	}
	list := t.entries[entry.station()]
	if entry.Remote.IsValid() {
		d := t.entryDestination(entry)
		if len(list) == 0 && !slices.ContainsFunc(t.port.segment.nexthopPeers(have.Nexthop), func(p *peer) bool { return p.dest == d }) {
			return errNotFound
		}
		rest := slices.DeleteFunc(slices.Clone(list), func(o Entry) bool { return t.entryDestination(o) == d })
		if len(list) > 0 && len(rest) == len(list) {
			return errNotFound
		}
		if len(rest) > 0 {
			return e.setEntries(t, entry.station(), rest)
		}
	}
	if len(list) == 0 {
		return table.Delete(entry.MAC, now)
	}
	return e.setEntries(t, entry.station(), nil)
}

// FlushEntries removes the entries that match from the table of a tunnel and
// returns how many. The flood list is not touched.
func (e *Endpoint) FlushEntries(name string, match func(*FDBEntry) bool) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return 0, err
	}
	next := maps.Clone(t.entries)
	n := 0
	for i := range t.domains {
		d := &t.domains[i]
		n += d.fdb.Flush(e.clock(), func(entry fdb.Entry) bool {
			found := false
			for _, fe := range t.describe(d, entry) {
				found = found || match(&fe)
			}
			if found {
				delete(next, station{d.vid, entry.MAC})
			}
			return found
		})
	}
	t.entries = next
	return n, nil
}

// Entry returns what the tables of a tunnel say of one address: one for each
// VLAN that has it.
func (e *Endpoint) Entry(name string, mac packet.MAC) ([]FDBEntry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return nil, err
	}
	if mac.IsZero() {
		return t.floodList(), nil
	}
	var all []FDBEntry
	for i := range t.domains {
		if entry, ok := t.domains[i].fdb.Get(mac, e.clock()); ok {
			all = append(all, t.describe(&t.domains[i], entry)...)
		}
	}
	if all == nil {
		return nil, errNotFound
	}
	return all, nil
}

// setFlood is SetEntry for the zero address.
func (e *Endpoint) setFlood(name string, verb Verb, entry Entry) error {
	return e.Update(name, func(cfg *Tunnel) error {
		if entry.Local || entry.HasVNI || entry.Via != "" || entry.VLAN != 0 {
			return fmt.Errorf("local, vni, vlan, src_vni and via are not for the flood list, which is one for the tunnel: %w", unix.EINVAL)
		}
		if err := entry.check(cfg); err != nil {
			return err
		}
		at := slices.IndexFunc(cfg.Peers, func(p Peer) bool { return p.Remote == entry.Remote })
		floods := slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return !p.NoFlood })
		switch {
		case verb == EntryAdd && floods:
			return fmt.Errorf("%w (use append for one more remote)", errExists)
		case verb == EntryReplace:
			cfg.Peers = slices.DeleteFunc(slices.Clone(cfg.Peers), func(p Peer) bool { return !p.NoFlood })
			at = slices.IndexFunc(cfg.Peers, func(p Peer) bool { return p.Remote == entry.Remote })
		}
		peers := slices.Clone(cfg.Peers)
		switch {
		case at >= 0 && !peers[at].NoFlood:
			return errExists
		case at >= 0:
			peers[at].NoFlood = false
		default:
			peers = append(peers, Peer{Remote: entry.Remote, Port: entry.Port})
		}
		cfg.Peers = peers
		return nil
	})
}

// dropFlood is DeleteEntry for the zero address.
func (e *Endpoint) dropFlood(name string, entry Entry) error {
	return e.Update(name, func(cfg *Tunnel) error {
		if cfg.Device.L3 {
			return fmt.Errorf("an L3 tunnel has no forwarding table: %w", unix.EINVAL)
		}
		rest := slices.DeleteFunc(slices.Clone(cfg.Peers), func(p Peer) bool {
			return !p.NoFlood && (!entry.Remote.IsValid() || p.Remote == entry.Remote)
		})
		if len(rest) == len(cfg.Peers) {
			return errNotFound
		}
		cfg.Peers = rest
		return nil
	})
}

// tunnel finds a tunnel by name. e.mu is held.
func (e *Endpoint) tunnel(name string) (*tunnel, error) {
	if e.closed {
		return nil, errClosed
	}
	t, ok := e.tunnels[name]
	if !ok {
		return nil, fmt.Errorf("%s: no such tunnel: %w", name, unix.ENOENT)
	}
	return t, nil
}

// settleEntries brings the table in line with t.entries.
func (t *tunnel) settleEntries(old entries, now int64) error {
	var errs []error
	for of := range old {
		if _, ok := t.entries[of]; !ok && t.domain(of.vid) != nil {
			if err := t.domain(of.vid).fdb.Delete(of.mac, now); err != nil && !errors.Is(err, fdb.ErrNotFound) {
				errs = append(errs, err)
			}
		}
	}
	for of, list := range t.entries {
		nh, table := t.sets[of], t.domain(of.vid).fdb
		if nh == 0 && !list[0].Local {
			nh = t.peerOf(list[0]).nexthop
		}
		want := list[0].at(nh)
		if have, ok := table.Get(of.mac, now); ok && have.Nexthop == nh && have.State == want.State && have.Flags == want.Flags {
			continue
		}
		errs = append(errs, table.Replace(want, now))
	}
	return errors.Join(errs...)
}

// nameSets gives every address with several destinations a nexthop of its own.
func (t *tunnel) nameSets() {
	sets := make(map[station]fdb.Nexthop)
	for of, list := range t.entries {
		if len(list) < 2 {
			continue
		}
		if sets[of] = t.sets[of]; sets[of] == 0 {
			t.lastNexthop++
			sets[of] = t.lastNexthop
		}
	}
	t.sets = sets
}

// describe resolves the nexthop of an entry in a domain: one for each
// destination.
func (t *tunnel) describe(d *domain, entry fdb.Entry) []FDBEntry {
	fe := FDBEntry{Entry: entry, Tunnel: t.port.name, VLAN: d.vid, ID: d.vni}
	peers := t.port.segment.nexthopPeers(entry.Nexthop)
	if entry.Nexthop == fdb.Local || len(peers) == 0 {
		fe.Local = true
		return []FDBEntry{fe}
	}
	all := make([]FDBEntry, 0, len(peers))
	for _, p := range peers {
		fe.Remote = p.dest.remote
		fe.VNI, fe.Via = d.vni, p.dest.via
		if p.dest.hasVNI {
			fe.VNI = p.dest.vni
		}
		fe.OtherVNI, fe.OtherPort = p.dest.hasVNI, p.dest.remote.Port() != t.config.DstPort
		all = append(all, fe)
	}
	return all
}

// floodList is the flood list as entries of the zero address.
func (t *tunnel) floodList() (all []FDBEntry) {
	for _, p := range t.port.segment.flood {
		all = append(all, FDBEntry{
			Entry: fdb.Entry{State: fdb.Permanent}, Tunnel: t.port.name, Flood: true,
			ID: t.config.VNI, Remote: p.dest.remote, VNI: t.config.VNI, Via: p.dest.via, OtherPort: p.dest.remote.Port() != t.config.DstPort,
		})
	}
	return all
}
