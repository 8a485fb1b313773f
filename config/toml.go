package config

import (
	"errors"
	"slices"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The text of a file becomes a tree that knows where everything stands. The
// library's parser reads the text and gives the places; its decoder would keep
// those of keys only, and stop at the first error.

// span is a part of a file, in bytes.
type span struct{ from, to int }

// node is a value in a file.
type node struct {
	kind  unstable.Kind // a Table, ArrayTable, Array or scalar
	key   span          // the last part of its key; of an item: the item
	at    span
	text  string  // of a String its content, of other scalars as written
	items []*node // of an Array or ArrayTable
	table *table  // of a Table
}

// table is a table in a file.
type table struct {
	keys   []string // in the order of the file
	values map[string]*node
	origin origin
}

// origin is what made a table, which decides who may add to it.
type origin int

const (
	implicit origin = iota // [a.b] makes an a
	header                 // [a]
	dotted                 // a.b = 1
	inline                 // a = {b = 1}
)

func newTable(o origin) *table { return &table{values: map[string]*node{}, origin: o} }

func (t *table) put(key string, n *node) {
	t.keys = append(t.keys, key)
	t.values[key] = n
}

// reader builds the tree of one file.
type reader struct {
	parser unstable.Parser
	root   *table
	report func(at span, format string, args ...any)
}

// readTOML returns the tree of a text as far as it is right, and whether that
// is all of it.
func readTOML(text []byte, report func(at span, format string, args ...any)) (root *table, whole bool) {
	r := &reader{root: newTable(header), report: report}
	// Places are told by the capacity of slices.
	r.parser.Reset(slices.Clip(text))
	current := r.root
	for r.parser.NextExpression() {
		switch e := r.parser.Expression(); e.Kind {
		case unstable.KeyValue:
			if current != nil {
				r.keyValue(current, e)
			}
		case unstable.Table, unstable.ArrayTable:
			current = r.header(e)
		}
	}
	if err := r.parser.Error(); err != nil {
		var at span
		if p := new(unstable.ParserError); errors.As(err, &p) {
			at = spanOf(r.parser.Range(p.Highlight))
		}
		report(at, "this is not TOML: %s", err)
		return r.root, false
	}
	return r.root, true
}

func spanOf(r unstable.Range) span { return span{int(r.Offset), int(r.Offset + r.Length)} }

// path returns the parts of a key and where they stand.
func path(e *unstable.Node) (parts []string, at []span) {
	for it := e.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
		at = append(at, spanOf(it.Node().Raw))
	}
	return parts, at
}

// header finds or makes the table of [a.b] or [[a.b]]; nil if it may not be.
func (r *reader) header(e *unstable.Node) *table {
	parts, at := path(e)
	last := len(parts) - 1
	t := r.root
	for i, part := range parts[:last] {
		n := t.values[part]
		if n == nil {
			n = &node{kind: unstable.Table, key: at[i], at: at[i], table: newTable(implicit)}
			t.put(part, n)
		}
		if n.kind == unstable.ArrayTable {
			n = n.items[len(n.items)-1]
		}
		if n.kind != unstable.Table || n.table.origin == inline {
			r.report(at[i], "%s has a value already, it cannot be a table", plain(part))
			return nil
		}
		t = n.table
	}
	part, where := parts[last], at[last]
	n := t.values[part]
	made := &node{kind: unstable.Table, key: where, at: where, table: newTable(header)}
	switch {
	case e.Kind == unstable.ArrayTable && n == nil:
		t.put(part, &node{kind: unstable.ArrayTable, key: where, at: where, items: []*node{made}})
	case e.Kind == unstable.ArrayTable && n.kind == unstable.ArrayTable:
		n.items = append(n.items, made)
	case e.Kind == unstable.Table && n == nil:
		t.put(part, made)
	case e.Kind == unstable.Table && n.kind == unstable.Table && n.table.origin == implicit:
		n.table.origin, n.key, n.at = header, where, where
		return n.table
	case e.Kind == unstable.Table && n.kind == unstable.ArrayTable:
		r.report(where, "%[1]s is a list of tables: write [[%[1]s]]", plain(part))
		return nil
	default:
		r.report(where, "%s is given twice", plain(part))
		return nil
	}
	return made.table
}

// keyValue adds key = value to a table.
func (r *reader) keyValue(t *table, e *unstable.Node) {
	parts, at := path(e)
	last := len(parts) - 1
	for i, part := range parts[:last] {
		n := t.values[part]
		if n == nil {
			n = &node{kind: unstable.Table, key: at[i], at: at[i], table: newTable(dotted)}
			t.put(part, n)
		}
		if n.kind != unstable.Table || n.table.origin != dotted {
			r.report(at[i], "%s is given twice", plain(part))
			return
		}
		t = n.table
	}
	if t.values[parts[last]] != nil {
		r.report(at[last], "%s is given twice", plain(parts[last]))
		return
	}
	n := r.value(e.Value())
	n.key = at[last]
	if n.kind == unstable.Array || n.kind == unstable.Table {
		n.at = r.behind(e, at[last])
	}
	t.put(parts[last], n)
}

// behind is where the value of a key stands, for values of which the parser
// does not tell.
func (r *reader) behind(e *unstable.Node, key span) span {
	at := spanOf(e.Raw)
	if at.to <= key.to {
		return key
	}
	at.from = key.to
	for text := r.parser.Data(); at.from < at.to; at.from++ {
		switch text[at.from] {
		case ' ', '\t', '=':
			continue
		}
		break
	}
	return at
}

func (r *reader) value(e *unstable.Node) *node {
	n := &node{kind: e.Kind, at: spanOf(e.Raw)} // of an Array it is empty
	switch e.Kind {
	case unstable.InlineTable:
		n.kind, n.table = unstable.Table, newTable(inline)
		for it := e.Children(); it.Next(); {
			if kv := it.Node(); kv.Kind == unstable.KeyValue {
				r.keyValue(n.table, kv)
			}
		}
		// Whatever dotted keys made inside is closed as well.
		seal(n.table)
	case unstable.Array:
		for it := e.Children(); it.Next(); {
			if item := it.Node(); item.Kind != unstable.Comment {
				v := r.value(item)
				v.key = v.at
				n.items = append(n.items, v)
			}
		}
	default:
		n.text = string(e.Data)
	}
	return n
}

func seal(t *table) {
	t.origin = inline
	for _, n := range t.values {
		if n.kind == unstable.Table {
			seal(n.table)
		}
	}
}

// kindName is what a value is, for people.
func (n *node) kindName() string {
	switch n.kind {
	case unstable.Table:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	case unstable.Array:
		return "a list"
	case unstable.String:
		return "a text"
	case unstable.Bool:
		return n.text
	case unstable.Integer:
		return "a number"
	case unstable.Float:
		return "a number with a fraction"
	}
	return "a date or time"
}
