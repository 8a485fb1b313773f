package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/view"
	"gvtep/config"
	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/spec"
)

// What people change in a running process becomes part of the configuration that the
// endpoint has, with which a later reload compares its files. Entries of the table that
// were made by hand and are no entries of the configuration stay until they are removed.

// usage marks an error as one of wrong words.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &control.UsageError{Text: err.Error()}
}

// changer changes what runs for one who asked for it.
type changer struct {
	*reloader
	by vtep.Caller // its zero value is nobody who is known
	// would is nil, or takes note of what changes would do: then none is made.
	would *control.Would
}

// maker makes changes: the endpoint, or its rehearsal.
type maker interface {
	Apply(vtep.Change) error
	SetEntry(name string, verb vtep.Verb, entry vtep.Entry) error
	DeleteEntry(name string, entry vtep.Entry) error
	FlushEntries(name string, match func(*vtep.FDBEntry) bool) (int, error)
}

// maker is what makes the changes of r.
func (r changer) maker() maker {
	if r.would != nil {
		return r.endpoint.Rehearsal()
	}
	return r.endpoint
}

// cause is what events tell of a change of one tunnel.
func (r changer) cause(keys []config.KeyChange) *vtep.Cause {
	c := &vtep.Cause{By: r.by}
	for _, k := range keys {
		if !k.Live {
			continue // it is not made
		}
		if len(c.Keys) == vtep.MaxKeys {
			c.More++
			continue
		}
		c.Keys = append(c.Keys, vtep.KeyChange{Key: k.Key, Old: k.Old, New: k.New})
	}
	if c.By == (vtep.Caller{}) && len(c.Keys) == 0 {
		return nil
	}
	return c
}

// who is what the log has of who asked for a change, and of what changed.
func (r changer) who(keys []config.KeyChange) (fields []zap.Field) {
	var words []string
	for _, k := range keys[:min(len(keys), vtep.MaxKeys)] {
		words = append(words, control.KeyChange(k).String())
	}
	if len(words) > 0 {
		fields = append(fields, zap.Strings("keys", words))
	}
	if r.by != (vtep.Caller{}) {
		fields = append(fields, zap.Stringer("by", control.Caller(r.by)))
	}
	return fields
}

// done logs what became of a change, and returns its error for those who named the tunnel.
func (r changer) done(what, name string, err error, keys ...config.KeyChange) error {
	if err == nil && r.would != nil {
		return nil
	}
	if err == nil {
		r.changed()
		r.daemon.Log.Info("changed", append([]zap.Field{zap.String("what", what), zap.String("device", name)}, r.who(keys)...)...)
		return nil
	}
	if r.would == nil {
		r.daemon.Log.Debug("not changed", zap.String("what", what), zap.String("device", name), zap.NamedError("err", err))
	}
	if wrong := new(spec.Error); errors.As(err, &wrong) && wrong.Errno == unix.EINVAL {
		return usage(spec.Reason(wrong))
	}
	return spec.Reason(err)
}

func (r changer) TunnelAdd(w control.TunnelWrite) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.endpoint.Config(w.Name); err == nil {
		return spec.Exists("there is a tunnel of this name")
	}
	t, err := config.ParseTunnel(w.Name, w.Keywords, r.process.Socket, r.endpoint.Names(), "gvtep run --help")
	if err != nil {
		return usage(err)
	}
	err = r.maker().Apply(vtep.Change{Add: []vtep.Tunnel{t}, By: &r.by})
	switch {
	case err != nil:
	case r.would != nil:
		r.would.Added = append(r.would.Added, w.Name)
	default:
		r.daemon.warn([]config.Tunnel{t})
	}
	return r.done("tunnel add", w.Name, err)
}

func (r changer) TunnelDelete(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.maker().Apply(vtep.Change{Remove: []string{name}, By: &r.by})
	if err == nil && r.would != nil {
		r.would.Removed = append(r.would.Removed, name)
	}
	return r.done("tunnel del", name, err)
}

func (r changer) TunnelSet(w control.TunnelWrite) error {
	return r.edit("tunnel set", w.Name, func(t *config.Tunnel) (err error) {
		*t, err = config.AmendTunnel(*t, w.Keywords, r.endpoint.Names(), "gvtep run --help")
		return usage(err)
	})
}

// edit changes the configuration of a running tunnel.
func (r changer) edit(what, name string, change func(*config.Tunnel) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, err := r.endpoint.Config(name)
	if err != nil {
		return err
	}
	t := before
	t.Peers = slices.Clone(t.Peers)
	if err := change(&t); err != nil {
		return err
	}
	config.Complete(&t, r.process.Socket.Ports)
	changes := config.Diff(config.Config{Tunnels: []config.Tunnel{before}}, config.Config{Tunnels: []config.Tunnel{t}})
	if changes.Empty() {
		return nil
	}
	keys := changes.Changed[0].Keys
	err = r.maker().Apply(vtep.Change{Set: []vtep.Tunnel{t}, Causes: map[string]*vtep.Cause{name: r.cause(keys)}})
	r.note(name, err, keys)
	return r.done(what, name, err, keys...)
}

// note is called with what would change of a tunnel, or the error that says why not.
func (r changer) note(name string, err error, keys []config.KeyChange) {
	if r.would != nil && err == nil && len(keys) > 0 {
		r.would.Changed = append(r.would.Changed, view.Change(name, keys))
	}
}

func (r changer) PeerAdd(dev string, w control.PeerWrite) error {
	return r.edit("peer add", dev, func(t *config.Tunnel) error {
		p, err := config.ParsePeer(config.Peer{}, w.Remote, w.Keywords, r.endpoint.Names())
		if err != nil {
			return usage(err)
		}
		if peerIndex(t, p.Remote) >= 0 {
			return spec.Exists("")
		}
		t.Peers = append(t.Peers, p)
		takeRoutes(t, len(t.Peers)-1)
		return nil
	})
}

func (r changer) PeerSet(dev string, w control.PeerWrite) error {
	return r.edit("peer set", dev, func(t *config.Tunnel) error {
		p, err := config.ParsePeer(config.Peer{}, w.Remote, nil, nil)
		if err != nil {
			return usage(err)
		}
		i := peerIndex(t, p.Remote)
		if i < 0 {
			return spec.NotFound("")
		}
		if t.Peers[i], err = config.ParsePeer(t.Peers[i], w.Remote, w.Keywords, r.endpoint.Names()); err == nil {
			takeRoutes(t, i)
		}
		return usage(err)
	})
}

// takeRoutes takes the routes of the i-th peer away from the others, so that a
// prefix moves in one step, as allowed IPs do with wg(8).
func takeRoutes(t *config.Tunnel, i int) {
	mine := make(map[netip.Prefix]bool, len(t.Peers[i].Routes))
	for _, r := range t.Peers[i].Routes {
		mine[r] = true
	}
	if len(mine) == 0 {
		return
	}
	takes := func(r netip.Prefix) bool { return mine[r] }
	for n := range t.Peers {
		if p := &t.Peers[n]; n != i && slices.ContainsFunc(p.Routes, takes) {
			p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), takes)
		}
	}
}

func (r changer) PeerDelete(dev, addr string) error {
	return r.edit("peer del", dev, func(t *config.Tunnel) error {
		p, err := config.ParsePeer(config.Peer{}, addr, nil, nil)
		if err != nil {
			return usage(err)
		}
		i := peerIndex(t, p.Remote)
		if i < 0 {
			return spec.NotFound("")
		}
		t.Peers = slices.Delete(t.Peers, i, i+1)
		return nil
	})
}

func (r changer) VLANAdd(dev string, w control.VLANWrite) error {
	return r.edit("vlan add", dev, func(t *config.Tunnel) error {
		v, err := config.ParseVLAN(w.VID, w.ID)
		if err != nil {
			return usage(err)
		}
		if err := config.AddVLAN(t, v); err != nil {
			return spec.Exists(err.Error())
		}
		return nil
	})
}

func (r changer) VLANDelete(dev string, w control.VLANWrite) error {
	return r.edit("vlan del", dev, func(t *config.Tunnel) error {
		first, last, err := config.ParseVIDs(w.VID)
		if err != nil {
			return usage(err)
		}
		if w.ID != "" {
			v, err := config.ParseVLAN(w.VID, w.ID)
			if err != nil {
				return usage(err)
			}
			if !config.HasVLAN(t, v) {
				return spec.NotFound("not all of them have these ids")
			}
		}
		if !config.DeleteVLANs(t, first, last) {
			return spec.NotFound("not all of them are there")
		}
		return nil
	})
}

func peerIndex(t *config.Tunnel, a netip.Addr) int {
	return slices.IndexFunc(t.Peers, func(p config.Peer) bool { return p.Remote == a })
}

var fdbVerbs = map[string]vtep.Verb{"add": vtep.EntryAdd, "append": vtep.EntryAppend, "replace": vtep.EntryReplace}

func (r changer) FDBSet(dev string, w control.FDBWrite) error {
	verb, ok := fdbVerbs[w.Verb]
	if !ok {
		return usage(fmt.Errorf("verb %q: want add, append or replace", w.Verb))
	}
	e, err := config.ParseEntry(w.MAC, w.Keywords, r.endpoint.Names())
	if err != nil {
		return usage(err)
	}
	return r.table("fdb "+w.Verb, dev, &e.MAC, func(t *config.Tunnel) error {
		if err := place(t, &e); err != nil {
			return err
		}
		if e.MAC.IsZero() && e.Port == t.DstPort {
			e.Port = 0
		}
		have := r.wordsOf(dev, &e)
		if verb == vtep.EntryAppend {
			have = "" // it stays
		}
		err := r.maker().SetEntry(dev, verb, e)
		r.note(dev, err, []config.KeyChange{{Key: "fdb " + w.MAC, Old: have, New: strings.Join(w.Keywords, " "), Live: true}})
		return err
	})
}

// wordsOf is where an address is now, for the note of a change; of the flood list what e names.
func (r changer) wordsOf(dev string, e *config.Entry) string {
	if r.would == nil {
		return ""
	}
	found, _ := r.endpoint.Entry(dev, e.MAC) // none: it is new
	var words []string
	for i := range found {
		f := &found[i]
		switch {
		case f.VLAN != e.VLAN, e.Remote.IsValid() && e.MAC.IsZero() && f.Remote.Addr() != e.Remote:
		case f.Local:
			words = append(words, "local")
		default:
			words = append(words, "dst "+f.Remote.Addr().String())
		}
	}
	return strings.Join(words, ", ")
}

// place finds out in which VLAN an entry is to be. The flood list is in none.
func place(t *config.Tunnel, e *config.Entry) error {
	if !e.MAC.IsZero() {
		return usage(config.Place(t, e))
	}
	if e.VLAN != 0 || e.HasSrcVNI {
		return usage(errors.New("the flood list is one for all VLANs: leave out vlan and src_vni"))
	}
	return nil
}

func (r changer) FDBDelete(dev string, w control.FDBWrite) error {
	e, err := config.ParseEntry(w.MAC, w.Keywords, r.endpoint.Names())
	if err != nil {
		return usage(err)
	}
	return r.table("fdb del", dev, &e.MAC, func(t *config.Tunnel) error {
		if err := place(t, &e); err != nil {
			return err
		}
		have := r.wordsOf(dev, &e)
		err := r.maker().DeleteEntry(dev, e)
		r.note(dev, err, []config.KeyChange{{Key: "fdb " + w.MAC, Old: have, Live: true}})
		return err
	})
}

func (r changer) FDBFlush(dev string, f control.FDBFlush) (n int, err error) {
	err = r.table("fdb flush", dev, nil, func(t *config.Tunnel) error {
		n, err = r.maker().FlushEntries(dev, func(e *vtep.FDBEntry) bool {
			is := map[string]bool{
				"permanent": e.State == fdb.Permanent, "static": e.State == fdb.Static, "dynamic": e.State == fdb.Dynamic,
				"sticky": e.Flags&fdb.Sticky != 0, "extern_learn": e.Flags&fdb.ExternLearn != 0,
			}
			for word, want := range f.Is {
				if is[word] != want {
					return false
				}
			}
			vni := uint32(e.ID)
			if e.OtherVNI {
				vni = uint32(e.VNI)
			}
			return (f.Owner == "" || f.Owner == e.Owner) && (!f.Dst.IsValid() || f.Dst == e.Remote.Addr().WithZone("")) && (f.Port == 0 || f.Port == e.Remote.Port()) &&
				(f.VNI == nil || *f.VNI == vni) && (f.VLAN == 0 || f.VLAN == e.VLAN) && (f.SrcVNI == nil || *f.SrcVNI == uint32(e.ID))
		})
		return err
	})
	if r.would != nil && err == nil {
		r.would.Flushed = n
	}
	return n, err
}

// table changes the forwarding table of a tunnel, and the configuration as far
// as it has the entry that changed. Without an address any entry may have.
func (r changer) table(what, dev string, mac *packet.MAC, change func(*config.Tunnel) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := r.endpoint.Config(dev)
	if err != nil {
		return err
	}
	if err := r.done(what, dev, change(&t)); err != nil || r.would != nil {
		return err
	}
	switch {
	case mac == nil:
	case mac.IsZero():
		return nil // the flood list is the peers, which the endpoint has changed
	case !slices.ContainsFunc(t.Entries, func(e config.Entry) bool { return e.MAC == *mac }):
		return nil
	}
	var entries []config.Entry
	looked := map[config.Entry]bool{}
	for _, e := range t.Entries {
		of := config.Entry{MAC: e.MAC, VLAN: e.VLAN}
		switch {
		case mac != nil && e.MAC != *mac:
			entries = append(entries, e)
		case !looked[of]:
			looked[of] = true
			entries = append(entries, r.entriesOf(dev, of, t.Dev)...)
		}
	}
	if slices.Equal(entries, t.Entries) {
		return nil
	}
	t.Entries = entries
	return r.endpoint.Apply(vtep.Change{Set: []vtep.Tunnel{t}, By: &r.by})
}

// entriesOf returns the entries that could stand in a file, of the address and
// VLAN that of has.
func (r *reloader) entriesOf(dev string, of config.Entry, via string) (all []config.Entry) {
	found, err := r.endpoint.Entry(dev, of.MAC)
	if err != nil {
		return nil // it is gone
	}
	for _, f := range found {
		if f.State == fdb.Dynamic || f.Local || f.VLAN != of.VLAN {
			continue
		}
		e := config.Entry{MAC: of.MAC, VLAN: of.VLAN, Remote: f.Remote.Addr().WithZone(""), State: f.State, Options: f.Options}
		if f.OtherPort {
			e.Port = f.Remote.Port()
		}
		if f.OtherVNI {
			e.VNI, e.HasVNI = f.VNI, true
		}
		if f.Via != via {
			e.Via = f.Via
		}
		all = append(all, e)
	}
	return all
}
