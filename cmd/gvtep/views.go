package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gvtep/cmd/internal/control"
)

// The views of gvtep show for scripts: a record a line, its columns separated
// by tabs, or with -j as objects with the same names. Columns are only ever
// added, at the end.

// column is one value of a record.
type column[T any] struct {
	key   string // in JSON, and in the manual
	value func(T) any
}

var tunnelColumns = []column[control.Tunnel]{
	{"ifname", func(t control.Tunnel) any { return t.Ifname }},
	{"kind", func(control.Tunnel) any { return "tunnel" }},
	{"id", func(t control.Tunnel) any {
		if t.LinkInfo.Data.ID == nil {
			return nil // a trunk without a segment of its own
		}
		return *t.LinkInfo.Data.ID
	}},
	{"mode", func(t control.Tunnel) any { return t.Gvtep.Mode }},
	{"local", func(t control.Tunnel) any { return t.Gvtep.Local }},
	{"up", func(t control.Tunnel) any { return slices.Contains(t.Flags, "UP") }},
	{"mtu", func(t control.Tunnel) any { return t.MTU }},
	{"since", func(t control.Tunnel) any { return t.Gvtep.Since.Unix() }},
	{"rx_bytes", func(t control.Tunnel) any { return t.Stats.RX.Bytes }},
	{"rx_packets", func(t control.Tunnel) any { return t.Stats.RX.Packets }},
	{"rx_dropped", func(t control.Tunnel) any { return t.Stats.RX.Dropped }},
	{"tx_bytes", func(t control.Tunnel) any { return t.Stats.TX.Bytes }},
	{"tx_packets", func(t control.Tunnel) any { return t.Stats.TX.Packets }},
	{"tx_dropped", func(t control.Tunnel) any { return t.Stats.TX.Dropped }},
	{"fdb_learned", func(t control.Tunnel) any { return t.Gvtep.FDB.Learned }},
	{"fdb_static", func(t control.Tunnel) any { return t.Gvtep.FDB.Static }},
	{"fdb_limit", func(t control.Tunnel) any { return t.Gvtep.FDB.Limit }},
	{"encap", func(t control.Tunnel) any { return t.LinkInfo.Kind }},
}

var peerColumns = []column[peerOfTunnel]{
	{"ifname", func(p peerOfTunnel) any { return p.Ifname }},
	{"kind", func(peerOfTunnel) any { return "peer" }},
	{"remote", func(p peerOfTunnel) any { return p.Remote.String() }},
	{"endpoint", func(p peerOfTunnel) any { return netip.AddrPortFrom(p.Remote, p.Port).String() }},
	{"name", func(p peerOfTunnel) any { return p.Name }},
	{"origin", func(p peerOfTunnel) any { return p.Origin }},
	{"flood", func(p peerOfTunnel) any { return p.Flood }},
	{"last_seen", lastSeen},
	{"rx_bytes", func(p peerOfTunnel) any { return p.RX.Bytes }},
	{"rx_packets", func(p peerOfTunnel) any { return p.RX.Packets }},
	{"tx_bytes", func(p peerOfTunnel) any { return p.TX.Bytes }},
	{"tx_packets", func(p peerOfTunnel) any { return p.TX.Packets }},
	{"path_mtu", func(p peerOfTunnel) any { return p.PathMTU }},
	{"error", func(p peerOfTunnel) any { return p.Error }},
}

func lastSeen(p peerOfTunnel) any {
	if p.LastSeen == nil {
		return 0
	}
	return p.LastSeen.Unix()
}

// peerViews are the views with a line for each peer, and their columns. Before
// them is the tunnel's name if several were asked for.
var peerViews = []struct {
	name    string
	columns []string
}{
	{"peers", []string{"remote"}},
	{"endpoints", []string{"remote", "endpoint"}},
	{"transfer", []string{"remote", "rx_bytes", "tx_bytes"}},
	{"last-seen", []string{"remote", "last_seen"}},
	{"mtu", []string{"remote", "path_mtu"}},
}

// views are the names of all of them.
func views() []string {
	all := []string{"dump"}
	for _, v := range peerViews {
		all = append(all, v.name)
	}
	return all
}

// viewsText describes the views in the help of gvtep show.
func viewsText() string {
	var b strings.Builder
	b.WriteString(`For scripts there are views with a record on each line, its columns separated by
tabs. What there is none of is "-", times are seconds since 1970 and 0 for
never, yes and no are on and off. With -j the columns are the keys of objects.
New columns will only be added at the end of a line.

dump has for each tunnel a line of the kind tunnel, with the columns

`)
	write := func(keys []string) {
		line := " "
		for _, k := range keys {
			if len(line)+len(k) > 76 {
				b.WriteString(line + "\n")
				line = " "
			}
			line += " " + k
		}
		b.WriteString(line + "\n\n")
	}
	write(keysOfColumns(tunnelColumns))
	b.WriteString("and for each of its peers one of the kind peer, with the columns\n\n")
	write(keysOfColumns(peerColumns))
	b.WriteString("The other views have fewer columns of peers, and with \"all\" the name of the\ntunnel before them:\n\n")
	for _, v := range peerViews {
		fmt.Fprintf(&b, "  %-10s %s\n", v.name, strings.Join(v.columns, " "))
	}
	return b.String()
}

func keysOfColumns[T any](columns []column[T]) (keys []string) {
	for _, c := range columns {
		keys = append(keys, c.key)
	}
	return keys
}

// record is a line of a view.
type record []field

type field struct {
	key   string
	value any
}

func recordOf[T any](columns []column[T], t T) (r record) {
	for _, c := range columns {
		r = append(r, field{c.key, c.value(t)})
	}
	return r
}

// MarshalJSON keeps the order of the columns.
func (r record) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, f := range r {
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%c%q:%s", "{,"[min(i, 1)], f.key, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// line is a record as text.
func (r record) line() string {
	words := make([]string, len(r))
	for i, f := range r {
		switch v := f.value.(type) {
		case nil:
			words[i] = "-"
		case bool:
			words[i] = map[bool]string{true: "on", false: "off"}[v]
		case string:
			// Of these only errors could have such bytes.
			words[i] = cmp.Or(strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r < ' ' }), " "), "-")
		default:
			words[i] = fmt.Sprint(v)
		}
	}
	return strings.Join(words, "\t")
}

// printView prints tunnels in one of the views; several says that the name
// belongs before the columns.
func (a *app) printView(view string, tunnels []control.Tunnel, several bool) error {
	records := []record{}
	for _, t := range tunnels {
		if view == "dump" {
			records = append(records, recordOf(tunnelColumns, t))
		}
		for _, p := range t.Gvtep.Peers {
			records = append(records, recordOf(peerColumns, peerOfTunnel{t.Ifname, p}))
		}
	}
	for _, v := range peerViews {
		if v.name != view {
			continue
		}
		for i, r := range records {
			records[i] = slices.DeleteFunc(r, func(f field) bool {
				return !slices.Contains(v.columns, f.key) && (f.key != "ifname" || !several && !a.json)
			})
		}
	}
	if a.json {
		return a.printJSON(records)
	}
	for _, r := range records {
		if _, err := fmt.Fprintln(a.out, r.line()); err != nil {
			return err
		}
	}
	return nil
}
