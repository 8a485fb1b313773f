package config

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"gvtep/internal/packet"
)

// tunnel reads a [[tunnel]], which is several if its id is a range.
func (l *loader) tunnel(f *file, n *node) {
	t := l.inherit(n)
	named := false
	at := map[string][]span{} // where a keyword has its values
	ids := idRange{-1, -1}    // of several tunnels
	for v := range n.table.all() {
		key := v.name
		e := l.tables.tunnel.entries[key]
		switch {
		case key == "name":
			at[key] = []span{v.at}
			if v.kind != unstable.String {
				l.fault(f, v.at, "name: want a text in quotes, not %s", v.kindName())
				continue
			}
			t.Device.Name, named = strings.Clone(v.text), true
		case key == "peer":
			l.peers(f, v, &t, at)
		case key == "vlan" && isTables(v):
			l.vlans(f, v, &t, at)
		case key == "fdb":
			l.entries(f, v, &t, at)
		case key == "id" && v.kind == unstable.String && strings.Contains(v.text, "-"):
			at[key] = []span{} // its place was reported
			if ids = l.ids(f, v, e); ids.from >= 0 {
				at[key] = []span{v.at}
			}
		case e == nil:
			l.fault(f, v.key, "unknown key %s: %s", plain(key), l.tables.tunnel.hint(key))
			if near := l.tables.tunnel.closest(key); at[near] == nil {
				at[near] = []span{} // so that it is not called missing as well
			}
		case key != e.Name && n.table.get(e.Name) != nil:
			l.fault(f, v.key, "%s was the name of %s: write that alone", key, e.Name)
		default:
			// "remote" may have places from peers already.
			at[e.Name] = append(at[e.Name], assign(l, f, e, &t, v)...)
		}
	}
	if at["name"] == nil && !l.broken {
		l.fault(f, n.at, "no name: add the name of the tunnel's device, such as name = \"gnv0\"")
	}
	d := definition{f, n.at, at}
	if !named {
		l.unnamed(d, t)
		return
	}
	if ids.from < 0 {
		switch id := at["id"]; {
		case strings.Count(t.Device.Name, "%d") != 1 || id == nil:
			l.complete(d, t)
		case len(id) > 0:
			l.fault(f, id[0], "id: the name %s is for several tunnels: want a range, such as id = \"1000-1999\"", plain(t.Device.Name))
			fallthrough
		default:
			l.unnamed(d, t)
		}
		return
	}
	if strings.Count(t.Device.Name, "%d") != 1 {
		l.fault(f, d.place("name", 0).at, "name: an id for each of several tunnels needs a name for each, such as name = \"gnv%%d\"")
		return
	}
	for _, key := range []string{"lladdr", "address"} {
		if at[key] != nil {
			l.fault(f, d.place(key, 0).at, "%s belongs to one device, and these are %d", key, ids.to-ids.from+1)
		}
	}
	if len(l.cfg.Tunnels)+ids.to-ids.from >= maxTunnels {
		l.fault(f, d.place("id", 0).at, "id: more than %d tunnels", maxTunnels)
		return
	}
	l.each(d, t, ids)
}

// inherit is what a tunnel has before its own keys are read.
func (l *loader) inherit(n *node) Tunnel {
	t := l.base
	t.Peers, t.Device.Addresses = slices.Clone(t.Peers), nil
	if n.table.get("accept") != nil {
		t.Accept = nil
	}
	if n.table.get("neigh") != nil {
		t.Neighbours = nil
	}
	if n.table.get("remote") != nil || n.table.get("peer") != nil {
		t.Peers = nil
	}
	return t
}

// idRange is a range of ids with both ends.
type idRange struct{ from, to int }

// each adds a tunnel for each id of a range.
func (l *loader) each(d definition, t Tunnel, ids idRange) {
	template := t.Device.Name
	for id := ids.from; id <= ids.to; id++ {
		t.VNI, t.NoVNI = packet.VNI(id), false
		t.Device.Name = strings.Replace(template, "%d", itoa(id), 1)
		if !l.complete(d, t) {
			return // the others of the range have the same mistake
		}
	}
}

// unnamed checks the rest of a tunnel whose name is missing or wrong.
func (l *loader) unnamed(d definition, t Tunnel) {
	t.Device.Name = "gnv0"
	l.check(d, &t)
}

// ids reads a range of ids.
func (l *loader) ids(f *file, v *node, e *entry[Tunnel]) idRange {
	a, b, _ := strings.Cut(v.text, "-")
	from, err1 := parseNumber(strings.TrimSpace(a), e.Min, e.Max, e.want)
	to, err2 := parseNumber(strings.TrimSpace(b), e.Min, e.Max, e.want)
	if err1 != nil || err2 != nil || from > to {
		l.fault(f, v.at, "id %s: want a range of VNIs within 0 to 16777215, such as \"1000-1999\"", plain(v.text))
		return idRange{-1, -1}
	}
	return idRange{from, to}
}

// peers reads the [[tunnel.peer]] of a tunnel.
func (l *loader) peers(f *file, v *node, t *Tunnel, at map[string][]span) {
	if t.Peers != nil && len(t.Peers) == 0 {
		l.fault(f, v.key, "peer: remote none stands alone")
	}
	for _, item := range l.items(f, v, "peer") {
		var p Peer
		var where *node
		for n := range item.table.all() {
			key := n.name
			e := l.tables.peer.entries[key]
			switch {
			case key == "remote":
				where = n
				if n.kind != unstable.String {
					l.fault(f, n.at, "remote: want a text in quotes, not %s", n.kindName())
				} else if a, err := remote(n.text); err != nil {
					l.fault(f, n.at, "remote %s: %s", plain(n.text), err)
				} else {
					p.Remote = a
				}
			case e == nil:
				l.fault(f, n.key, "unknown key %s: %s", plain(key), l.tables.peer.hint(key))
			default:
				assign(l, f, e, &p, n)
				if key == "routes" && p.Routes == nil {
					p.Routes = []netip.Prefix{} // wrong, but not missing as well
				}
			}
		}
		if at["remote"] == nil {
			at["remote"] = []span{}
		}
		if where == nil {
			l.fault(f, item.at, "no remote: add the address of the peer, such as remote = \"192.0.2.2\"")
		} else if p.Remote.IsValid() {
			t.Peers = append(t.Peers, p)
			at["remote"] = append(at["remote"], where.at)
		}
	}
}

// items returns the tables of a [[tunnel.KEY]].
func (l *loader) items(f *file, v *node, key string) []*node {
	if v.kind != unstable.ArrayTable && v.kind != unstable.Array {
		l.fault(f, v.key, "%[1]s: there can be several, write [[tunnel.%[1]s]]", key)
		return nil
	}
	if len(v.items) == 0 {
		l.fault(f, v.at, "%s: an empty list, leave the key out", key)
	}
	for i, item := range v.items {
		if item.kind != unstable.Table {
			l.fault(f, v.at, "%[1]s: want tables, write [[tunnel.%[1]s]] for each", key)
			return v.items[:i]
		}
	}
	return v.items
}

// isTables reports whether a value is a list of tables, however written.
func isTables(v *node) bool {
	return v.kind == unstable.ArrayTable || v.kind == unstable.Table ||
		v.kind == unstable.Array && slices.ContainsFunc(v.items, func(n *node) bool { return n.kind == unstable.Table })
}

// entries reads the [[tunnel.fdb]] of a tunnel.
func (l *loader) entries(f *file, v *node, t *Tunnel, at map[string][]span) {
	items := l.items(f, v, "fdb")
	places := make([]span, 0, len(items))
	t.Entries = slices.Grow(t.Entries, len(items))
	for _, item := range items {
		t.Entries = append(t.Entries, defaultEntry())
		last, before := len(t.Entries)-1, len(l.faults)
		entry := &t.Entries[last]
		var where *node
		for n := range item.table.all() {
			key := n.name
			e := l.tables.fdb.entries[key]
			switch {
			case key == "lladdr":
				where = n
				if n.kind != unstable.String {
					l.fault(f, n.at, "lladdr: want a text in quotes, not %s", n.kindName())
				} else if a, err := entryAddress(n.text); err != nil {
					l.fault(f, n.at, "lladdr %s: %s", plain(n.text), err)
				} else {
					entry.MAC = a
				}
			case e == nil:
				l.fault(f, n.key, "unknown key %s: %s", plain(key), l.tables.fdb.hint(key))
			case e.Kind == List:
				assign(l, f, e, entry, n)
			default:
				assignOne(l, f, e, entry, n)
			}
		}
		switch {
		case len(l.faults) > before:
			t.Entries = t.Entries[:last]
		case where == nil:
			t.Entries = t.Entries[:last]
			l.fault(f, item.at, "no lladdr: add the Ethernet address, such as lladdr = \"02:00:00:00:0a:01\"")
		case !entry.Remote.IsValid():
			t.Entries = t.Entries[:last]
			l.fault(f, item.at, "no dst: add the address of the VTEP that it is behind, such as dst = \"192.0.2.2\"")
		default:
			places = append(places, where.at)
		}
	}
	if len(places) > 0 {
		at["fdb"] = places
	}
}

// definition is where a tunnel comes from.
type definition struct {
	file   *file
	header span
	at     map[string][]span // where its own keys have their values
}

// place is where the i-th value of a keyword stands. What is inherited is shown
// at the name of the tunnel that it does not fit.
func (d definition) place(key string, i int) place {
	for _, key := range []string{key, "name"} {
		if at := d.at[key]; len(at) > 0 {
			return place{d.file, at[min(i, len(at)-1)]}
		}
	}
	return place{d.file, d.header}
}

// complete checks a tunnel and adds it.
func (l *loader) complete(d definition, t Tunnel) bool {
	before := len(l.faults)
	if l.check(d, &t) {
		l.claim(d, &t)
	}
	if len(l.faults) > before {
		return false
	}
	l.cfg.Tunnels = append(l.cfg.Tunnels, t)
	return true
}

// check finds what is wrong with a tunnel as a whole.
func (l *loader) check(d definition, t *Tunnel) bool {
	given := func(key string) bool {
		_, own := d.at[key]
		return own || l.inherited[key]
	}
	found := check(t, given, l.cfg.Socket.Ports)
	found = append(found, misplaced(t, func(key string) bool { return d.at[key] != nil })...)
	for _, p := range found {
		at := place{d.file, d.header}
		if p.Key != "" {
			at = d.place(p.Key, p.Nth)
		} else if l.broken {
			continue // what is missing may stand where the file could not be read
		}
		l.fault(at.file, at.at, "%s", p.Text)
	}
	return len(found) == 0
}
