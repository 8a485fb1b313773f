package vtep

import (
	"gvtep/vtep/internal/forward"
)

// Rehearsal makes the checks of changes, by the code that makes the changes, and leaves all as
// it is. Its methods have the errors that those of the Endpoint of the same name would have, but for
// what the kernel refuses only while a device is made or set.
type Rehearsal struct{ e *Endpoint }

// Rehearsal returns that of e.
func (e *Endpoint) Rehearsal() Rehearsal { return Rehearsal{e} }

// Apply is the rehearsal of Endpoint.Apply.
func (r Rehearsal) Apply(c Change) error {
	r.e.askAheadOf(&c)
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	return r.apply(c)
}

// apply makes a change as far as it does not show, and undoes it. e.mu is held, so that nobody
// sees it meanwhile.
func (r Rehearsal) apply(c Change) error {
	e := r.e
	if e.closed {
		return errClosed
	}
	if err := e.stuckError(); err != nil {
		return err
	}
	e.rehearsing = true
	defer func() { e.rehearsing = false }()
	x := e.begin()
	return x.undo(x.make(c))
}

// SetEntry is the rehearsal of Endpoint.SetEntry.
func (r Rehearsal) SetEntry(name string, verb Verb, entry Entry) error {
	if entry.MAC.IsZero() {
		return r.e.setFlood(name, verb, entry, r.apply)
	}
	return r.e.setEntry(name, verb, entry, r.entries)
}

// DeleteEntry is the rehearsal of Endpoint.DeleteEntry.
func (r Rehearsal) DeleteEntry(name string, entry Entry) error {
	if entry.MAC.IsZero() {
		return r.e.dropFlood(name, entry, r.apply)
	}
	return r.e.deleteEntry(name, entry, r.entries)
}

// FlushEntries counts the entries that Endpoint.FlushEntries would remove.
func (r Rehearsal) FlushEntries(name string, match func(*FDBEntry) bool) (n int, err error) {
	if _, err := r.e.Config(name); err != nil {
		return 0, err
	}
	counted := station{}
	for _, fe := range r.e.FDB(name) {
		of := station{fe.VLAN, fe.MAC} // a group has one for each destination, one behind the other
		if fe.Flood || of == counted || !match(&fe) {
			continue
		}
		counted = of
		n++
	}
	return n, nil
}

// entries is the rehearsal of Endpoint.setEntries: peers that entries point to are opened with them.
func (r Rehearsal) entries(t *tunnel, _ station, list []Entry) error {
	var missing []forward.Destination
	for i := range list {
		if list[i].Local {
			continue
		}
		if d := t.entryDestination(list[i]); t.byDestination[d] == nil {
			missing = append(missing, d)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	e := r.e
	if err := e.stuckError(); err != nil {
		return err
	}
	e.rehearsing = true
	defer func() { e.rehearsing = false }()
	next, err := e.change(t, func(n *tunnel) { n.pointed = append(n.pointed, missing...) })
	if err != nil {
		return err
	}
	defer e.releaseUnderlay(next)
	return e.conflicts(next, t)
}
