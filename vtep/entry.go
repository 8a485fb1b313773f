package vtep

import (
	"cmp"
	"errors"
	"iter"
	"slices"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/spec"
)

// tableEntry is an entry as the table has it.
func tableEntry(entry *Entry, nh fdb.Nexthop) fdb.Entry {
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

func stationOf(entry *Entry) station { return station{entry.VLAN, entry.MAC} }

// isInitial reports whether an entry is only a first value: it ages, or moves, like one
// that was learned, and is not held afterwards. Those of group addresses are never learned.
func isInitial(entry *Entry) bool { return entry.State == fdb.Dynamic && !entry.MAC.IsGroup() }

// entries are what the tables of a tunnel are held to. Versions of a tunnel that have the
// same share them.
type entries struct {
	at     map[station][]Entry         // only group addresses have several
	groups map[station]bool            // those of at with a group address
	byHand map[station]bool            // those of at that no configuration named
	to     map[forward.Destination]int // how many point there
}

// newEntries are the entries at all stations of t, some of which were made by hand.
func (t *tunnel) newEntries(at map[station][]Entry, byHand map[station]bool) *entries {
	all := &entries{at: at, groups: make(map[station]bool), byHand: byHand, to: make(map[forward.Destination]int)}
	for of, list := range at {
		t.point(all, list, 1)
		if of.mac.IsGroup() {
			all.groups[of] = true
		}
	}
	return all
}

// point counts the destinations of entries that are added (1) or removed (-1).
func (t *tunnel) point(all *entries, list []Entry, by int) {
	for i := range list {
		if list[i].Local {
			continue
		}
		d := t.entryDestination(list[i])
		if all.to[d] += by; all.to[d] == 0 {
			delete(all.to, d)
		}
	}
}

// hold makes list, set by hand, the entries that a table is held to for an address.
func (t *tunnel) hold(all *entries, of station, list []Entry) {
	t.point(all, all.at[of], -1)
	t.point(all, list, 1)
	setByHand(all.at, all.byHand, of, list)
	switch {
	case !of.mac.IsGroup():
	case len(list) == 0:
		delete(all.groups, of)
	default:
		all.groups[of] = true
	}
}

func setByHand(at map[station][]Entry, byHand map[station]bool, of station, list []Entry) {
	if len(list) == 0 {
		delete(at, of)
		delete(byHand, of)
		return
	}
	at[of], byHand[of] = list, true
}

// configured gives t, a new version of old, the entries of its configuration instead of those
// of the old one. What was set by hand stays, unless the configuration names its address, or
// takes its segment away. First values that are the same are not given again, and a change
// of something else changes no entry.
func (t *tunnel) configured(old *tunnel) {
	if old.entries != nil && sameList(old.config.Entries, t.config.Entries) && keepsVLANs(&t.config, &old.config) && old.config.Dev == t.config.Dev {
		t.entries = old.entries
		return
	}
	at, byHand, vids := make(map[station][]Entry), make(map[station]bool), vidsOf(&t.config)
	if old.entries != nil {
		for of := range old.entries.byHand {
			if _, ok := vids[of.vid]; ok {
				setByHand(at, byHand, of, old.entries.at[of])
			}
		}
	}
	before, named := make(map[Entry]bool, len(old.config.Entries)), make(map[station]bool, len(t.config.Entries))
	for _, entry := range old.config.Entries {
		before[entry] = true
		setByHand(at, byHand, stationOf(&entry), nil)
	}
	for _, entry := range t.config.Entries {
		named[stationOf(&entry)] = true
		setByHand(at, byHand, stationOf(&entry), nil)
	}
	for _, entry := range t.config.Entries {
		switch {
		case !isInitial(&entry):
			at[stationOf(&entry)] = append(at[stationOf(&entry)], entry)
		case !before[entry]:
			t.initial = append(t.initial, entry)
		}
	}
	for _, entry := range old.config.Entries {
		if isInitial(&entry) && !named[stationOf(&entry)] {
			t.withdrawn = append(t.withdrawn, entry)
		}
	}
	t.entries = t.newEntries(at, byHand)
}

// Verb says what to do if there is an entry for the address already.
type Verb uint8

// The verbs of bridge(8).
const (
	EntryAdd     Verb = iota // there must be none
	EntryAppend              // one more destination, for group and the zero address
	EntryReplace             // instead of what is there
)

var errExists, errNotFound = spec.Exists(""), spec.NotFound("")

// entryDestination is where an entry of t points to.
func (t *tunnel) entryDestination(e Entry) forward.Destination {
	d := t.destinationVia(e.Remote, e.Port, cmp.Or(e.Via, t.config.Dev))
	if e.HasVNI {
		if own, _ := vniOf(&t.config, e.VLAN); e.VNI != own {
			d.VNI, d.HasVNI = e.VNI, true
		}
	}
	d.Options = e.Options
	return d
}

// SetEntry makes an entry in the table of a tunnel. The zero address stands
// for the flood list: an entry for it is a peer.
func (e *Endpoint) SetEntry(name string, verb Verb, entry Entry) error {
	if entry.MAC.IsZero() {
		return e.setFlood(name, verb, entry, e.apply)
	}
	return e.setEntry(name, verb, entry, e.setEntries)
}

// setEntry is SetEntry, where do makes list the entries of a station. e.mu is held then.
func (e *Endpoint) setEntry(name string, verb Verb, entry Entry, do func(t *tunnel, of station, list []Entry) error) error {
	e.askAhead(func() []question {
		t, err := e.tunnel(name)
		if err != nil || entry.Local || checkEntry(&t.config, &entry) != nil {
			return nil
		}
		d := t.entryDestination(entry)
		if t.byDestination[d] != nil {
			return nil
		}
		return []question{questionOf(&t.config, d)}
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return err
	}
	if err := checkEntry(&t.config, &entry); err != nil {
		return err
	}
	of := stationOf(&entry)
	have := t.entries.at[of]
	_, known := t.domain(entry.VLAN).fdb.Get(entry.MAC, e.clock())
	d := t.entryDestination(entry)
	switch {
	case known && (verb == EntryAdd || verb == EntryAppend && !entry.MAC.IsGroup()):
		return spec.Exists("append is for 00:00:00:00:00:00 and group addresses; use replace")
	case verb == EntryAppend && slices.ContainsFunc(have, func(o Entry) bool { return t.entryDestination(o) == d }):
		return errExists
	}
	list := []Entry{entry}
	if verb == EntryAppend {
		list = append(slices.Clone(have), entry)
	}
	return do(t, of, list)
}

// checkEntry refuses an entry that cannot work in a tunnel.
func checkEntry(cfg *Tunnel, entry *Entry) error {
	switch r := entry.Remote; {
	case cfg.Device.L3:
		return spec.Wrong("an L3 tunnel has no forwarding table")
	case !entry.MAC.IsZero() && !hasSegment(cfg, entry.VLAN):
		return spec.NoSegment(entry.VLAN)
	case entry.Local && r.IsValid():
		return spec.Wrong("local and dst exclude each other")
	case entry.Local && !entry.Options.IsZero():
		return spec.Wrong("local and options exclude each other: nothing is sent")
	case entry.Local:
		return nil
	case !entry.Options.IsZero() && !cfg.Encap.HasOptions():
		return spec.Wrong("options: encap %s has none", cfg.Encap)
	case !r.IsValid() || r.IsUnspecified():
		return spec.Wrong("dst is missing: want the address of a VTEP")
	case cfg.Local.IsValid() && cfg.Local.Is4() != r.Is4():
		return spec.Wrong("dst %s and local %s are of different families", r, cfg.Local)
	case entry.HasVNI && !entry.VNI.Valid():
		return spec.Wrong("vni %d: want 0 to %d", entry.VNI, packet.MaxVNI)
	}
	return nil
}

// hasSegment reports whether there is a segment for a VLAN, or for no tag.
func hasSegment(cfg *Tunnel, vid uint16) bool {
	_, ok := vniOf(cfg, vid)
	return ok
}

// setEntries makes list the entries for an address, none if it is empty. One entry of a
// station costs no hand-over to the workers, unless a peer comes or goes with it: 10,000 are
// added and removed one by one in the time of as many requests, not in the square of that.
// e.mu is held.
func (e *Endpoint) setEntries(t *tunnel, of station, list []Entry) error {
	t.owned.forget(of)
	if of.mac.IsGroup() && len(t.entries.at[of])+len(list) > 0 {
		return e.setGroup(t, of, list)
	}
	nexthop := fdb.Local
	if len(list) == 1 && !list[0].Local {
		d := t.entryDestination(list[0])
		if t.byDestination[d] == nil {
			name := t.config.Device.Name
			if err := e.rewire(t, func(n *tunnel) { n.pointed = append(n.pointed, d) }); err != nil {
				return err
			}
			t = e.tunnels[name]
		}
		nexthop = t.byDestination[d].Nexthop
	}
	table, now := t.domain(of.vid).fdb, e.clock()
	have, _ := table.Get(of.mac, now)
	var err error
	if len(list) == 0 {
		err = table.Delete(of.mac, now)
	} else {
		err = table.Replace(tableEntry(&list[0], nexthop), now)
	}
	if err != nil {
		return err
	}
	if len(list) == 1 && isInitial(&list[0]) {
		list = nil
	}
	t.hold(t.entries, of, list)
	for _, p := range t.port.Segment.NexthopPeers(have.Nexthop) {
		if !t.needs(t.byDestination[p.Dest]) {
			return e.rewire(t, func(*tunnel) {})
		}
	}
	return nil
}

// setGroup is setEntries for a group address. Where it points to is part of what workers have of
// the tunnel, the other entries are left alone. e.mu is held.
func (e *Endpoint) setGroup(t *tunnel, of station, list []Entry) error {
	have, byHand := t.entries.at[of], t.entries.byHand[of]
	t.hold(t.entries, of, list)
	err := e.rewire(t, func(n *tunnel) { n.resettled = []station{of} })
	if err != nil {
		t.hold(t.entries, of, have)
		if !byHand {
			delete(t.entries.byHand, of)
		}
	}
	return err
}

// implicit reports whether a peer exists only because entries point to it.
func (p *peer) implicit() bool { return !p.speaks && !p.floods }

// pointedAt reports whether entries that no configuration holds point to a peer of t.
func (t *tunnel) pointedAt(p *peer) bool {
	return slices.ContainsFunc(t.domains, func(d domain) bool { _, dynamic := d.fdb.Behind(p.Nexthop); return dynamic > 0 })
}

// pointedPeers are, by number, the nexthops of peers that pointedAt holds for: one look at each table,
// for those who ask about many peers of a trunk with many VLANs.
func (t *tunnel) pointedPeers() []bool {
	all := make([]bool, t.lastNexthop+1)
	for i := range t.domains {
		t.domains[i].fdb.Pointed(func(nh fdb.Nexthop) {
			if int(nh) < len(all) { // else it is of a newer version
				all[nh] = true
			}
		})
	}
	return all
}

// needs reports whether there would be a peer p if there were none.
func (t *tunnel) needs(p *peer) bool {
	return !p.implicit() || t.entries.to[p.Dest] > 0 || t.pointedAt(p)
}

// dropUnpointed removes the peers that were needed by entries that are gone. e.mu is held.
func (e *Endpoint) dropUnpointed(t *tunnel) error {
	if len(t.implicit) == 0 {
		return nil
	}
	pointed := t.pointedPeers()
	if slices.ContainsFunc(t.implicit, func(p *peer) bool { return t.entries.to[p.Dest] == 0 && !pointed[p.Nexthop] }) {
		return e.rewire(t, func(*tunnel) {})
	}
	return nil
}

// DeleteEntry removes what entry names from the table of a tunnel: with a
// Remote that destination only.
func (e *Endpoint) DeleteEntry(name string, entry Entry) error {
	if entry.MAC.IsZero() {
		return e.dropFlood(name, entry, e.apply)
	}
	return e.deleteEntry(name, entry, e.setEntries)
}

// deleteEntry is to DeleteEntry what setEntry is to SetEntry.
func (e *Endpoint) deleteEntry(name string, entry Entry, do func(t *tunnel, of station, list []Entry) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return err
	}
	if !hasSegment(&t.config, entry.VLAN) {
		return spec.NoSegment(entry.VLAN)
	}
	now, table := e.clock(), t.domain(entry.VLAN).fdb
	have, ok := table.Get(entry.MAC, now)
	if !ok {
		return errNotFound
	}
	of := stationOf(&entry)
	list := t.entries.at[of]
	if entry.Remote.IsValid() {
		d := t.entryDestination(entry)
		if len(list) == 0 && !slices.ContainsFunc(t.port.Segment.NexthopPeers(have.Nexthop), func(p *forward.Peer) bool { return p.Dest == d }) {
			return errNotFound
		}
		rest := slices.DeleteFunc(slices.Clone(list), func(o Entry) bool { return t.entryDestination(o) == d })
		if len(list) > 0 && len(rest) == len(list) {
			return errNotFound
		}
		if len(rest) > 0 {
			return do(t, of, rest)
		}
	}
	return do(t, of, nil)
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
	n := 0
	for i := range t.domains {
		d := &t.domains[i]
		var gone []packet.MAC // the table may ask more than once, so what is known of them is forgotten afterwards
		n += d.fdb.Flush(e.clock(), func(entry fdb.Entry) bool {
			for fe := range t.describe(d, entry) {
				if match(&fe) {
					gone = append(gone, entry.MAC)
					return true
				}
			}
			return false
		})
		for _, mac := range gone {
			if _, there := d.fdb.Get(mac, e.clock()); !there {
				t.hold(t.entries, station{d.vid, mac}, nil)
				t.owned.forget(station{d.vid, mac})
			}
		}
	}
	return n, e.dropUnpointed(t)
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
			all = slices.AppendSeq(all, t.describe(&t.domains[i], entry))
		}
	}
	if all == nil {
		return nil, errNotFound
	}
	return all, nil
}

// setFlood is SetEntry for the zero address.
func (e *Endpoint) setFlood(name string, verb Verb, entry Entry, do func(Change) error) error {
	return e.update(name, func(cfg *Tunnel) error {
		if entry.Local || entry.HasVNI || entry.Via != "" || entry.VLAN != 0 || !entry.Options.IsZero() {
			return spec.Wrong("local, vni, vlan, src_vni, via and options are not for the flood list, which is one for the tunnel")
		}
		if err := checkEntry(cfg, &entry); err != nil {
			return err
		}
		at := slices.IndexFunc(cfg.Peers, func(p Peer) bool { return p.Remote == entry.Remote })
		floods := slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return !p.NoFlood })
		switch {
		case verb == EntryAdd && floods:
			return spec.Exists("use append for one more remote")
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
	}, do)
}

// dropFlood is DeleteEntry for the zero address.
func (e *Endpoint) dropFlood(name string, entry Entry, do func(Change) error) error {
	return e.update(name, func(cfg *Tunnel) error {
		if cfg.Device.L3 {
			return spec.Wrong("an L3 tunnel has no forwarding table")
		}
		rest := slices.DeleteFunc(slices.Clone(cfg.Peers), func(p Peer) bool {
			return !p.NoFlood && (!entry.Remote.IsValid() || p.Remote == entry.Remote)
		})
		if len(rest) == len(cfg.Peers) {
			return errNotFound
		}
		cfg.Peers = rest
		return nil
	}, do)
}

// tunnel finds a tunnel by name. e.mu is held.
func (e *Endpoint) tunnel(name string) (*tunnel, error) {
	if e.closed {
		return nil, errClosed
	}
	t, ok := e.tunnels[name]
	if !ok {
		return nil, spec.NoTunnel(name)
	}
	return t, nil
}

// settleEntries makes the table match t.entries, unless these are those of the older version,
// old, and sets the first values.
func (t *tunnel) settleEntries(old *entries, now int64) error {
	var errs []error
	if old == nil {
		old = new(entries)
	}
	if old != t.entries {
		errs = append(errs, t.settleHeld(old, now))
	}
	for _, of := range t.resettled {
		errs = append(errs, t.settleStation(of, now))
	}
	t.resettled = nil
	for _, entry := range t.withdrawn {
		table, p := t.domainOf(entry), t.byDestination[t.entryDestination(entry)]
		nh := fdb.Local
		if !entry.Local && p != nil {
			nh = p.Nexthop
		}
		// One that has moved is no longer the configuration's.
		if have, ok := table.Get(entry.MAC, now); ok && have.State == fdb.Dynamic && have.Nexthop == nh && (entry.Local || p != nil) {
			errs = append(errs, table.Delete(entry.MAC, now))
		}
	}
	for _, entry := range t.initial {
		nh := fdb.Local
		if !entry.Local {
			nh = t.byDestination[t.entryDestination(entry)].Nexthop
		}
		t.owned.forget(stationOf(&entry))
		errs = append(errs, t.domainOf(entry).Replace(tableEntry(&entry, nh), now))
	}
	t.withdrawn, t.initial = nil, nil
	return errors.Join(errs...)
}

// settleHeld is the part of settleEntries for the entries that the table is held to.
func (t *tunnel) settleHeld(old *entries, now int64) error {
	var errs []error
	for of := range old.at {
		if _, ok := t.entries.at[of]; !ok {
			errs = append(errs, t.settleStation(of, now))
		}
	}
	for of, list := range t.entries.at {
		if !t.entries.byHand[of] {
			t.owned.forget(of)
		}
		_, ok := t.domain(of.vid).fdb.Get(of.mac, now)
		if !ok && list[0].State == fdb.Dynamic && slices.Equal(list, old.at[of]) {
			continue // it has aged
		}
		errs = append(errs, t.settleStation(of, now))
	}
	return errors.Join(errs...)
}

// settleStation makes the table match what it is held to for one address.
func (t *tunnel) settleStation(of station, now int64) error {
	list, d := t.entries.at[of], t.domain(of.vid)
	switch {
	case len(list) > 0:
	case d == nil:
		return nil
	default:
		if err := d.fdb.Delete(of.mac, now); err != nil && !errors.Is(err, fdb.ErrNotFound) {
			return err
		}
		return nil
	}
	nh := t.sets[of]
	if nh == 0 && !list[0].Local {
		nh = t.byDestination[t.entryDestination(list[0])].Nexthop
	}
	want := tableEntry(&list[0], nh)
	have, ok := d.fdb.Get(of.mac, now)
	if ok && have.Nexthop == nh && have.State == want.State && have.Flags == want.Flags {
		return nil
	}
	return d.fdb.Replace(want, now)
}

// nameSets gives every address with several destinations a nexthop of its own.
func (t *tunnel) nameSets() {
	sets := make(map[station]fdb.Nexthop)
	for of := range t.entries.groups {
		if len(t.entries.at[of]) < 2 {
			continue
		}
		if sets[of] = t.sets[of]; sets[of] == 0 {
			sets[of] = t.newNexthop()
		}
	}
	t.sets = sets
}

// describe resolves the nexthop of an entry in a domain: one for each
// destination.
func (t *tunnel) describe(d *domain, entry fdb.Entry) iter.Seq[FDBEntry] {
	return func(yield func(FDBEntry) bool) {
		fe := FDBEntry{Entry: entry, Tunnel: t.port.Name, VLAN: d.vid, ID: d.vni}
		fe.Owner, fe.Seq = t.owned.ownerOf(station{d.vid, entry.MAC}, entry)
		peers := t.port.Segment.NexthopPeers(entry.Nexthop)
		if entry.Nexthop == fdb.Local || len(peers) == 0 {
			fe.Local = true
			yield(fe)
			return
		}
		for _, p := range peers {
			fe.Remote = p.Dest.Remote
			fe.VNI, fe.Via = d.vni, p.Dest.Via
			if p.Dest.HasVNI {
				fe.VNI = p.Dest.VNI
			}
			fe.OtherVNI, fe.OtherPort = p.Dest.HasVNI, p.Dest.Remote.Port() != t.config.DstPort
			fe.Options = p.Dest.Options
			if !yield(fe) {
				return
			}
		}
	}
}

// floodList is the flood list as entries of the zero address.
func (t *tunnel) floodList() (all []FDBEntry) {
	for _, p := range t.port.Segment.Flood {
		all = append(all, FDBEntry{
			Entry: fdb.Entry{State: fdb.Permanent}, Tunnel: t.port.Name, Flood: true,
			ID: t.config.VNI, Remote: p.Dest.Remote, VNI: t.config.VNI, Via: p.Dest.Via, OtherPort: p.Dest.Remote.Port() != t.config.DstPort,
		})
	}
	return all
}
